"""Differential privacy: ledger, accounting, noise. What is imported here needs no torch."""

from pilot_secure.privacy.ledger import (
    ClientLedger,
    DpSgd,
    Ledger,
    LedgerError,
    LocalNoise,
    SharedNoise,
    Unprotected,
    parse_ledger,
)
from pilot_secure.privacy.recompute import Claim, claim, recompute, understated, with_claims

__all__ = [
    "Claim",
    "ClientLedger",
    "DpSgd",
    "Ledger",
    "LedgerError",
    "LocalNoise",
    "SharedNoise",
    "Unprotected",
    "claim",
    "parse_ledger",
    "recompute",
    "understated",
    "with_claims",
]
