"""The data section of the configuration: embedded scenarios, and clients made from files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from pilot_secure.config_section import (
    MetricName,
    PartyName,
    PositiveInt,
    Section,
    Share,
    TaskName,
)


class ClientFilesConfig(Section):
    """Data of one client, or of `split_into` clients of one task (YAML only).

    Paths are relative to the working directory.
    """

    name: PartyName | None = Field(None, description="client id; default client-01, client-02, …")
    task: TaskName = Field(description="task the client belongs to; adapters are averaged per task")
    format: Literal["llava", "gqa", "coco_captions", "refcoco", "scienceqa", "ocrvqa"] = Field(
        "llava", description="LLaVA conversation JSON, or a public dataset's own format"
    )
    metric: MetricName | None = Field(
        None, description="how answers are scored; default: the public dataset's own metric"
    )
    train: Path | None = Field(None, description="file to train on")
    test: Path | None = Field(
        None, description="file to score on; default: the test split of `train`, or part of it"
    )
    images: Path | None = Field(None, description="folder that image paths are relative to")
    hub: str | None = Field(
        None,
        description="a public dataset's Hub layout in place of `train` and `images`: a hub id, or "
        "a local folder",
    )
    train_splits: tuple[str, ...] | None = Field(
        None, description="splits to train on; default: the dataset's own"
    )
    test_splits: tuple[str, ...] | None = Field(
        None, description="splits to score on; an empty list holds out part of the training data"
    )
    instances: Path | None = Field(
        None, description="RefCOCO's boxes; default: instances.json beside `train`"
    )
    coco_ids: Path | None = Field(
        None, description="Visual Genome's image_data.json, to tell which images of GQA are COCO's"
    )
    split_into: PositiveInt = Field(1, description="number of clients this file is divided among")
    split_by: str | None = Field(
        None, description="key of the rows that `split_kind` goes by; default: IID"
    )
    split_kind: Literal["stratified", "dirichlet", "domain"] = Field(
        "dirichlet",
        description="each value of `split_by` shared out evenly, by a Dirichlet draw, or given to "
        "one client whole",
    )
    divide_test: bool = Field(
        False, description="divide the test like the training data; otherwise all share it"
    )
    samples_per_client: PositiveInt | None = Field(
        None, description="training samples drawn for each client; default: all"
    )
    test_samples: PositiveInt | None = Field(
        None, description="test samples drawn for each client; default: all"
    )
    box_order: Literal["xyxy", "yxyx"] = Field(
        "xyxy", description="order in which answers give the corners of a box"
    )


class DataConfig(Section):
    """Data."""

    scenario: Literal["visual-understanding", "general-vqa", "visual-shift", "files"] = Field(
        "visual-understanding",
        description="embedded scenario, or `files` for the user's own data given under `clients`",
    )
    clients: tuple[ClientFilesConfig, ...] = Field(
        (), description="the user's own clients (YAML only; scenario `files`)"
    )
    clients_per_task: PositiveInt = Field(3, description="clients of each task")
    samples_per_client: PositiveInt = Field(64, description="training samples of each client")
    test_samples: PositiveInt = Field(200, description="test samples of each client")
    look_strength: Share = Field(1.0, description="how far each task's images differ in look")
    convention_strength: Share = Field(
        1.0, description="share of samples that follow the task's own answer convention"
    )
    domain_strength: Share = Field(
        0.25, description="how far clients of one task differ in what they see; 0 is IID"
    )
    test_share: Share = Field(
        0.2, description="share of a client's own file held out for the test (scenario `files`)"
    )
    split_alpha: Annotated[float, Field(gt=0)] = Field(
        0.5, description="concentration of a Dirichlet split; small is uneven"
    )
    max_broken_share: Share = Field(
        0.05, description="share of missing or broken images above which loading stops"
    )
    drop_shared_images: bool = Field(
        False,
        description="leave out training samples about images of any client's test (scenario "
        "`files`); they are reported in any case",
    )


def entry_problems(index: int, entry: ClientFilesConfig) -> list[str]:
    """What does not fit together in an entry of `data.clients`, one sentence each."""
    where, given = f"data.clients[{index}]", entry.model_dump()
    own = entry.format == "llava"
    problems = []
    if own and entry.metric is None:
        problems.append(f"{where}.metric is missing: expected how the answers are to be scored")
    if entry.hub is None or own:
        problems += [
            f"{where}.{name} is missing: expected {what}"
            for name, what in (("train", "the file to train on"), ("images", "a folder"))
            if given[name] is None
        ]
    other = {
        "hub": (not own, "a public dataset's `format`"),
        "train": (own or entry.hub is None, "either it or `hub`"),
        "images": (own or entry.hub is None, "either it or `hub`"),
        "test": (own or entry.hub is None, "either it or `hub`"),
        "train_splits": (_has_splits(entry), "no splits: these files have none"),
        "test_splits": (_has_splits(entry), "no splits: these files have none"),
        "instances": (entry.format == "refcoco" and entry.hub is None, "format refcoco, files"),
        "coco_ids": (entry.format == "gqa", "format gqa"),
    }
    problems += [
        f"{where}.{name} is {_shown(given[name])}: expected {what}"
        for name, (fits, what) in other.items()
        if given[name] is not None and not fits
    ]
    if entry.hub == "":
        problems.append(f"{where}.hub is empty: expected a hub id or a local folder")
    if entry.train_splits == ():
        problems.append(f"{where}.train_splits is empty: expected at least one split")
    if entry.split_kind != "dirichlet" and entry.split_by is None:
        problems.append(
            f"{where}.split_by is missing: expected the key that split_kind {entry.split_kind} "
            "goes by"
        )
    return problems


def _has_splits(entry: ClientFilesConfig) -> bool:
    return entry.format != "llava" and (entry.format != "gqa" or entry.hub is not None)


def _shown(value: object) -> str:
    return f"[{', '.join(map(str, value))}]" if isinstance(value, tuple) else str(value)
