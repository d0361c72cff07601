"""Secure aggregation and encrypted distances as sans-IO state machines."""

from protocols.client import AggregationClient
from protocols.client_states import (
    AggregationResult,
    AnswerGuard,
    ClientInputs,
    Contribution,
    MemoryGuard,
    SealedSum,
)
from protocols.entropy import DeterministicEntropy, Entropy
from protocols.errors import (
    AttemptAborted,
    AttemptRefused,
    InputError,
    LocalProtocolError,
    ParameterError,
    PeerError,
    ProtocolError,
)
from protocols.holder import AggregationKeyHolder
from protocols.identity import KEY_HOLDER, SERVER, Identity, Roster, RosterEntry
from protocols.parameters import AggregationParameters, SumSpec, smallest_threshold
from protocols.results import results_hash
from protocols.selection import personalise
from protocols.server import AggregationReport, AggregationServer

__all__ = [
    "KEY_HOLDER",
    "SERVER",
    "AggregationClient",
    "AggregationKeyHolder",
    "AggregationParameters",
    "AggregationReport",
    "AggregationResult",
    "AggregationServer",
    "AnswerGuard",
    "AttemptAborted",
    "AttemptRefused",
    "ClientInputs",
    "Contribution",
    "DeterministicEntropy",
    "Entropy",
    "Identity",
    "InputError",
    "LocalProtocolError",
    "MemoryGuard",
    "ParameterError",
    "PeerError",
    "ProtocolError",
    "Roster",
    "RosterEntry",
    "SealedSum",
    "SumSpec",
    "personalise",
    "results_hash",
    "smallest_threshold",
]
