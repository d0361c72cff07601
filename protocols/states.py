"""The transition tables of both parties: what is not in them is a typed error.

A client answers one request in each state and moves on; there is no way back, so no request can
be answered twice. An authenticated request that breaks a rule ends the attempt (``failed``). A
frame that is not the server's, or that the present state does not take, changes nothing.

``when`` says which attempts a row belongs to: those with selected sums measure distances, the
others go from the shares straight to the plan.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

When = Literal["always", "with distances", "without distances"]


@dataclass(frozen=True)
class Transition:
    """In ``state``, ``event`` leads to ``next`` and is answered by ``reply``."""

    state: str
    event: str
    next: str
    reply: str
    when: When = "always"


CLIENT: tuple[Transition, ...] = (
    Transition("idle", "advertise_request", "advertised", "advertisement"),
    Transition("advertised", "advertisements", "shared", "encrypted_shares"),
    Transition("shared", "plan", "uploaded", "masked_input", "without distances"),
    Transition("shared", "distance_call", "sketched", "distance_upload", "with distances"),
    Transition("sketched", "distance_uploads", "replied", "distance_replies", "with distances"),
    Transition("replied", "distance_delivery", "selected", "selection", "with distances"),
    Transition("selected", "plan", "uploaded", "masked_input", "with distances"),
    Transition("uploaded", "survivor_set", "confirmed", "consistency"),
    Transition("confirmed", "unmask_request", "answered", "unmask_shares"),
    Transition("answered", "delivery", "finished", "receipt"),
)

SERVER_PHASES: tuple[Transition, ...] = (
    Transition("advertise", "advertisement", "share", "advertise_request"),
    Transition("share", "encrypted_shares", "masked_input", "advertisements", "without distances"),
    Transition("share", "encrypted_shares", "distance_upload", "advertisements", "with distances"),
    Transition(
        "distance_upload", "distance_upload", "distance_reply", "distance_call", "with distances"
    ),
    Transition(
        "distance_reply", "distance_replies", "select", "distance_uploads", "with distances"
    ),
    Transition("select", "selection", "masked_input", "distance_delivery", "with distances"),
    Transition("masked_input", "masked_input", "consistency", "plan"),
    Transition("consistency", "consistency", "unmask", "survivor_set"),
    Transition("unmask", "unmask_shares", "deliver", "unmask_request"),
    Transition("deliver", "receipt", "finished", "delivery"),
)


def find(table: tuple[Transition, ...], state: str, event: str, selects: bool) -> Transition | None:
    """Return the row for an event in a state, or None."""
    other = "without distances" if selects else "with distances"
    for row in table:
        if row.state == state and row.event == event and row.when != other:
            return row
    return None


def diagram(table: tuple[Transition, ...]) -> str:
    """Return the table as a Mermaid state diagram, for the specification."""
    lines = ["stateDiagram-v2", f"    [*] --> {table[0].state}"]
    for row in table:
        note = "" if row.when == "always" else f" ({row.when})"
        lines.append(f"    {row.state} --> {row.next}: {row.event} / {row.reply}{note}")
    final = {row.next for row in table} - {row.state for row in table}
    lines.extend(f"    {state} --> [*]" for state in sorted(final))
    return "\n".join(lines)
