"""Command lines generated from a pydantic configuration schema.

Every field that one word can hold becomes an option named after the field alone
(`federation.rounds` is `--rounds`); --help groups options by section. Two fields of one name
are a programming error, found when the parser is built. Yes-or-no fields become `--x` and
`--no-x`. Lists are set in the YAML file only. `--config FILE` is read first; options given on
the command line win over it. A field with `json_schema_extra={"positional": True}` is an
argument without a name.

All problems of a file and a command line are reported together, one sentence each.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from pydantic import BaseModel

from pilot_secure.config_checks import validate
from pilot_secure.config_fields import Leaf, bounds, from_text, has_default, leaves, metavar
from pilot_secure.config_file import read_config_file
from pilot_secure.entry_point import INTERRUPTED, main
from pilot_secure.errors import ConfigError

__all__ = ["INTERRUPTED", "build_parser", "main", "parse"]

Config = TypeVar("Config", bound=BaseModel)

_VALUE_FOR_FLAG = re.compile(r"argument (--[\w-]+)/(--no-[\w-]+): ignored explicit argument (.*)")
_FLAG_WORDS = {"True": "yes", "False": "no"}


class _Parser(argparse.ArgumentParser):
    """An argument parser that raises instead of printing a usage text and leaving."""

    def error(self, message: str) -> NoReturn:
        flag = _VALUE_FOR_FLAG.fullmatch(message)
        if flag:
            yes, no, value = flag.groups()
            raise ConfigError([f"{yes} is {value}: expected {yes} or {no}, without a value."])
        raise ConfigError([f"{message[0].lower()}{message[1:]}."])


def parse(
    model: type[Config], argv: Sequence[str] | None = None, *, program: str, description: str
) -> Config:
    """The configuration that a command line (default: this process's) asks for.

    Raises: ConfigError with every problem found; SystemExit(0) after --help.
    """
    options = _options(model)
    namespace, rest = build_parser(
        model, program=program, description=description
    ).parse_known_args(argv)
    given = vars(namespace)
    file = given.pop("config", None)
    problems = _unknown_arguments(rest, [leaf.option for leaf in options if not leaf.positional])
    try:
        content = read_config_file(Path(file)) if file else {}
    except ConfigError as error:
        raise ConfigError([*problems, *error.problems]) from None
    sources: dict[tuple[str | int, ...], str] = {}
    for leaf in options:
        if leaf.dotted in given:
            _put(content, leaf, given[leaf.dotted])
            sources[leaf.path] = leaf.path[-1] if leaf.positional else leaf.option
    return validate(model, content, sources=sources, file=file, earlier_problems=problems)


def build_parser(
    model: type[BaseModel], *, program: str, description: str
) -> argparse.ArgumentParser:
    """The parser of a schema's options, without reading anything.

    Raises: TypeError if two fields would make the same option.
    """
    options = _options(model)
    positional = "".join(f" {leaf.path[-1].upper()}" for leaf in options if leaf.positional)
    parser = _Parser(
        prog=program,
        usage=f"{program}{positional} [--config FILE] [--OPTION VALUE ...]",
        description=description,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--config",
        metavar="FILE",
        default=argparse.SUPPRESS,
        help="YAML file, or the name of a shipped one",
    )
    groups: dict[str, argparse._ArgumentGroup] = {}
    for leaf in options:
        section = _section_title(model, leaf)
        if section not in groups:
            groups[section] = parser.add_argument_group(section)
        _add(groups[section], leaf)
    lists = [leaf.dotted for leaf in leaves(model) if not leaf.is_scalar]
    if lists:
        parser.epilog = f"Set in the YAML file only: {', '.join(lists)}."
    return parser


def _options(model: type[BaseModel]) -> list[Leaf]:
    options = [leaf for leaf in leaves(model) if leaf.is_scalar]
    taken = {"--config": "--config", "--help": "--help"}
    for leaf in options:
        names = [leaf.option, f"--no-{leaf.option[2:]}"] if leaf.is_flag else [leaf.option]
        for name in names:
            if name in taken:
                raise TypeError(f"option {name} is made by both {taken[name]} and {leaf.dotted}")
            taken[name] = leaf.dotted
    return options


def _section_title(model: type[BaseModel], leaf: Leaf) -> str:
    """The first line of the section's docstring, or its name."""
    if len(leaf.path) == 1:
        return "arguments and options"
    section = model.model_fields[leaf.path[0]].annotation
    lines = (getattr(section, "__doc__", None) or leaf.path[0]).strip().splitlines()
    return lines[0].rstrip(".")


def _add(group: argparse._ArgumentGroup, leaf: Leaf) -> None:
    text = _help(leaf).replace("%", "%%")
    if leaf.positional:
        group.add_argument(
            leaf.dotted,
            metavar=leaf.path[-1].upper(),
            help=text,
            nargs="?",
            default=argparse.SUPPRESS,
        )
    elif leaf.is_flag:
        group.add_argument(
            leaf.option,
            dest=leaf.dotted,
            action=argparse.BooleanOptionalAction,
            default=argparse.SUPPRESS,
            help=text,
        )
    else:
        group.add_argument(
            leaf.option,
            dest=leaf.dotted,
            metavar=metavar(leaf.annotation),
            default=argparse.SUPPRESS,
            help=text,
        )


def _help(leaf: Leaf) -> str:
    """Description, bounds, default; the placeholder beside it shows type and choices."""
    text = leaf.field.description or ""
    notes = bounds(leaf.annotation)
    if not has_default(leaf):
        notes.append("required")
    elif leaf.default is not None:
        notes.append(f"default: {_FLAG_WORDS.get(str(leaf.default), leaf.default)}")
    elif "default" not in text:
        notes.append("default: none")
    return f"{text} ({'; '.join(notes)})" if notes else text


def _put(content: dict[str, Any], leaf: Leaf, value: Any) -> None:
    """Set a leaf in the nested mapping that a file gave; a broken section is left to be refused."""
    for name in leaf.path[:-1]:
        inner = content.get(name)
        content[name] = inner = {} if inner is None else inner
        if not isinstance(inner, dict):
            return
        content = inner
    content[leaf.path[-1]] = (
        value if isinstance(value, bool) else from_text(leaf.annotation, str(value))
    )


def _unknown_arguments(rest: list[str], options: list[str]) -> list[str]:
    """One sentence for each word that no option took."""
    problems = []
    after_option = False
    for word in rest:
        if word.startswith("--"):
            name = word.split("=")[0]
            close = get_close_matches(name, [*options, "--config"], n=1)
            hint = f"did you mean {close[0]}?" if close else "--help lists all options."
            problems.append(f"{name} is no option of this command; {hint}")
            after_option = True
        elif after_option:
            after_option = False
        else:
            problems.append(f"{word!r} was not expected; options start with --.")
    return problems
