"""The settings of a row that tuning, or the row itself, decides."""

from __future__ import annotations

from pilot_secure.config import SimulationConfig

_OWN = {
    "fedprox": {"μ": "proximal_weight"},
    "fedadam": {"η": "server_learning_rate"},
    "feddpa": {"λ": "feddpa_max_weight"},
}


def shown_settings(config: SimulationConfig, *, tuned: bool) -> dict[str, str]:
    """Return learning rates, and the method's own setting, by their names, and where from."""
    training, federation = config.training, config.federation
    rates = dict.fromkeys((training.learning_rate_stage1, training.learning_rate_stage2))
    shown = {
        "LoRA rate": ", ".join(f"{rate:g}" for rate in rates),
        "connector rate": f"{training.connector_rate_factor:g} ×",
    }
    own = {
        sign: f"{getattr(config.methods, name):g}"
        for sign, name in _OWN.get(federation.method, {}).items()
    }
    if config.selects_neighbours:
        own["M"] = str(federation.num_neighbours)
    shown["own"] = ", ".join(f"{sign} {value}" for sign, value in own.items()) or "–"
    return {**shown, "tuned": "yes" if tuned else "no"}
