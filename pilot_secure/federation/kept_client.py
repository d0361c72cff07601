"""A client whose answers outlive its process.

After a phase that changed it, and before its reply leaves, the client's memory and the reply are
written to its own folder. If the process is killed, the next one recalls them: the same request
gets the same reply without any work, so that whoever asks again loses nothing and learns nothing
new. An aggregation that nobody has been asked to open yet is not kept, and starts afresh with new
keys; the keys of one that is being opened are deleted with its result.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from pilot_secure.engines import PhaseKey
from pilot_secure.federation import checkpoint
from pilot_secure.federation.client import FederationClient
from pilot_secure.federation.journal import Journal, RelayedJournal, take_note

MEMORY, ADAPTERS = "memory", "adapters-{}"
CHANGES_ADAPTERS = frozenset({"train", "deliver", "clear_deliver"})
KEPT_PHASES = CHANGES_ADAPTERS | {"clear_update", "consistency", "unmask"}
"""Other phases leave nothing that must outlive a kill, but ``evaluate`` if it brought means."""


class NotedJournal(RelayedJournal):
    """A journal that passes entries on at once, and remembers those of the present request."""

    def __init__(self, journal: Journal) -> None:
        self.notes: list[tuple[str, tuple[Any, ...]]] = []
        self._journal = journal
        super().__init__(self._take)

    def _take(self, note: tuple[str, tuple[Any, ...]]) -> None:
        if note[0] != "progress":
            self.notes.append(note)
        take_note(self._journal, note)

    def enter_again(self, notes: list[tuple[str, tuple[Any, ...]]]) -> None:
        """Enter what may not have arrived before the process was killed."""
        for note in notes:
            take_note(self._journal, note)


class KeptClient:
    """A client and its folder, which is empty at first; ``left_out`` as in `checkpoint.save`.

    Raises: RunFolderError if the folder holds something else than this client's memory.
    """

    def __init__(
        self,
        client: FederationClient,
        journal: NotedJournal,
        folder: Path,
        left_out: dict[str, object],
    ) -> None:
        self._client, self._journal, self._folder = client, journal, folder
        self._left_out = left_out
        self._replies: dict[bytes, bytes] = {}
        self._adapters = 0
        if (folder / MEMORY).exists():
            self._recall()

    def _recall(self) -> None:
        kept = checkpoint.load(self._folder / MEMORY, self._left_out)
        self._replies, self._adapters = kept["replies"], kept["adapters"]
        state = checkpoint.load(self._folder / ADAPTERS.format(self._adapters))
        checkpoint.recall(self._client, kept["client"] | {"state": state})
        self._journal.enter_again(kept["notes"])

    def handle(self, phase: PhaseKey, request: bytes) -> bytes:
        """Answer one request; one that was answered since the last training gets that reply."""
        digest = hashlib.sha256(request).digest()
        if digest in self._replies:
            return self._replies[digest]
        self._journal.notes.clear()
        absorbed = self._client.absorbed
        reply = self._client.handle(phase, request)
        caught_up = phase.name == "evaluate" and self._client.absorbed != absorbed
        if caught_up or phase.name in KEPT_PHASES:
            if phase.name == "train":
                self._replies.clear()
            self._replies[digest] = reply
            if phase.name != "deliver" or not self._client.aggregating:  # all parts have come
                self._keep(caught_up or phase.name in CHANGES_ADAPTERS)
        return reply

    def _keep(self, adapters_changed: bool) -> None:
        """Write adapters under a new name if they changed, then the memory that names them."""
        memory = checkpoint.memory_of(self._client)
        state = memory.pop("state")
        before = self._adapters
        if adapters_changed or not before:
            self._adapters += 1
            checkpoint.save(self._folder / ADAPTERS.format(self._adapters), state)
        content = {
            "replies": self._replies,
            "adapters": self._adapters,
            "client": memory,
            "notes": self._journal.notes,
        }
        path = self._folder / MEMORY
        checkpoint.save(path, content, self._left_out, durable=adapters_changed)
        if before != self._adapters:
            checkpoint.delete(self._folder, ADAPTERS.format(before))
