"""What does a step of Pilot cost beside a plain step of LoRA and connector, on the same batch?

    OMP_NUM_THREADS=2 python -m benchmarks.step_cost [--steps 60] [--json FILE]

Plain, stage 1, stage 1 without the difference loss, and stage 2 take turns, step by step, on the
same samples of one client; medians of their times and the median of the ratios to the plain step.
The difference loss's share is also timed by itself, forward and backward. Then training and greedy
evaluation in samples a second: a whole stage of a client, and its whole test set.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.arguments import positive_int
from pilot_secure import entry_point
from pilot_secure.config import SimulationConfig
from pilot_secure.federation.methods import METHODS
from pilot_secure.federation.plan import ProximalTerm, TrainingPlan
from pilot_secure.federation.state import ClientState
from pilot_secure.federation.updates import PlainUpdate
from pilot_secure.federation.worker import Samples, Worker
from pilot_secure.files import write_atomically
from pilot_secure.libraries import quieten_libraries
from pilot_secure.models import difference_loss
from pilot_secure.run_data import load_data

AIM_STAGE_2, AIM_DIFFERENCE = 1.15, 0.03


@entry_point.main
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=positive_int, default=60, help="timed steps of each kind")
    parser.add_argument("--batch-size", type=positive_int, default=8)
    parser.add_argument("--base", default="tiny-llava")
    parser.add_argument("--json", type=Path, default=None, help="write the figures here, too")
    options = parser.parse_args()
    quieten_libraries()
    config = SimulationConfig.model_validate(
        {"model": {"base": options.base}, "training": {"batch_size": options.batch_size}}
    )
    clients = load_data(config)[0]
    worker = Worker(config.model, config.training, seed=0)
    samples = worker.encode(clients[0])
    tasks = tuple(dict.fromkeys(client.task for client in clients))
    found = step_times(config, worker, samples, tasks, clients[0].task, options.steps)
    if options.json:
        write_atomically(options.json, json.dumps(found, indent=1).encode() + b"\n")
    rates(config, worker, samples, tasks, clients[0])


def state_of(config: SimulationConfig, worker: Worker, tasks, task: str, name: str, stage: int):
    """Return a method's state at the beginning of a stage."""
    method, state = METHODS[name](config, tasks), ClientState(worker.initial_text_adapter())
    for reached in range(1, stage + 1):
        method.begin_stage(state, reached, worker, task)
    return state


def step_of(
    worker: Worker, state: ClientState, samples: Samples, size: int
) -> Callable[[int], None]:
    """Return a function that takes one training step, as the training loop does, on given rows."""
    connector = worker._put_in_place(state)
    text, visual = worker._trained_parameters(connector, TrainingPlan())
    parameters = [*text, *visual]
    update = PlainUpdate(
        worker.accelerator,
        torch.optim.AdamW(parameters, 1e-4),
        ProximalTerm(0.0, parameters),
        torch.Generator(),
        batch_size=size,
        max_grad_norm=1.0,
    )

    def step(number: int) -> None:
        connector.train_own_parts()
        start = number * size % (len(samples) - size + 1)
        worker._step(connector, samples, list(range(start, start + size)), update)

    return step


def step_times(
    config, worker: Worker, samples: Samples, tasks, task: str, steps: int
) -> dict[str, Any]:
    """Print and return each kind's median step and its ratio to the plain step."""
    size = config.training.batch_size
    weights = worker._training
    no_difference = weights.model_copy(update={"difference_weight": 0.0})
    kinds = {
        "plain (LoRA and connector)": ("fedavg", 1, weights),
        "stage 1": ("pilot", 1, weights),
        "stage 1, no difference loss": ("pilot", 1, no_difference),
        "stage 2": ("pilot", 2, weights),
    }
    worker.model.train()
    run = {
        kind: (
            step_of(worker, state_of(config, worker, tasks, task, m, s), samples, size),
            settings,
        )
        for kind, (m, s, settings) in kinds.items()
    }
    times: dict[str, list[float]] = {kind: [] for kind in run}
    for number in range(-3, steps):
        for kind, (step, settings) in run.items():
            worker._training = settings
            begun = time.perf_counter()
            step(abs(number))
            if number >= 0:
                times[kind].append(time.perf_counter() - begun)
    worker._training = weights
    plain = times["plain (LoRA and connector)"]
    print(f"{steps} steps of {size} samples, {torch.get_num_threads()} threads")
    print(f"{'step':32}{'ms':>8}{'of plain':>10}")
    rows = []
    for kind, seconds in times.items():
        ratio = statistics.median(a / b for a, b in zip(seconds, plain, strict=True))
        rows.append({"kind": kind, "ms": 1e3 * statistics.median(seconds), "ratio": ratio})
        print(f"{kind:32}{rows[-1]['ms']:8.1f}{ratio:10.3f}")
    alone = difference_seconds(samples, size, config)
    share = alone / statistics.median(times["stage 1"])
    print(f"difference loss by itself: {1e3 * alone:.2f} ms, {100 * share:.1f} % of a step")
    print(
        f"aims: stage 2 at most {AIM_STAGE_2}, difference loss below {100 * AIM_DIFFERENCE:.0f} %"
    )
    return {
        "count": steps,
        "batch_size": size,
        "threads": torch.get_num_threads(),
        "steps": rows,
        "difference_share": share,
    }


def difference_seconds(samples: Samples, size: int, config: SimulationConfig) -> float:
    """Return the median time of the difference loss alone, forward and backward."""
    tokens = samples.features[list(range(size))].float()
    seconds = []
    for _ in range(40):
        one, other = (tokens.clone().requires_grad_() for _ in range(2))
        begun = time.perf_counter()
        difference_loss(
            one, other, normalise=config.training.normalise_difference
        ).mean().backward()
        seconds.append(time.perf_counter() - begun)
    return statistics.median(seconds[5:])


def rates(config, worker: Worker, samples: Samples, tasks, client) -> None:
    """Print samples a second of whole stages, and of greedy evaluation."""
    worker.model.eval()
    for name, stage in (("fedavg", 1), ("pilot", 1), ("pilot", 2)):
        state = state_of(config, worker, tasks, client.task, name, stage)
        begun = time.perf_counter()
        worker.train(
            state,
            samples,
            stage=stage,
            label="step-cost",
            journal=lambda *entry: None,
            progress=lambda seconds: None,
        )
        trained = len(samples) / (time.perf_counter() - begun)
        worker.answer(state, client.test.select(range(8)))
        begun = time.perf_counter()
        worker.answer(state, client.test)
        answered = len(client.test) / (time.perf_counter() - begun)
        print(f"{name} stage {stage}: {trained:.0f} samples/s trained, {answered:.0f} answered")


if __name__ == "__main__":
    raise SystemExit(main())
