"""What a private training step costs: `hooks` and `ghost` against the ordinary step.

One client of the embedded scenario on the shipped model, both stages; the same batches of one fixed
size for all three, so that only the step differs. Blocks of steps of the three take turns, and what
is taken is the process's CPU time, so that other work on the machine falls on all of them alike.
Printed are the median seconds of a step and the ratios to the ordinary one.

    OMP_NUM_THREADS=1 python -m benchmarks.private_step
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterator

import torch

from pilot_secure.config import SimulationConfig
from pilot_secure.federation.methods import METHODS
from pilot_secure.federation.plan import ProximalTerm, TrainingPlan
from pilot_secure.federation.state import ClientState
from pilot_secure.federation.updates import PlainUpdate, Update
from pilot_secure.federation.worker import Samples, Worker
from pilot_secure.libraries import quieten_libraries
from pilot_secure.privacy.dp_sgd import PrivateUpdate
from pilot_secure.privacy.noise import ProtectiveNoise
from pilot_secure.privacy.planning import ExampleNoise
from pilot_secure.run_data import load_data
from protocols import Entropy


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--blocks", type=int, default=6, help="of each kind")
    parser.add_argument("--steps", type=int, default=8, help="timed in each block")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[8, 16])
    options = parser.parse_args()
    quieten_libraries()
    settings = {
        "data": {"clients_per_task": 1, "test_samples": 1},
        "federation": {"num_neighbours": 2},
    }
    config = SimulationConfig.model_validate(settings)
    worker = Worker(config.model, config.training, seed=0)
    samples = worker.encode(load_data(config)[0][0])
    print(f"{'batch':>6}{'stage':>6}{'plain s':>10}{'hooks':>8}{'ghost':>8}   (ratios to plain)")
    kinds = ("plain", "hooks", "ghost")
    for batch_size in options.batch_sizes:
        for stage in (1, 2):
            took: dict[str, list[float]] = {kind: [] for kind in kinds}
            for _block in range(options.blocks):
                for kind in kinds:
                    took[kind] += _steps(
                        worker, samples, config, stage, kind, batch_size, options.steps
                    )
            plain, *private = (statistics.median(took[kind]) for kind in kinds)
            ratios = "".join(f"{seconds / plain:>8.2f}" for seconds in private)
            print(f"{batch_size:>6}{stage:>6}{plain:>10.4f}{ratios}", flush=True)


def _steps(
    worker: Worker,
    samples: Samples,
    config: SimulationConfig,
    stage: int,
    kind: str,
    batch_size: int,
    steps: int,
) -> Iterator[float]:
    """Seconds of each step after two to warm up."""
    method = METHODS["pilot"](config, tasks=("one", "two", "three"))
    state = ClientState(worker.initial_text_adapter())
    for reached in range(1, stage + 1):
        method.begin_stage(state, reached, worker, "one")
    connector = worker._put_in_place(state)
    text, visual = worker._trained_parameters(connector, TrainingPlan())
    worker.model.train()
    connector.train()
    parameters = [*text, *visual]
    optimizer = torch.optim.AdamW(parameters, lr=1e-4)
    pull = ProximalTerm(0.0, parameters)
    update: Update
    if kind == "plain":
        update = PlainUpdate(
            worker.accelerator,
            optimizer,
            pull,
            torch.Generator(),
            batch_size=batch_size,
            max_grad_norm=1.0,
        )
    else:
        noise = ExampleNoise(1.0, 1.0, batch_size, kind)  # type: ignore[arg-type]
        modules = [worker.model, connector]
        update = PrivateUpdate(modules, optimizer, pull, noise, ProtectiveNoise(Entropy()))
    with update:
        for number in range(steps + 2):
            rows = [(number * batch_size + i) % len(samples) for i in range(batch_size)]
            started = time.process_time()
            update.step(worker.losses(connector, samples, rows)["total"])
            if number >= 2:
                yield time.process_time() - started


if __name__ == "__main__":
    main()
