"""Is there something to learn on a client's data, and does a neighbour's data help?

    python -m benchmarks.sharing_within_a_task [--base CHECKPOINT] [--seed 1] [--samples 64]

For the first client of every task: its score by the base model as it is, after training on its
own samples, and after training on the pooled samples of its task's three clients (as many epochs).
No federated method takes part: the last column is what sharing within a task could give. Its
training is a few lines of its own and not the worker's: one part can be trained by itself, on a
base connector of one's choice, and the schedule is one cosine over all epochs, without warm-up.
"""

from __future__ import annotations

import argparse
import math
from typing import Any, Literal

import torch

from benchmarks.arguments import positive_int
from pilot_secure import entry_point
from pilot_secure.data import SCENARIOS, ClientData, answer_batch, build_scenario, encode_samples
from pilot_secure.metrics import score
from pilot_secure.models import (
    FeatureCache,
    SingleConnector,
    answer_losses,
    attach_text_adapter,
    base_connector,
    generate_answers,
    load_base,
    load_text_adapter_state,
    text_adapter_parameters,
    text_adapter_state,
)

EPOCHS, BATCH_SIZE, LEARNING_RATE, CONNECTOR_FACTOR = 3, 8, 6e-3, 0.3

Part = Literal["connector", "LoRA"]


class Bench:
    """One base model, trained afresh for every measurement.

    ``connector`` is the base model's own and can be replaced by another.
    """

    def __init__(self, base: str, connector_factor: float = CONNECTOR_FACTOR) -> None:
        model, self.processor = load_base(base)
        self.connector = base_connector(model)
        self.connector_factor = connector_factor
        self.model = attach_text_adapter(model, rank=8, alpha=16, dropout=0.0, seed=0)
        self.start = text_adapter_state(self.model)
        self.cache = FeatureCache(self.model, self.processor)

    def score_after(
        self,
        client: ClientData,
        teachers: list[ClientData],
        parts: tuple[Part, ...] = ("connector", "LoRA"),
    ) -> float:
        """Train parts on the teachers' samples (none: not at all), score on the client's test."""
        load_text_adapter_state(self.model, self.start)
        connector = SingleConnector(self.connector)
        if teachers:
            self._train(connector, teachers, parts)
        answers = generate_answers(
            self.model,
            self.processor,
            connector,
            client.test["instruction"],
            self.cache.features(client.test),
            max_new_tokens=24,
        )
        return score(client.metric, answers, client.test).value

    def _train(self, connector: Any, teachers: list[ClientData], parts: tuple[Part, ...]) -> None:
        features = torch.cat([self.cache.features(client.train)[:] for client in teachers])
        tokenizer, samples = self.processor.tokenizer, []
        for client in teachers:
            asked, said = client.train["instruction"], client.train["answer"]
            samples += encode_samples(tokenizer, asked, said, features.shape[1])
        trained = {
            "LoRA": list(text_adapter_parameters(self.model).values()),
            "connector": list(connector.train_own_parts().values()),
        }
        for part, parameters in trained.items():
            for parameter in parameters:
                parameter.requires_grad_(part in parts)
        rates = {"LoRA": LEARNING_RATE, "connector": self.connector_factor * LEARNING_RATE}
        optimiser = torch.optim.AdamW(
            [{"params": trained[part], "lr": rates[part]} for part in parts], weight_decay=0.0
        )
        every = [parameter for part in parts for parameter in trained[part]]
        steps = EPOCHS * math.ceil(len(samples) / BATCH_SIZE)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
        generator = torch.Generator().manual_seed(0)
        for _ in range(EPOCHS):
            order = torch.randperm(len(samples), generator=generator)
            for rows in order.split(BATCH_SIZE):
                batch = answer_batch([samples[row] for row in rows], tokenizer.pad_token_id)
                loss = answer_losses(self.model, batch, connector(features[rows])).mean()
                optimiser.zero_grad()
                loss.backward()
                torch.nn.utils.clip_grad_norm_(every, 1.0)
                optimiser.step()
                schedule.step()


@entry_point.main
def main() -> None:
    """Measure and print one row per task."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base", default="tiny-llava", help="checkpoint folder or hub id")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--samples", type=positive_int, default=64, help="to train, of a client")
    parser.add_argument("--threads", type=positive_int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    bench = Bench(options.base)
    print(f"{'scenario':22}{'task':20}    base   own data   task's data")
    for name in SCENARIOS:
        clients = build_scenario(name, seed=options.seed, samples_per_client=options.samples)
        for task in SCENARIOS[name]:
            group = [client for client in clients if client.task == task.name]
            scores = [bench.score_after(group[0], teachers) for teachers in ([], group[:1], group)]
            row = f"{scores[0]:8.1f}{scores[1]:11.1f}{scores[2]:14.1f}"
            print(f"{name:22}{task.name:20}{row}", flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
