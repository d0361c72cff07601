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
    """One client's own data (YAML only): LLaVA conversation JSON and a folder of images.

    Paths are relative to the working directory.
    """

    name: PartyName | None = Field(None, description="client id; default client-01, client-02, …")
    task: TaskName = Field(description="task the client belongs to; adapters are averaged per task")
    metric: MetricName = Field(description="how answers are scored")
    train: Path = Field(description="LLaVA conversation JSON to train on")
    test: Path | None = Field(None, description="JSON to score on; default: part of `train`")
    images: Path = Field(description="folder that image paths are relative to")
    split_into: PositiveInt = Field(1, description="number of clients this file is divided among")
    split_by: str | None = Field(
        None, description="key of the rows that a Dirichlet split groups by; default: IID"
    )
    box_order: Literal["xyxy", "yxyx"] = Field(
        "xyxy", description="order in which answers give the corners of a box"
    )


class DataConfig(Section):
    """Data."""

    scenario: Literal["visual-understanding", "general-vqa", "files"] = Field(
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
