"""L01, L02: what the opened sums determine about one client, alone and across rounds."""

from __future__ import annotations

from pilot_secure.audit.attempts import Attempt
from pilot_secure.audit.bundle import Bundle
from pilot_secure.audit.entries import Entry
from pilot_secure.audit.rule import Options, Rule
from pilot_secure.audit.rules.shares import real_contributors
from pilot_secure.federation.messages import ClearUpdate
from protocols.identity import SERVER
from protocols.leakage import OpenedRow, View, coalitions_of, view_of


def public_rows(attempt: Attempt) -> list[OpenedRow]:
    """The opened sums as rows with equal weights, all that is public of them.

    Hidden selections are left out: who is real in them, only clients know.
    """
    p = attempt.parameters
    if p is None:
        return []
    rows = []
    planned = {item.id: item for item in attempt.plan}
    for sum_id in attempt.opened:
        if sum_id not in planned:
            continue
        spec = p.sum(sum_id)
        hidden = spec.contributors == "selected" and p.neighbour_visibility == "hidden"
        if hidden:
            continue
        real = real_contributors(attempt, planned[sum_id])
        rows.append(OpenedRow(spec.vector, spec.recipient, dict.fromkeys(real, 1.0)))
    return rows


def views_of(rows: list[OpenedRow], coalitions: list[tuple[str, ...]]) -> list[View]:
    """The server's view and that of every coalition, per vector."""
    views = []
    for vector in sorted({row.vector for row in rows}):
        clients = {name for row in rows if row.vector == vector for name in row.coefficients}
        clients |= {r.recipient for r in rows if r.vector == vector} - {SERVER}
        for viewer in [(SERVER,), *coalitions]:
            views.append(view_of(vector, clients, viewer, rows))
    return views


class L01Leverage(Rule):
    """No view of the server, or of c_max clients, comes close to one client's vector."""

    id = "L01"
    title = "rank and leverage of the server's view and of coalitions ≤ c_max, below the bound"

    def see(self, entry: Entry, attempt: Attempt | None) -> None:
        """Look for what was sent in the clear."""
        if isinstance(entry.message, ClearUpdate):
            self.checked += 1
            found = f"{entry.client}'s vectors in the clear: leverage 1"
            self.fail_at(entry, attempt, found, f"leverage {self.options.max_leverage} at most")

    def conclude(self, attempt: Attempt) -> None:
        """Judge the sums that were opened."""
        p = attempt.parameters
        if p is None or not attempt.opened:
            return
        self.judge(attempt, public_rows(attempt))
        self._judge_hidden(attempt)
        self.note("leverage with equal weights; with the private ones only `audit replay` knows it")

    def judge(self, attempt: Attempt, rows: list[OpenedRow]) -> None:
        """Compare every view's leverage on every client with the bound."""
        assert attempt.parameters is not None
        coalitions, left_out = coalitions_of(attempt.parameters)
        if left_out:
            self.lack(f"{attempt.label}: {left_out} coalitions, which are too many to judge")
        for view in views_of(rows, coalitions):
            self.checked += 1
            for victim, leverage in view.leverage.items():
                if leverage > self.options.max_leverage:
                    who = " and ".join(view.viewer)
                    found = f"{who} knows {view.vector} of {victim} to leverage {leverage:.3f}"
                    expected = f"{self.options.max_leverage} at most"
                    self.fail(attempt.label, attempt.last_seq, found, expected)

    def _judge_hidden(self, attempt: Attempt) -> None:
        """Bound what a hidden sealed sum tells: at least min − 1 real neighbours are in it."""
        p = attempt.parameters
        assert p is not None
        hidden = p.selects and p.neighbour_visibility == "hidden"
        if not hidden or not attempt.sealed_delivered or not p.max_colluders:
            return
        self.checked += 1
        others = p.min_contributors - 1 - (p.max_colluders - 1)
        bound = min(1.0, p.max_colluders / others) if others > 0 else 1.0
        if bound > self.options.max_leverage:
            found = f"sealed sums may have {others} unknown neighbours: leverage up to {bound:.2f}"
            expected = f"{self.options.max_leverage} at most"
            self.fail(attempt.label, attempt.last_seq, found, expected)


class L02Differencing(Rule):
    """No two consecutive sums for the server are over sets that differ by one client."""

    id = "L02"
    title = "set differencing across rounds"
    compares = True

    def __init__(self, bundle: Bundle, options: Options) -> None:
        super().__init__(bundle, options)
        self._before: dict[str, tuple[str, tuple[str, ...]]] = {}

    def conclude(self, attempt: Attempt) -> None:
        """Compare each opened sum for all with the one before."""
        planned = {item.id: item for item in attempt.plan}
        for sum_id in attempt.opened:
            if sum_id not in planned or planned[sum_id].recipient != SERVER:
                continue
            self.checked += 1
            now = real_contributors(attempt, planned[sum_id])
            label, before = self._before.get(sum_id, (attempt.label, now))
            self._before[sum_id] = (attempt.label, now)
            apart = sorted(set(now) ^ set(before))
            if len(apart) == 1:
                found = f"{sum_id} over sets of {label} and of now that differ by {apart[0]}"
                expected = "equal sets, or two clients apart: else both tell nearly one vector"
                self.fail(attempt.label, attempt.last_seq, found, expected)
