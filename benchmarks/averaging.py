"""How far is averaging LoRA's A and B from averaging what they stand for, ΔW = B A?

    python -m benchmarks.averaging RUN [--num-neighbours 6] [--json FILE]

On the text adapters that a finished run's clients saved (a run of ``local`` has every client's
own): for every layer, the mean of A times the mean of B against the mean of B A, over all clients
and within each task. Printed are the relative error ‖mean(B) mean(A) − mean(B A)‖ / ‖mean(B A)‖
of the whole adapter, its cosine, and the ratio of norms; and what literal Eq. 12 does to them: A
and B both scaled by the sum of its coefficients.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.arguments import positive_int
from pilot_secure import entry_point
from pilot_secure.files import write_atomically
from pilot_secure.saved_run import SavedRun

Adapter = dict[str, Tensor]


@entry_point.main
def main(argv: Sequence[str] | None = None) -> None:
    options = _options(argv)
    _report(SavedRun.open(options.run), options.num_neighbours, options.json)


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="run folder, best of --method local")
    parser.add_argument("--num-neighbours", type=positive_int, default=6, help="M of Eq. 12")
    parser.add_argument("--json", type=Path, default=None, help="write the figures here, too")
    return parser.parse_args(argv)


def _report(run: SavedRun, m: int, file: Path | None) -> None:
    run.require_adapters()
    adapters = {client: run.text_adapter(client) for client in run.clients}
    tasks: dict[str, list[Adapter]] = {}
    for client in run.summary.clients:
        tasks.setdefault(client.task, []).append(adapters[client.client])
    print(f"{'clients':34}{'error':>8}{'cosine':>8}{'norm':>8}")
    groups = {f"{task} ({len(group)} clients)": group for task, group in tasks.items()}
    groups[f"all {len(adapters)}"] = list(adapters.values())
    found = []
    for name, group in groups.items():
        error, cosine, norm = apart(group)
        found.append({"clients": name, "error": error, "cosine": cosine, "norm": norm})
        print(f"{name:34}{error:8.3f}{cosine:8.3f}{norm:8.3f}")
    if file:
        write_atomically(file, json.dumps({"groups": found}, indent=1).encode() + b"\n")
    print(
        f"Eq. 12 as printed, equal n, M = {m}: coefficients add up to 2/{m + 1} = "
        f"{2 / (m + 1):.3f}, so A and B shrink to that and ΔW to {(2 / (m + 1)) ** 2:.3f} a round"
    )


def products(adapter: Adapter) -> list[Tensor]:
    """Return ΔW = B A of every layer, [out, in], without LoRA's constant scale."""
    return [
        adapter[name.replace("lora_A", "lora_B")].double() @ tensor.double()
        for name, tensor in sorted(adapter.items())
        if "lora_A" in name
    ]


def apart(group: Sequence[Adapter]) -> tuple[float, float, float]:
    """Return relative error, cosine and ratio of norms of the product of means to the mean."""
    mean = {name: torch.stack([a[name].double() for a in group]).mean(0) for name in group[0]}
    averaged = products(mean)
    exact = [torch.stack(layers).mean(0) for layers in zip(*map(products, group), strict=True)]
    squares = sum(float(layer.square().sum()) for layer in exact)
    error = sum(float((a - b).square().sum()) for a, b in zip(averaged, exact, strict=True))
    dot = sum(float((a * b).sum()) for a, b in zip(averaged, exact, strict=True))
    norm = math.sqrt(sum(float(layer.square().sum()) for layer in averaged))
    reference = math.sqrt(squares)
    return math.sqrt(error) / reference, dot / (norm * reference), norm / reference


if __name__ == "__main__":
    raise SystemExit(main())
