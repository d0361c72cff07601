"""Tools of a cheating server or client: open an honest frame, change it, sign it again."""

from __future__ import annotations

from collections.abc import Callable

import clear_distances
from in_process import Federation

from protocols import SERVER
from protocols.frame import open_frame, seal
from protocols.messages import Message

VICTIM = "client-03"


def plain(count: int = 5, **options: object) -> Federation:
    """One sum for all, no distances."""
    return Federation(count=count, plain=True, options=options)


def pilot(monkeypatch, **options: object) -> Federation:
    """Nine clients with task sums and sealed sums, on distances that cost nothing."""
    clear_distances.install(monkeypatch)
    return Federation(options=options)


def read(federation: Federation, sender: str, frame: bytes) -> Message:
    return open_frame(frame, federation.roster, sender, "test")


def server_says(federation: Federation, frame: bytes, **changes: object) -> bytes:
    """The server's request with other content, properly signed by the server."""
    message = read(federation, SERVER, frame)
    return seal(message.model_copy(update=changes), federation.server_identity)


def client_says(federation: Federation, name: str, frame: bytes, **changes: object) -> bytes:
    """A client's or the key holder's reply with other content, properly signed by it."""
    message = read(federation, name, frame)
    return seal(message.model_copy(update=changes), federation.identity(name))


def cheat_at(
    federation: Federation, phase: str, victim: str, change: Callable[[Message], dict[str, object]]
) -> Callable[[str, str, bytes], bytes]:
    """An interference that rewrites the server's request to one client in one phase."""

    def interfere(present: str, name: str, frame: bytes) -> bytes:
        if (present, name) != (phase, victim):
            return frame
        return server_says(federation, frame, **change(read(federation, SERVER, frame)))

    return interfere
