"""Score a run's adapters again, or ask one of its models: ``python -m pilot_secure.evaluate RUN``.

Exit code 1 says that a score differs from the one that the run noted down.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator
from rich import box
from rich.console import Console
from rich.table import Table

from pilot_secure import command_line
from pilot_secure.errors import ConfigError, DataError, RunFolderError
from pilot_secure.libraries import quieten_libraries
from pilot_secure.reporting import METRIC_LABELS, report_console
from pilot_secure.saved_run import SavedRun

if TYPE_CHECKING:
    from pilot_secure.federation.state import ClientState
    from pilot_secure.federation.worker import Worker
    from pilot_secure.metrics import MetricScore

PROGRAM = "python -m pilot_secure.evaluate"
DESCRIPTION = (
    "Score the adapters in a run folder again, on the clients' test sets, and say whether the "
    "scores are those of summary.json (exit code 1 if not). With --image and --question, answer "
    "a question about any image with one client's model instead."
)
SAME_SCORE = 1e-6
"""Percentage points: a score is a ratio of counts, or CIDEr's float64 sum."""


class EvaluateConfig(BaseModel):
    """What to evaluate."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    run: Path = Field(description="run folder", json_schema_extra={"positional": True})
    client: str | None = Field(None, description="this client only; default: all of them")
    image: Path | None = Field(None, description="image file to ask about, of any size")
    question: str | None = Field(
        None,
        description="what to ask, word for word: say how to answer where the training data do, "
        "such as 'Answer the question using a single word or phrase.'",
    )
    as_json: bool = Field(
        False, description="print JSON instead of tables", json_schema_extra={"option": "json"}
    )

    @model_validator(mode="after")
    def _question_needs_image_and_client(self) -> EvaluateConfig:
        if (self.image is None) != (self.question is None):
            given, missing = ("--image", "--question")[:: 1 if self.image else -1]
            raise ValueError(f"{given} is given without {missing}: expected both")
        if self.image is not None and self.client is None:
            raise ValueError("--image is given without --client: expected whose model to ask")
        if self.question is not None and not self.question.strip():
            raise ValueError("--question is empty: expected a question")
        return self


@dataclass(frozen=True)
class Rescored:
    """A client's score now, and the one its run noted down (None if it noted none); percent."""

    client: str
    task: str
    metric: str
    score: float
    recorded: float | None
    count: int
    unparsed: int

    @property
    def agrees(self) -> bool:
        """Whether both are known and the same."""
        return self.recorded is not None and abs(self.score - self.recorded) <= SAME_SCORE


