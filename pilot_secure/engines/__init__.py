"""Engines carry bytes between the server and the clients, and decide nothing.

What needs Ray is in `ray_actors`, which is imported where it is asked for.
"""

from pilot_secure.engines.in_process import InProcessTransport
from pilot_secure.engines.processes import ProcessesTransport
from pilot_secure.engines.transport import Engine, Host, Note, PhaseKey, Transport
from pilot_secure.engines.workers import WorkerFailed

__all__ = [
    "Engine",
    "Host",
    "InProcessTransport",
    "Note",
    "PhaseKey",
    "ProcessesTransport",
    "Transport",
    "WorkerFailed",
]
