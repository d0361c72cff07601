"""A client that has a process for each message: everything it is lies in its folder in between.

Every reply is kept, with what the client must not forget, before it leaves; the same request gets
the same reply. Only training, scoring and the clear exchange load the model and torch; what an
aggregation gave is kept, and taken home when the model is loaded next.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from pilot_secure.engines import PhaseKey
from pilot_secure.federation import checkpoint
from pilot_secure.federation.guard import DiskGuard
from pilot_secure.federation.journal import RelayedJournal
from pilot_secure.federation.messages import (
    Done,
    Enrol,
    FederationMessageError,
    open_frame,
    run_of,
    seal,
)
from pilot_secure.federation.participant import BROKEN_RULES, Briefing, Participant
from pilot_secure.files import sweep
from pilot_secure.flower.party_folder import PartyFolder
from pilot_secure.run_folder import RunFolder
from protocols import AggregationResult, ClientInputs
from protocols.identity import SERVER

ENROL = "enrol"
WITH_MODEL = frozenset({"train", "evaluate", "clear_update", "clear_deliver"})
BRIEFING, AGGREGATION, RESULT, NOTES = "briefing", "aggregation", "result", "notes"


class Party:
    """One client, as its folder remembers it. Raises: RunFolderError for a folder that is none."""

    def __init__(self, folder: PartyFolder) -> None:
        self.folder = folder
        self.name = folder.identity.name

    def handle(self, phase: PhaseKey, request: bytes) -> tuple[bytes, tuple[str, ...]]:
        """Answer one request; return the reply and the lines that the client reports of itself.

        Raises: UsageError where its folder, data or model cannot be used.
        """
        with self.folder.locked():
            if phase.name == ENROL:
                return self._enrol(phase, request), ()
            run_id = self.folder.run_id
            if run_id is None:
                raise FederationMessageError(f"{SERVER}: {phase.name} before any run")
            part = PartInRun(self.folder, run_id)
            if phase.name in WITH_MODEL:
                from pilot_secure.flower.with_model import answer

                return answer(part, phase, request)
            return part.aggregate(phase, request), ()

    def _enrol(self, phase: PhaseKey, request: bytes) -> bytes:
        """Join a run whose configuration, terms and roster are this party's own."""
        from pilot_secure.flower.terms import agreed_digest

        run_id = run_of(request)
        message = open_frame(request, self.folder.roster, SERVER, run_id)
        if not isinstance(message, Enrol):
            raise FederationMessageError(f"{SERVER}: {message.kind} is no enrolment")
        part = PartInRun(self.folder, run_id)
        if message.agreed != agreed_digest(self.folder):
            error = FederationMessageError(
                f"{self.name} has another configuration, roster or terms than {SERVER}: expected "
                "the files that all parties agreed on"
            )
            return part.participant.refuse(phase, run_id, error)
        self.folder.join(run_id)
        done = Done(run_id=run_id, round=0, stage=0, sender=self.name, recipient=SERVER)
        return seal(done, self.folder.identity)


class PartInRun:
    """What a party holds of one run."""

    def __init__(self, folder: PartyFolder, run_id: str) -> None:
        self.party, self.run_id, self.name = folder, run_id, folder.identity.name
        self.path = folder.run_folder(run_id)
        self.state = RunFolder(self.path).state_folder(self.name)
        self.notes: list[tuple[str, tuple[Any, ...]]] = []
        sweep(self.state)  # this process has the party's lock
        self._guard = DiskGuard(self.state)
        self._same = {"identity": folder.identity, "roster": folder.roster, "guard": self._guard}
        self.participant = Participant(
            folder.identity,
            folder.roster,
            self._guard,
            RelayedJournal(self.notes.append),
            max_attempts=1,
        )

    # Between trainings

    def aggregate(self, phase: PhaseKey, request: bytes) -> bytes:
        """Answer one request of an aggregation, without model or torch."""
        participant = self.participant
        try:
            briefing, replies = self._briefing(), self._recall()
            digest = hashlib.sha256(request).digest()
            if digest in replies:
                return replies[digest]
            reply = participant.handle(phase, request, briefing.of_attempt)
        except BROKEN_RULES as error:
            return participant.refuse(phase, self.run_id, error)
        if participant.result is not None:
            self._keep(RESULT, participant.result)
        replies[digest] = reply
        self._keep(AGGREGATION, {"replies": replies, "part": checkpoint.memory_of(participant)})
        self.keep_notes()
        return reply

    def _briefing(self) -> Briefing:
        if not (self.state / BRIEFING).exists():
            raise FederationMessageError(f"{SERVER}: an aggregation before any training")
        kept = checkpoint.load(self.state / BRIEFING)
        briefing = Briefing(kept["parameters"], ClientInputs(**kept["inputs"]))
        self._same["inputs"] = briefing.inputs  # once in its own file, not with every phase
        self.participant.max_attempts = kept["max_attempts"]
        return briefing

    def _recall(self) -> dict[bytes, bytes]:
        """Put the machine back; return the replies that were given since the last training."""
        if not (self.state / AGGREGATION).exists():
            return {}
        kept = checkpoint.load(self.state / AGGREGATION, self._same)
        checkpoint.recall(self.participant, kept["part"])
        replies: dict[bytes, bytes] = kept["replies"]
        return replies

    def _keep(self, name: str, content: Any) -> None:
        checkpoint.save(self.state / name, content, self._same)

    # Around a training

    def brief(self, briefing: Briefing, max_attempts: int) -> None:
        """Take from a training what the aggregation after it needs."""
        kept = {
            "parameters": briefing.parameters,
            "inputs": dict(vars(briefing.inputs)),  # its vectors, too
            "max_attempts": max_attempts,
        }
        checkpoint.save(self.state / BRIEFING, kept)

    def result(self) -> AggregationResult | None:
        """What the aggregation after the last training gave, if it came to its end."""
        path = self.state / RESULT
        return checkpoint.load(path) if path.exists() else None

    def forget_aggregation(self) -> None:
        """Forget the aggregation before a training that is over."""
        for name in (RESULT, AGGREGATION):
            checkpoint.delete(self.state, name)

    def keep_notes(self) -> None:
        """Keep what the client noted down, for itself and for whoever gathers a simulation."""
        if self.notes:
            folder = self.path / NOTES
            count = sum(1 for _ in folder.glob("*")) if folder.exists() else 0
            checkpoint.save(folder / f"{count:06d}", self.notes, durable=False)
            self.notes.clear()


def open_party(path: Path) -> Party:
    """Return the party of a folder."""
    return Party(PartyFolder(path))
