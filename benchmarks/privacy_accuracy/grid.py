"""The grid of a benchmark: methods, protections, seeds, and the cells they make."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field

from benchmarks.cells import Cell, merged
from pilot_secure.config import MethodName
from pilot_secure.config_section import PositiveInt, Section

Positive = Annotated[float, Field(gt=0)]
EXCHANGING = ("pilot", "fedavg", "task_fedavg", "fedprox", "fedadam", "shepherd", "feddpa")


class GridConfig(Section):
    """What a benchmark compares; the settings are those of a simulation's configuration.

    ``private`` comes on top under example-level noise, ``client_private`` under client-level noise.
    ``price`` adds one run of each protection of the first method that exchanges anything.
    """

    methods: tuple[MethodName, ...]
    seeds: PositiveInt = 5
    example_epsilons: tuple[Positive, ...] = ()
    client_epsilons: tuple[Positive, ...] = ()
    price: bool = True
    settings: dict[str, Any] = {}
    private: dict[str, Any] = {}
    client_private: dict[str, Any] = {}


@dataclass(frozen=True)
class Protection:
    """How a run is protected; ``epsilon`` is the target, None without noise."""

    name: str
    unit: str | None = None
    epsilon: float | None = None

    @property
    def label(self) -> str:
        """For tables."""
        return self.name if self.epsilon is None else f"{self.name} ε = {self.epsilon:g}"


CLEAR, SECURE = Protection("clear"), Protection("secure")
PRICED: Mapping[str, Mapping[str, Any]] = {
    "clear": {"security": {"secure_agg": False}},
    "visible": {"security": {"secure_agg": True, "neighbour_visibility": "visible"}},
    "hidden, peer": {"security": {"secure_agg": True, "neighbour_visibility": "hidden"}},
    "key holder": {"security": {"secure_agg": True, "distance_trust": "key_holder"}},
}


def protections(grid: GridConfig, method: str) -> list[Protection]:
    """The protections that make sense for a method: what sends nothing needs no masks."""
    sends = method in EXCHANGING
    found = [CLEAR, SECURE] if sends else [CLEAR]
    if method != "centralized":
        found += [Protection("example-level", "example", e) for e in grid.example_epsilons]
    if sends:
        found += [Protection("client-level", "client", e) for e in grid.client_epsilons]
    return found


def cell(grid: GridConfig, method: str, protection: Protection, seed: int) -> Cell:
    """One run of the grid; with noise, also under secure aggregation where anything is sent."""
    layers: list[Mapping[str, Any]] = [
        grid.settings,
        {"federation": {"method": method}, "run": {"seed": seed}},
        {"security": {"secure_agg": protection.name != "clear" and method in EXCHANGING}},
    ]
    if protection.unit is not None:
        layers.append(grid.private if protection.unit == "example" else grid.client_private)
        noise = {"unit": protection.unit, "target_epsilon": protection.epsilon}
        layers.append({"privacy": noise})
    return Cell(f"{method}, {protection.label}, seed {seed}", merged(*layers))


def priced_cells(grid: GridConfig) -> dict[str, Cell]:
    """One run of each protection of one method, seed 0, by the name of the protection."""
    method = next((m for m in grid.methods if m in EXCHANGING), None)
    if not grid.price or method is None:
        return {}
    found = {
        name: Cell(
            f"price of {name}",
            merged(grid.settings, {"federation": {"method": method}, "run": {"seed": 0}}, layer),
        )
        for name, layer in PRICED.items()
        if method == "pilot" or name in ("clear", "hidden, peer")
    }
    for protection in protections(grid, method):
        if protection.unit is not None:
            found[protection.label] = cell(grid, method, protection, 0)
    return found
