"""What do connector and LoRA each contribute, where the base passes colours on and where not?

    python -m benchmarks.visual_shift [--seeds 3] [--out runs/figures]

On the data of configs/visual-shift.yaml, for the first client of every task: its score by the base
model as it is, after training the connector alone, LoRA alone, and both, on its own samples (three
epochs, one learning rate for all). Once with the embedded base model and once with the same one
blind to colours. No federated method takes part. Writes visual-shift.json and visual-shift.md.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from statistics import fmean, stdev

import torch

from benchmarks.arguments import positive_int
from benchmarks.cells import ROOT
from benchmarks.sharing_within_a_task import Bench, Part
from pilot_secure import entry_point
from pilot_secure.colour_blind import IMAGES, colour_erasure
from pilot_secure.config import SimulationConfig
from pilot_secure.config_checks import validate
from pilot_secure.config_file import read_config_file
from pilot_secure.files import write_atomically
from pilot_secure.libraries import quieten_libraries
from pilot_secure.models import load_base
from pilot_secure.pretraining.erasure import without
from pilot_secure.run_data import load_data

CONFIG = ROOT / "configs" / "visual-shift.yaml"
PARTS: dict[str, tuple[Part, ...] | None] = {
    "base": None,
    "connector only": ("connector",),
    "LoRA only": ("LoRA",),
    "both": ("connector", "LoRA"),
}
BASES = ("passes colours", "colour-blind")

Scores = dict[str, dict[str, dict[str, list[float]]]]  # by base, task and parts: one a seed


@entry_point.main
def main() -> None:
    options = _options()
    quieten_libraries()
    torch.set_num_threads(options.threads)
    found: Scores = {}
    for seed in range(options.seeds):
        settings = {"run": {"seed": seed}, "model": {"base": options.base}}
        for base, tasks in measure(settings, options).items():
            for task, scores in tasks.items():
                for parts, value in scores.items():
                    own = found.setdefault(base, {}).setdefault(task, {})
                    own.setdefault(parts, []).append(value)
    text = markdown(found)
    content = json.dumps({"seeds": options.seeds, "scores": found}, indent=1)
    write_atomically(options.out / "visual-shift.json", content.encode() + b"\n")
    write_atomically(options.out / "visual-shift.md", text.encode())
    print(text)


def measure(
    settings: Mapping[str, object], options: argparse.Namespace
) -> dict[str, dict[str, dict[str, float]]]:
    """Return one seed's scores by base, task and trained parts."""
    data = {**read_config_file(CONFIG)["data"], "test_samples": options.test_samples}
    if options.samples:
        data["samples_per_client"] = options.samples
    config = validate(SimulationConfig, {**settings, "data": data}, file=CONFIG.name)
    first = {client.task: client for client in reversed(load_data(config)[0])}
    bench = Bench(config.model.base, read_config_file(CONFIG)["training"]["connector_rate_factor"])
    sighted = bench.connector
    model, _ = load_base(config.model.base)
    connectors = (sighted, without(sighted, colour_erasure(model, images=options.images)))
    scores: dict[str, dict[str, dict[str, float]]] = {}
    for base, connector in zip(BASES, connectors, strict=True):
        bench.connector = connector
        for client in reversed(first.values()):
            row = scores.setdefault(base, {}).setdefault(client.task, {})
            for name, parts in PARTS.items():
                teachers = [] if parts is None else [client]
                row[name] = bench.score_after(client, teachers, parts or ())
            told = ", ".join(f"{name} {value:.1f}" for name, value in row.items())
            print(f"seed {config.run.seed}, {base}, {client.task}: {told}", flush=True)
    return scores


def markdown(found: Scores) -> str:
    """A row for each base and task: mean over seeds, ± standard deviation."""
    lines = [f"| base | task | {' | '.join(PARTS)} |", "|---" * (2 + len(PARTS)) + "|"]
    for base, tasks in found.items():
        for task, scores in tasks.items():
            lines.append(f"| {base} | {task} | {' | '.join(map(_pm, scores.values()))} |")
    seeds = max(len(values) for row in found[BASES[0]].values() for values in row.values())
    lines += ["", f"{seeds} seeds." if seeds > 1 else "One seed."]
    return "\n".join(lines) + "\n"


def _pm(values: list[float]) -> str:
    spread = f" ± {stdev(values):.1f}" if len(values) > 1 else ""
    return f"{fmean(values):.1f}{spread}"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base", default="tiny-llava", help="checkpoint of the embedded kind")
    parser.add_argument("--seeds", type=positive_int, default=3)
    parser.add_argument("--samples", type=positive_int, default=None, help="to train, of a client")
    parser.add_argument("--test-samples", type=positive_int, default=200)
    parser.add_argument("--images", type=positive_int, default=IMAGES, help="to learn erasure from")
    parser.add_argument("--threads", type=positive_int, default=2)
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "figures")
    return parser.parse_args()


if __name__ == "__main__":
    raise SystemExit(main())
