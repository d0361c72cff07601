"""Engines carry bytes between the server and the clients, and decide nothing."""

from pilot_secure.engines.in_process import InProcessTransport
from pilot_secure.engines.transport import PhaseKey, Transport

__all__ = ["InProcessTransport", "PhaseKey", "Transport"]
