"""Opacus's PRV accountant (Gopi et al. 2021) as a cross-check. Opacus needs torch."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

from pilot_secure.privacy.events import Mechanism


def prv_epsilon(mechanisms: Sequence[Mechanism], delta: float, *, error: float = 1e-2) -> float:
    """Epsilon under ``zero_out``, an upper bound within ``error``."""
    from opacus.accountants import PRVAccountant

    accountant = PRVAccountant()
    accountant.history = [(m.noise_multiplier, m.sampling_rate, m.count) for m in mechanisms]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return float(accountant.get_epsilon(delta, eps_error=error))
