"""The command line that is generated from a schema, and what a person reads when it is wrong."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from pilot_secure import command_line
from pilot_secure.config import SimulationConfig
from pilot_secure.config_fields import leaves
from pilot_secure.errors import ConfigError


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class _Item(_Section):
    task: str
    share: Annotated[float, Field(ge=0, le=1)] = 0.5


class _Training(_Section):
    """Local training. A second sentence."""

    batch_size: Annotated[int, Field(ge=1)] = Field(8, description="100 % of a step")
    learning_rate: float = 1e-3
    precision: Literal["no", "bf16"] = "no"
    secure: bool = Field(False, description="under masks")


class _Federation(_Section):
    rounds: Annotated[int, Field(ge=1)] = 3
    threshold: Annotated[int, Field(ge=1)] | Literal["auto"] = "auto"
    sketch: int | None = 4096
    bits: Literal[16, 20] = 20
    out: Path | None = None
    items: tuple[_Item, ...] = ()

    @field_validator("out")
    @classmethod
    def _inside(cls, out: Path | None) -> Path | None:
        if out is not None and out.is_absolute():
            raise ValueError("a relative path")
        return out


class _Config(_Section):
    training: _Training = _Training()
    federation: _Federation = _Federation()

    @model_validator(mode="after")
    def _rules(self) -> _Config:
        if self.federation.rounds > self.training.batch_size:
            raise ValueError("federation.rounds exceeds the batch\ntraining.learning_rate is fine")
        return self


def _parse(*argv: str) -> _Config:
    return command_line.parse(_Config, argv, program="prog", description="Test.")


def _problems(*argv: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        _parse(*argv)
    return list(caught.value.problems)


def _yaml(tmp_path: Path, text: str) -> str:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    return str(path)


def test_every_kind_of_field_from_the_command_line() -> None:
    argv = "--rounds 2 --secure --threshold 6 --sketch none --bits 16 --out none --batch-size=4"
    config = _parse(*argv.split(), "--learning-rate", "5e-3")
    assert config.federation == _Federation(
        rounds=2, threshold=6, sketch=None, bits=16, out=Path("none")
    )
    assert config.training == _Training(batch_size=4, learning_rate=5e-3, secure=True)


def test_command_line_wins_over_the_file(tmp_path: Path) -> None:
    file = _yaml(
        tmp_path,
        "training: {precision: no, learning_rate: 6e-3, secure: true}\n"
        "federation:\n  rounds: 2\n  items: [{task: a}, {task: b, share: 1}]\n",
    )
    config = _parse("--config", file, "--rounds", "4", "--no-secure", "--threshold", "auto")
    assert config.federation.rounds == 4
    assert [item.share for item in config.federation.items] == [0.5, 1.0]
    assert config.training == _Training(precision="no", learning_rate=6e-3, secure=False)


def test_all_problems_are_reported_together(tmp_path: Path) -> None:
    file = _yaml(
        tmp_path,
        "rounds: 3\n"
        "training: {batch_sise: 3, learning_rate: high, secure: 'yes'}\n"
        "federation: {threshold: 2.5, items: [{task: a, share: 2}, {}]}\n",
    )
    assert _problems("--config", file, "--bits", "17", "--roundz", "3", "stray") == [
        "--roundz is no option of this command; did you mean --rounds?",
        "'stray' was not expected; options start with --.",
        f'{file}: training.learning_rate is "high": expected a number.',
        f'{file}: training.secure is "yes": expected true or false.',
        f"{file}: training.batch_sise is no field of the configuration; did you mean batch_size?",
        f"{file}: federation.threshold is 2.5: expected an integer, at least 1, or auto.",
        '--bits is "17": expected one of 16, 20.',
        f"{file}: federation.items[0].share is 2: expected a number, at least 0, at most 1.",
        f"{file}: federation.items[1].task is missing: expected text.",
        f"{file}: rounds is no field of the configuration; did you mean federation.rounds?",
    ]


def test_rules_across_fields_are_one_sentence_each() -> None:
    rules = ["federation.rounds exceeds the batch.", "training.learning_rate is fine."]
    assert _problems("--rounds", "9") == rules
    assert _problems("--rounds", "9", "--bits", "x") == [
        '--bits is "x": expected one of 16, 20.',
        *rules,
    ]
    assert _problems("--rounds", "9", "--learning-rate", "x")[1:] == rules[:1]


def test_a_fields_own_rule_names_what_it_expects() -> None:
    assert _problems("--out", "/somewhere") == ['--out is "/somewhere": expected a relative path.']


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("training: {batch_size: 3, batch_size: 4}", "key `batch_size` stands twice"),
        ("training: [", "expected YAML, but"),
        ("- a\n- b", "`section:` mappings"),
        ("training: 3", "training is 3: expected a section with batch_size"),
    ],
)
def test_malformed_files(tmp_path: Path, text: str, words: str) -> None:
    (problem,) = _problems("--config", _yaml(tmp_path, text))
    assert words in problem


def test_missing_file_and_missing_value() -> None:
    (problem,) = _problems("--config", "none.yaml")
    assert problem.startswith("--config is none.yaml: expected a YAML file or one of ")
    assert problem.endswith(", there is none.")
    assert _problems("--rounds") == ["argument --rounds: expected one argument."]


def test_help_shows_description_bounds_choices_and_default(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as caught:
        _parse("--help")
    text = " ".join(capsys.readouterr().out.split())
    assert caught.value.code == 0
    assert "Local training. A second sentence:" in text
    assert "--batch-size INT 100 % of a step (at least 1; default: 8)" in text
    assert "--secure, --no-secure under masks (default: no)" in text
    assert "--threshold INT|auto" in text
    assert "--bits 16|20" in text
    assert "Set in the YAML file only: federation.items." in text


def test_two_fields_of_one_name_are_refused_when_the_parser_is_built() -> None:
    class Other(_Section):
        no_secure: int = 1

    class Colliding(_Section):
        training: _Training = _Training()
        other: Other = Other()

    with pytest.raises(TypeError, match="--no-secure is made by both training.secure and other"):
        command_line.build_parser(Colliding, program="prog", description="")


def test_positional_field() -> None:
    class Evaluate(_Section):
        folder: Path = Field(description="run", json_schema_extra={"positional": True})
        count: int = 1

    def parse(*argv: str) -> Evaluate:
        return command_line.parse(Evaluate, argv, program="prog", description="")

    assert parse("runs/a", "--count", "2") == Evaluate(folder=Path("runs/a"), count=2)
    with pytest.raises(ConfigError, match="^folder is missing: expected a path.$"):
        parse()


def test_every_scalar_field_of_the_simulation_has_an_option() -> None:
    parser = command_line.build_parser(SimulationConfig, program="prog", description="")
    text = parser.format_help()
    options = [leaf.option for leaf in leaves(SimulationConfig) if leaf.is_scalar]
    assert "--secure-agg" in options
    assert [option for option in options if option not in text] == []


@pytest.mark.parametrize(
    ("raised", "code", "words"),
    [
        (ConfigError(["a is 1.", "b is 2."]), 2, "error: a is 1.\nerror: b is 2.\n"),
        (OSError(errno.ENOSPC, "No space"), 2, "error: The disk is full.\n"),
        (OSError(errno.EACCES, "Denied", "f"), 2, "error: f: permission denied.\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
    ],
)
def test_main_turns_errors_into_sentences(
    raised: BaseException, code: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    @command_line.main
    def command() -> None:
        raise raised

    assert command() == code
    assert capsys.readouterr().err == words


def test_main_lets_defects_through_and_returns_codes() -> None:
    @command_line.main
    def broken() -> None:
        raise OSError(errno.EBADF, "a defect")

    @command_line.main
    def fine() -> int:
        return 3

    with pytest.raises(OSError, match="a defect"):
        broken()
    assert fine() == 3
