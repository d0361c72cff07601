"""What a preset makes of a row: a configuration for each scenario, sizes, and tuned settings."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.cells import ROOT, Cell, merged
from benchmarks.tables.layouts import GENERAL, SHIFT, VISUAL, Row
from pilot_secure.config_file import read_config_file

TUNED = ROOT / "configs" / "tuned"


@dataclass(frozen=True)
class Preset:
    """Configuration files by scenario, and settings on top of them."""

    files: dict[str, str]
    settings: dict[str, Any] = field(default_factory=dict)
    tuned: str | None = None

    def cell(self, scenario: str, row: Row, seed: int, *, secure: bool, tuned: bool = True) -> Cell:
        """Return a row's cell: the scenario's file, the method's tuned values, the row's own."""
        layers = [
            read_config_file(ROOT / "configs" / self.files[scenario]),
            self.tuned_settings(scenario, row.tuned or row.method) if tuned else {},
            self.settings,
            {"federation": {"method": row.method, "score_base": row.method == "local"}},
            row.settings,
            {"run": {"seed": seed}, "security": {"secure_agg": secure and exchanges(row.method)}},
        ]
        return Cell(f"{row.label}, {scenario}, seed {seed}", merged(*layers))

    def tuned_settings(self, scenario: str, name: str) -> dict[str, Any]:
        """Return the chosen settings of a method or form of it; nothing where it was not tuned."""
        path = self.tuned_file(scenario, name)
        if path is None:
            return {}
        content = read_config_file(path)
        return {s: content[s] for s in ("training", "methods", "federation") if s in content}

    def tuned_file(self, scenario: str, name: str) -> Path | None:
        """Return the tuned configuration of a method or form of it, None where there is none."""
        path = TUNED / self.tuned / scenario / f"{name}.yaml" if self.tuned else None
        return path if path is not None and path.exists() else None

    def is_tuned(self, scenario: str, row: Row) -> bool:
        """Whether there are tuned settings for a row's method."""
        return self.tuned_file(scenario, row.tuned or row.method) is not None


def exchanges(method: str) -> bool:
    """Whether a method sends anything that could be protected."""
    return method not in ("local", "centralized")


_EMBEDDED = {scenario: f"{scenario}.yaml" for scenario in (VISUAL, GENERAL, SHIFT)}
_FAST = {"security": {"keep_payloads": False}}

PRESETS = {
    "embedded": Preset(
        files=_EMBEDDED,
        settings=merged(_FAST, {"data": {"test_samples": 300}}),
        tuned="embedded",
    ),
    "paper": Preset(
        files={
            VISUAL: "llava-1.5-7b-visual-understanding.yaml",
            GENERAL: "llava-1.5-7b-general-vqa.yaml",
        },
        settings=_FAST,
        tuned="paper",
    ),
    "smoke": Preset(
        files=_EMBEDDED,
        settings=merged(
            _FAST,
            {
                "data": {"samples_per_client": 4, "test_samples": 2},
                "model": {"lora_rank": 2, "max_new_tokens": 2},
                "federation": {"rounds": 2},
                "security": {"sketch_size": 64},
            },
        ),
    ),
}
