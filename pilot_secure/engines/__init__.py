"""Engines carry bytes between the server and the clients, and decide nothing."""

from pilot_secure.engines.in_process import InProcessTransport
from pilot_secure.engines.processes import ProcessesTransport, ProcessFailed
from pilot_secure.engines.transport import Engine, Host, Note, PhaseKey, Transport

__all__ = [
    "Engine",
    "Host",
    "InProcessTransport",
    "Note",
    "PhaseKey",
    "ProcessFailed",
    "ProcessesTransport",
    "Transport",
]
