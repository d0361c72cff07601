"""The federated methods: what each trains, sends and combines."""

from pilot_secure.federation.methods.base import Method
from pilot_secure.federation.methods.local import Local
from pilot_secure.federation.methods.pilot import Pilot

METHODS: dict[str, type[Pilot] | type[Local]] = {Pilot.name: Pilot, Local.name: Local}

__all__ = ["METHODS", "Local", "Method", "Pilot"]
