"""Centralized: all clients' data in one place, one model; what federation is measured against.

Nothing is exchanged, and nothing is private. As many epochs as a federation's clients train, with
the learning rate's schedule beginning again in every round as theirs does.
"""

from __future__ import annotations

from collections.abc import Sequence

from pilot_secure.federation.methods.base import Method


class Centralized(Method):
    """Connector and text adapter, trained on everybody's data (``federation.central``)."""

    name = "centralized"

    def trainers(self, cohort: Sequence[str]) -> Sequence[str]:
        """The one client that holds the data."""
        return cohort[:1]
