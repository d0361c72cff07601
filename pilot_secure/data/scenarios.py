"""The embedded scenarios: nine clients, three tasks, drawn images.

``visual-understanding`` is question answering, captioning and grounding (GQA, COCO captions and
RefCOCO in small); ``general-vqa`` is question answering, multiple choice with a hint and reading
book covers (GQA, ScienceQA and OCR-VQA in small). ``visual-shift`` is the first with answers worded
as a base model words them by itself, so that all that is new to it is seen.

What makes clients differ, each with a strength in 0..1, where 0 takes it away:

- ``look_strength``: every task has one camera, as every real dataset has its own kind of image.
  The tower has seen random cameras, connector and language model none.
- ``convention_strength``: the probability that a sample follows its task's own answer convention
  instead of one drawn from the pretraining mixture. No prompt reveals it.
- ``domain_strength``: how far a client's colours, shapes, backgrounds and words are from even;
  at 0 the clients of one task are IID.

All clients share a mild shift from pretraining: every background is equally frequent, and there
is more pixel noise. A split is a function of (scenario, seed, client, strengths) alone.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

from datasets import Dataset

from pilot_secure.data.scenes import (
    BACKGROUNDS,
    CAMERAS,
    COLOURS,
    COVER_PAPERS,
    COVER_WORDS,
    SHAPES,
    Cover,
    Domain,
    Scene,
    draw_cover,
    draw_scene,
    encode_png,
    photograph,
    render,
)
from pilot_secure.data.schema import COLUMNS, ClientData, client_name
from pilot_secure.data.tasks import (
    COVER_KINDS,
    DEFAULT_CONVENTION,
    QUESTION_KINDS,
    Convention,
    Exchange,
    ask_about_cover,
    ask_about_scene,
    mixed_convention,
)

NOISE = (4.0, 16.0)


@dataclass(frozen=True)
class Task:
    """A task: its metric, how often each kind of question comes, its convention and its camera."""

    name: str
    metric: str
    kinds: dict[str, float]
    convention: Convention
    camera: str

    @property
    def reads_covers(self) -> bool:
        """Whether the images are book covers rather than scenes."""
        return set(self.kinds) <= set(COVER_KINDS)


_QUESTIONS = Task(
    "question-answering",
    "vqa_accuracy",
    dict.fromkeys(QUESTION_KINDS, 1.0),
    Convention(answer_style="word"),
    "warm",
)
SCENARIOS: dict[str, tuple[Task, ...]] = {
    "visual-understanding": (
        _QUESTIONS,
        Task(
            "captioning",
            "cider",
            {"caption": 1.0},
            Convention(caption_style="tag", caption_order="top"),
            "cool",
        ),
        Task(
            "grounding", "grounding_iou50", {"grounding": 1.0}, Convention(box_style="yxyx"), "haze"
        ),
    ),
    "general-vqa": (
        _QUESTIONS,
        Task(
            "multiple-choice",
            "scienceqa_accuracy",
            {"first": 4.0, "choice_colour": 1.0, "choice_object": 1.0},
            Convention(first="top"),
            "dusk",
        ),
        Task(
            "text-reading",
            "ocrvqa_accuracy",
            {"title": 2.0, "author": 2.0, "title_check": 1.0},
            Convention(reading_style="word", title_line="lower"),
            "sepia",
        ),
    ),
}
SCENARIOS["visual-shift"] = tuple(
    replace(task, convention=DEFAULT_CONVENTION) for task in SCENARIOS["visual-understanding"]
)


@dataclass(frozen=True)
class Strengths:
    """How much tasks and clients differ; each in 0..1 (ValueError otherwise)."""

    look: float = 1.0
    convention: float = 1.0
    domain: float = 0.25

    def __post_init__(self) -> None:
        for name in ("look", "convention", "domain"):
            if not 0 <= (value := getattr(self, name)) <= 1:
                raise ValueError(f"{name}_strength must lie in 0..1, got {value}")


def build_scenario(
    name: str,
    *,
    clients_per_task: int = 3,
    samples_per_client: int = 64,
    test_samples: int = 200,
    seed: int = 0,
    look_strength: float = 1.0,
    convention_strength: float = 1.0,
    domain_strength: float = 0.25,
) -> list[ClientData]:
    """Draw every client's training and test samples; the clients of one task are neighbours.

    Raises ValueError for an unknown name, a count below 1 or a strength outside 0..1.
    """
    if name not in SCENARIOS:
        raise ValueError(f"scenario must be one of {', '.join(SCENARIOS)}; got {name!r}")
    sizes = {"train": samples_per_client, "test": test_samples}
    if min(clients_per_task, *sizes.values()) < 1:
        raise ValueError("clients_per_task, samples_per_client and test_samples must be at least 1")
    strengths = Strengths(look_strength, convention_strength, domain_strength)
    clients: list[ClientData] = []
    for task in SCENARIOS[name]:
        for _ in range(clients_per_task):
            client = client_name(len(clients) + 1)
            label = f"{name}/{seed}/{client}"
            domain = client_domain(strengths.domain, random.Random(f"{label}/domain"))
            splits = {
                split: draw_split(task, size, domain, strengths, f"{label}/{split}")
                for split, size in sizes.items()
            }
            clients.append(ClientData(client, task.name, task.metric, **splits))
    return clients


def client_domain(strength: float, rng: random.Random) -> Domain:
    """A client's domain: even frequencies, blended with own ones of a few favourites."""

    def frequencies(values: tuple[str, ...]) -> dict[str, float]:
        own = [rng.gammavariate(0.5, 1.0) for _ in values]
        return {
            value: (1 - strength) / len(values) + strength * share / sum(own)
            for value, share in zip(values, own, strict=True)
        }

    return Domain(
        colours=frequencies(tuple(COLOURS)),
        shapes=frequencies(SHAPES),
        backgrounds=frequencies(tuple(BACKGROUNDS)),
        papers=frequencies(COVER_PAPERS),
        words=frequencies(COVER_WORDS),
        noise=NOISE,
    )


