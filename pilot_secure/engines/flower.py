"""Flower's Message API as an engine: a SuperNode for each client, between organisations.

This file alone knows both this project's phases and Flower's messages. It needs ``flwr``, which
the default installation lacks. A message holds one frame as an array record of chunks, the phase
as a config record, and, in replies of clients that report metrics, those.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid

from pilot_secure.engines.chunks import chunk_names, chunks_of, frame_of, phase_of, phase_values
from pilot_secure.engines.transport import PhaseKey

FRAME, PHASE, METRICS = "frame", "phase", "metrics"
MESSAGE_TYPES = {"train": "train", "evaluate": "evaluate"}
"""Flower's names for what a phase is; all others are its ``query``."""
POLL_S = 0.2
_STYPE = "bytes"

Reported = Callable[[str, tuple[str, ...]], None]
"""Takes what a client reports of itself besides its reply: (client, lines of its history)."""


def pack(frame: bytes, phase: PhaseKey | None = None, metrics: Iterable[str] = ()) -> RecordDict:
    """Return the content of a message: a frame, a request's phase, a reply's metrics."""
    pieces = list(chunks_of(frame))
    arrays = {
        name: Array(dtype="uint8", shape=(len(piece),), stype=_STYPE, data=piece)
        for name, piece in zip(chunk_names(len(pieces)), pieces, strict=True)
    }
    content = RecordDict({FRAME: ArrayRecord(arrays)})
    if phase is not None:
        content[PHASE] = ConfigRecord(phase_values(phase))
    lines = list(metrics)
    if lines:
        content[METRICS] = ConfigRecord({"lines": lines})
    return content


def unpack(content: RecordDict) -> bytes:
    """Return the frame in a message. Raises: ValueError if there is none."""
    arrays = content.array_records.get(FRAME)
    if arrays is None:
        raise ValueError("a message without a frame")
    return frame_of({str(name): array.data for name, array in arrays.items()})


def unpack_phase(content: RecordDict) -> PhaseKey:
    """Return a request's phase. Raises: ValueError if there is none."""
    record = content.config_records.get(PHASE)
    if record is None:
        raise ValueError("a message without a phase")
    return phase_of(dict(record))


def unpack_metrics(content: RecordDict) -> tuple[str, ...]:
    """Return what a reply reports. Raises: ValueError if it is no list of lines."""
    record = content.config_records.get(METRICS)
    if record is None:
        return ()
    lines = record.get("lines")
    if not isinstance(lines, list) or not all(isinstance(line, str) for line in lines):
        raise ValueError("metrics: expected a list of lines")
    return tuple(str(line) for line in lines)


def await_nodes(grid: Grid, count: int, timeout_s: float) -> list[int]:
    """Wait until as many nodes are there; when the time is out, go on with those that are."""
    deadline = time.monotonic() + timeout_s
    while len(nodes := sorted(grid.get_node_ids())) < count and time.monotonic() < deadline:
        time.sleep(POLL_S)
    return nodes


class FlowerTransport:
    """The clients behind a Flower grid, by name; ``nodes`` says which node is whose.

    A client whose message does not come in time, whose node is gone or whose app raised has
    dropped out. A request that was not fetched in time is not delivered later. Hosts start and
    end with their nodes, so there is nothing to finish here; peak memory is not known.
    """

    def __init__(
        self,
        grid: Grid,
        nodes: Mapping[str, int],
        *,
        reports: Iterable[Any] = (),
        reported: Reported = lambda client, lines: None,
    ) -> None:
        self._grid, self._nodes, self._reported = grid, dict(nodes), reported
        self.reports: list[Any] = list(reports)

    def exchange(
        self, phase: PhaseKey, requests: Mapping[str, bytes], timeout_s: float
    ) -> dict[str, bytes | None]:
        """Send every request as a message of its own, and wait for the replies."""
        deadline = time.monotonic() + timeout_s
        replies: dict[str, bytes | None] = dict.fromkeys(requests)
        waiting = self._send(phase, requests, timeout_s)
        while waiting and time.monotonic() < deadline:
            for reply in self._grid.pull_messages(list(waiting)):
                client = waiting.pop(reply.metadata.reply_to_message_id, None)
                if client is not None and not reply.has_error():
                    replies[client] = self._open(client, reply)
            if waiting:
                time.sleep(POLL_S)
        return replies

    def _send(
        self, phase: PhaseKey, requests: Mapping[str, bytes], timeout_s: float
    ) -> dict[str, str]:
        """Return whose reply is awaited, by the message's id."""
        waiting = {}
        for client, request in requests.items():
            if client not in self._nodes:
                continue
            message = Message(
                pack(request, phase),
                dst_node_id=self._nodes[client],
                message_type=MESSAGE_TYPES.get(phase.name, "query"),
                ttl=timeout_s,
                group_id=f"{phase.round}",
            )
            (*sent,) = self._grid.push_messages([message])
            if sent and sent[0] is not None:
                waiting[sent[0]] = client
        return waiting

    def _open(self, client: str, reply: Message) -> bytes | None:
        """Return a reply's frame; None where it is no message of ours."""
        try:
            frame, lines = unpack(reply.content), unpack_metrics(reply.content)
            if lines:
                self._reported(client, lines)
        except ValueError:
            return None
        return frame

    def finish(self, timeout_s: float) -> int:
        """Clients save their adapters after scoring; their memory is not known here."""
        return 0

    def close(self) -> None:
        """The nodes end with their own processes."""
