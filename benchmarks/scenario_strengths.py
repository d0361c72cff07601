"""What does each strength of the embedded scenarios cost the untrained base model?

    python -m benchmarks.scenario_strengths [--base CHECKPOINT] [--test-samples 100] [--seed 0]

Zero-shot scores per task, mean over its clients, with look and convention each at 0 and 1 and the
domain at 0, 0.25 and 1. The gap that a strength opens is what clients have to learn; no federated
method takes part in this, so that the defaults can be chosen before methods are compared.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from statistics import mean
from typing import Any

import torch

from benchmarks.arguments import positive_int
from pilot_secure import entry_point
from pilot_secure.data import SCENARIOS, build_scenario
from pilot_secure.metrics import score
from pilot_secure.models import FeatureCache, base_connector, generate_answers, load_base

SETTINGS = (
    {"look_strength": 0.0, "convention_strength": 0.0, "domain_strength": 0.0},
    {"look_strength": 1.0, "convention_strength": 0.0, "domain_strength": 0.0},
    {"look_strength": 0.0, "convention_strength": 1.0, "domain_strength": 0.0},
    {"look_strength": 1.0, "convention_strength": 1.0, "domain_strength": 0.0},
    {"look_strength": 1.0, "convention_strength": 1.0, "domain_strength": 0.25},
    {"look_strength": 1.0, "convention_strength": 1.0, "domain_strength": 1.0},
)


@entry_point.main
def main() -> None:
    """Measure and print one row per setting and scenario."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base", default="tiny-llava", help="checkpoint folder or hub id")
    parser.add_argument("--test-samples", type=positive_int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=positive_int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model, processor = load_base(options.base)
    for name, tasks in SCENARIOS.items():
        print(f"{name}\nlook  convention  domain  " + "  ".join(task.name for task in tasks))
        for setting in SETTINGS:
            scores = zero_shot(model, processor, name, options, setting)
            strengths = f"{setting['look_strength']:4.2f}  {setting['convention_strength']:10.2f}"
            row = "  ".join(f"{scores[task.name]:{len(task.name)}.1f}" for task in tasks)
            print(f"{strengths}  {setting['domain_strength']:6.2f}  {row}", flush=True)


def zero_shot(
    model: Any,
    processor: Any,
    scenario: str,
    options: argparse.Namespace,
    setting: dict[str, float],
) -> dict[str, float]:
    """Score the base model as it is on every client; the mean by task."""
    scores = defaultdict(list)
    clients = build_scenario(
        scenario,
        samples_per_client=1,
        test_samples=options.test_samples,
        seed=options.seed,
        **setting,
    )
    for client in clients:
        answers = generate_answers(
            model,
            processor,
            base_connector(model),
            client.test["instruction"],
            FeatureCache(model, processor).features(client.test),
            max_new_tokens=24,
        )
        scores[client.task].append(score(client.metric, answers, client.test).value)
    return {task: mean(values) for task, values in scores.items()}


if __name__ == "__main__":
    raise SystemExit(main())