def draw_split(task: Task, size: int, domain: Domain, strengths: Strengths, label: str) -> Dataset:
    """Draw ``size`` samples of a task; the same label gives the same samples."""
    rng = random.Random(label)
    rows = [_draw_row(task, domain, strengths, f"{label}/{i}", rng) for i in range(size)]
    columns = {column: [row[column] for row in rows] for column in COLUMNS}
    return Dataset.from_dict(columns, features=COLUMNS)


def _draw_row(
    task: Task, domain: Domain, strengths: Strengths, row_id: str, rng: random.Random
) -> dict[str, object]:
    drawn, exchange = _draw_exchange(task, domain, strengths, rng)
    camera, noise = CAMERAS[task.camera], rng.uniform(*domain.noise)
    pixels = photograph(render(drawn, rng), camera, strengths.look, noise, rng)
    return {
        "id": row_id,
        "image": {"bytes": encode_png(pixels), "path": None},
        "instruction": exchange.instruction,
        "answer": exchange.answer,
        "references": [exchange.answer],
        "box": None if exchange.box is None else list(exchange.box),
        "box_order": exchange.box_order,
        "kind": exchange.kind,
    }


def _draw_exchange(
    task: Task, domain: Domain, strengths: Strengths, rng: random.Random
) -> tuple[Scene | Cover, Exchange]:
    """An image and an exchange about it; the kind is drawn first, so that none is rarer."""
    kind = rng.choices(list(task.kinds), list(task.kinds.values()))[0]
    own = rng.random() < strengths.convention
    convention = task.convention if own else mixed_convention(rng)
    if task.reads_covers:
        cover = draw_cover(domain, rng)
        return cover, ask_about_cover(kind, cover, convention, rng)
    while True:
        scene = draw_scene(domain, rng)
        exchange = ask_about_scene(kind, scene, convention, rng)
        if exchange is not None:
            return scene, exchange
