"""Local: every client trains by itself; nothing is exchanged."""

from __future__ import annotations

from pilot_secure.federation.methods.base import Method


class Local(Method):
    """Connector and text adapter, trained on the client's own data alone."""

    name = "local"
