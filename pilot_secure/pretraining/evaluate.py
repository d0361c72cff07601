"""How good a base model is: in general, and on the clients' data before any training."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from datasets import Dataset
from torch import nn

from pilot_secure.data import SCENARIOS, build_scenario
from pilot_secure.data.scenarios import Strengths, Task, draw_split
from pilot_secure.data.tasks import DEFAULT_CONVENTION
from pilot_secure.metrics import score
from pilot_secure.models import FeatureCache, base_connector, generate_answers
from pilot_secure.pretraining.pool import PRETRAINING_DOMAIN

FIGURES_FILE = "evaluation.json"
LONGEST_ANSWER = 24


@dataclass(frozen=True)
class Figures:
    """Scores in percent (CIDEr times 100).

    ``general``: by task, in the commonest convention, without camera, on ``samples`` samples;
    ``kinds``: the same by kind of question, where the metric is an accuracy;
    ``clients``: zero-shot on the clients' test data, by scenario and client.
    """

    samples: int
    general: dict[str, float]
    kinds: dict[str, float]
    clients: dict[str, dict[str, float]]

    def save(self, folder: Path) -> None:
        """Write the figures beside the checkpoint."""
        text = json.dumps(self.__dict__, indent=2, sort_keys=True)
        (folder / FIGURES_FILE).write_text(text + "\n")


def general_samples(task: Task, size: int, seed: int) -> Dataset:
    """Samples of a task as pretraining saw them, answered in the commonest convention."""
    plain = replace(task, convention=DEFAULT_CONVENTION)
    strengths = Strengths(look=0.0, convention=1.0, domain=0.0)
    return draw_split(plain, size, PRETRAINING_DOMAIN, strengths, f"general/{seed}/{task.name}")


def evaluate_base(
    model: nn.Module,
    processor: Any,
    *,
    samples: int,
    seed: int,
    report: Callable[[str], None],
) -> Figures:
    """Score a base model on ``samples`` general samples of every task and on all clients."""
    cache = FeatureCache(model, processor)

    def answers_to(dataset: Dataset) -> list[str]:
        return generate_answers(
            model,
            processor,
            base_connector(model),
            dataset["instruction"],
            cache.features(dataset),
            max_new_tokens=LONGEST_ANSWER,
        )

    general, kinds = {}, {}
    for task in {task.name: task for tasks in SCENARIOS.values() for task in tasks}.values():
        dataset = general_samples(task, samples, seed)
        answers, records = answers_to(dataset), dataset.remove_columns("image").to_list()
        general[task.name] = round(score(task.metric, answers, records).value, 1)
        report(f"general {task.name}: {general[task.name]} ({task.metric})")
        if len(task.kinds) > 1:
            kinds.update(_by_kind(task, answers, records))
    clients: dict[str, dict[str, float]] = {}
    for scenario in SCENARIOS:
        clients[scenario] = {}
        for client in build_scenario(scenario, samples_per_client=1, seed=seed):
            value = score(client.metric, answers_to(client.test), client.test).value
            clients[scenario][client.name] = round(value, 1)
            report(f"zero-shot {scenario} {client.name} ({client.task}): {value:.1f}")
    return Figures(samples, general, kinds, clients)


def _by_kind(task: Task, answers: list[str], records: list[Any]) -> dict[str, float]:
    scores = {}
    for kind in task.kinds:
        rows = [i for i, record in enumerate(records) if record["kind"] == kind]
        if rows:
            chosen = [answers[i] for i in rows]
            value = score(task.metric, chosen, [records[i] for i in rows]).value
            scores[kind] = round(value, 1)
    return scores