@command_line.main
def main(argv: Sequence[str] | None = None) -> int:
    """Evaluate what the command line asks for."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    config = command_line.parse(EvaluateConfig, arguments, program=PROGRAM, description=DESCRIPTION)
    run = SavedRun.open(config.run)
    if config.client is not None and config.client not in run.clients:
        raise ConfigError(
            [f"--client is {config.client!r}: expected one of {', '.join(run.clients)}."]
        )
    run.require_adapters()
    if config.image is not None and config.client is not None:
        _check_image(config.image)
        text = answer(run, config.client, config.image, config.question or "")
        _print_answer(config, text)
        return 0
    clients = run.clients if config.client is None else (config.client,)
    results = score_again(run, clients, Console(stderr=True))
    if config.as_json:
        _print_json(run=str(config.run), clients=[asdict(r) for r in results], agrees=_all(results))
    else:
        console = report_console()
        console.print(scores_table(run, results))
        console.print(verdict(results), highlight=False)
    return 0 if _all(results) is not False else 1


def _all(results: Sequence[Rescored]) -> bool | None:
    """Whether all scores agree; None if the run noted down none of them."""
    known = [result for result in results if result.recorded is not None]
    return all(result.agrees for result in known) if known else None


def _check_image(path: Path) -> None:
    from pilot_secure.data.images import check_image

    try:
        check_image(path)
    except DataError as error:
        raise DataError(f"--image is {path}: {error}.") from None


def _print_json(**content: Any) -> None:
    print(json.dumps(content, indent=2, ensure_ascii=False))


def _print_answer(config: EvaluateConfig, text: str) -> None:
    if config.as_json:
        _print_json(
            run=str(config.run),
            client=config.client,
            image=str(config.image),
            question=config.question,
            answer=text,
        )
    else:
        print(text)


def score_again(run: SavedRun, clients: Sequence[str], console: Console) -> list[Rescored]:
    """Score clients' saved adapters on their test sets.

    Raises: RunFolderError if adapters are missing or the run's data have other clients now;
    DataError if the data cannot be read; CheckpointError if the base model cannot.
    """
    worker = _worker(run)
    from pilot_secure.federation.worker import ANSWER_SECONDS
    from pilot_secure.progress import RunProgress
    from pilot_secure.run_data import load_data

    recorded = {client.client: client for client in run.summary.clients}
    expected = sum(recorded[client].test_samples for client in clients) * ANSWER_SECONDS
    results = []
    with RunProgress(console) as progress:
        progress.expect(expected)
        progress.describe("loading data")
        data = {client.name: client for client in load_data(run.config)[0]}
        for name in clients:
            if name not in data:
                raise RunFolderError(f"{run.folder.path}: the data have no client {name} any more.")
            progress.describe(f"{name} answers")
            score = worker.score(client_state(run, worker, name), data[name], progress.advance)
            before = recorded[name].after_aggregation
            results.append(_rescored(name, data[name].task, score, before))
    return results


def _rescored(name: str, task: str, score: MetricScore, before: float | None) -> Rescored:
    return Rescored(name, task, score.metric, score.value, before, score.count, score.unparsed)


def answer(run: SavedRun, client: str, image: Path, question: str) -> str:
    """What a client's model answers about an image, padded to a square as in training.

    Raises: RunFolderError if its adapters are missing; CheckpointError if the base model is.
    """
    worker = _worker(run)
    from datasets import Dataset, Features, Image, Value

    asked = Dataset.from_dict(
        {"image": [str(image)], "instruction": [question]},
        features=Features({"image": Image(), "instruction": Value("string")}),
    )
    return worker.answer(client_state(run, worker, client), asked)[0]


def _worker(run: SavedRun) -> Worker:
    """The run's base model in memory; transformers is imported here, not for --help.

    Raises: CheckpointError if it cannot be loaded; RunFolderError if it has other weights now.
    """
    quieten_libraries()
    from pilot_secure.federation.base_weights import base_sha256
    from pilot_secure.federation.worker import Worker

    worker = Worker(run.config.model, run.config.training, seed=run.config.run.seed)
    run.require_base(base_sha256(worker.model))
    return worker


def client_state(run: SavedRun, worker: Worker, client: str) -> ClientState:
    """A client's saved adapters, ready for the worker.

    Raises: RunFolderError if they are missing, malformed or do not fit the base model.
    """
    from pilot_secure.adapter_files import load_connector, restore_connector
    from pilot_secure.federation.connector_kinds import build_connector
    from pilot_secure.federation.state import ClientState, PersonalAdapter

    folder = run.folder.adapter_folder(client)
    text, personal = run.text_adapter(client), run.personal_adapter(client)
    expected = {name: tensor.shape for name, tensor in worker.initial_text_adapter().items()}
    for tensors in (text, *([personal[0]] if personal else [])):
        if {name: tensor.shape for name, tensor in tensors.items()} != expected:
            raise RunFolderError(
                f"{folder}: the text adapter does not fit the base model {worker.base_path} with "
                f"lora_rank {run.config.model.lora_rank}."
            )
    connector = build_connector(load_connector(folder)[0], worker.base_connector)
    restore_connector(connector, folder)
    connector.requires_grad_(False).eval()
    state = ClientState(text_adapter=text, connector=connector)
    if personal is not None:
        settings = run.config.methods
        state.personal = PersonalAdapter(
            personal[0],
            max_weight=settings.feddpa_max_weight,
            weighs=settings.feddpa_weighs,
            references=personal[1].to(worker.accelerator.device),
        )
    return state


def scores_table(run: SavedRun, results: Sequence[Rescored]) -> Table:
    """One row a client: the score now and the one in the summary."""
    table = Table(title=str(run.folder.path), box=box.SIMPLE_HEAD, title_justify="left")
    for name in ("client", "task", "metric"):
        table.add_column(name, no_wrap=True)
    for name in ("asked", "unparsed", "score", "in run"):
        table.add_column(name, justify="right", no_wrap=True)
    for result in results:
        recorded = "–" if result.recorded is None else f"{result.recorded:.1f}"
        table.add_row(
            result.client,
            result.task,
            METRIC_LABELS.get(result.metric, result.metric),
            str(result.count),
            str(result.unparsed),
            f"{result.score:.1f}",
            recorded,
            style=None if result.agrees or result.recorded is None else "bold red",
        )
    return table


def verdict(results: Sequence[Rescored]) -> str:
    """One sentence: whether the scores are those of the summary."""
    known = [result for result in results if result.recorded is not None]
    if not known:
        return "summary.json holds no score after aggregation to agree with"
    apart = [result for result in known if not result.agrees]
    if not apart:
        return f"agrees with summary.json in all {len(known)} scores"
    worst = max(apart, key=lambda r: abs(r.score - (r.recorded or 0.0)))
    return (
        f"differs from summary.json in {len(apart)} of {len(known)} scores, most for "
        f"{worst.client}: {worst.score:.2f} now, {worst.recorded:.2f} in the run"
    )


if __name__ == "__main__":
    raise SystemExit(main())
