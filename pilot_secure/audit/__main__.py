"""Audit a run: ``python -m pilot_secure.audit verify RUN``.

Exit codes of `verify`: 0 if all that must be was checked and nothing failed, 3 if a rule failed, 4
if a T, K or S rule could not be checked; 2 for a mistake in what was asked for.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from pydantic import BaseModel

from pilot_secure import entry_point
from pilot_secure.audit.bundle import Bundle, read_escrow
from pilot_secure.audit.diff import diff, print_diff
from pilot_secure.audit.export import export
from pilot_secure.audit.html import html_report
from pilot_secure.audit.rule import DEFAULT_MAX_LEVERAGE, Options
from pilot_secure.audit.table import print_report
from pilot_secure.audit.verdicts import AuditReport
from pilot_secure.audit.verify import replay, verify
from pilot_secure.audit.view import print_view, view, viewers
from pilot_secure.errors import UsageError
from pilot_secure.files import write_atomically
from pilot_secure.terminal import Counter, leave_pipe

PROGRAM = "python -m pilot_secure.audit"


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message[0].lower()}{message[1:]}; --help says what can be asked for.")


@entry_point.main
def main(argv: Sequence[str] | None = None) -> int:
    """Do what the command line asks for."""
    arguments = _parser().parse_args(sys.argv[1:] if argv is None else argv)
    try:
        code: int = arguments.run(arguments)
        sys.stdout.flush()
    except BrokenPipeError:
        return leave_pipe()
    return code


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog=PROGRAM, description="Audit a run's messages, offline.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=_Parser)
    _add_verify(commands)
    _add_replay(commands)
    _add_view(commands)
    _add_diff(commands)
    _add_export(commands)
    return parser


def _bundle_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundle", type=Path, metavar="RUN", help="run folder or bundle")
    parser.add_argument(
        "--roster",
        type=Path,
        metavar="FILE",
        help="roster got by another way (default: RUN's)",
    )


def _add_verify(commands: argparse._SubParsersAction[_Parser]) -> None:
    parser = commands.add_parser("verify", help="check every rule")
    _report_arguments(parser)
    parser.set_defaults(run=_verify)


def _report_arguments(parser: argparse.ArgumentParser) -> None:
    _bundle_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write it as one HTML file, too")
    parser.add_argument(
        "--max-leverage",
        type=_share,
        default=DEFAULT_MAX_LEVERAGE,
        metavar="NUMBER",
        help="largest leverage that a view may have on one client (L01; 0 to 1; "
        "default: %(default)s)",
    )


def _share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text[:80]}: expected a number from 0 to 1")
    return value


def _verify(arguments: argparse.Namespace) -> int:
    bundle = Bundle.open(arguments.bundle, arguments.roster)
    with Counter() as counter:
        report = verify(bundle, Options(max_leverage=arguments.max_leverage), progress=counter)
    return _tell(bundle, report, arguments)


def _tell(bundle: Bundle, report: AuditReport, arguments: argparse.Namespace) -> int:
    if arguments.json:
        _print_json(report)
    else:
        print_report(report)
    if arguments.html is not None:
        write_atomically(arguments.html, html_report(bundle, report).encode())
    return report.exit_code


def _print_json(found: BaseModel) -> None:
    print(json.dumps(found.model_dump(mode="json"), indent=2))  # in ASCII: it steers no terminal


def _add_replay(commands: argparse._SubParsersAction[_Parser]) -> None:
    parser = commands.add_parser(
        "replay", help="check every rule, and compute again what escrowed seeds open"
    )
    _report_arguments(parser)
    parser.add_argument(
        "--escrow", type=Path, required=True, metavar="FILE", help="the run's escrow.json"
    )
    parser.set_defaults(run=_replay)


def _replay(arguments: argparse.Namespace) -> int:
    bundle = Bundle.open(arguments.bundle, arguments.roster)
    options = Options(max_leverage=arguments.max_leverage)
    with Counter() as counter:
        report = replay(bundle, read_escrow(arguments.escrow), options, progress=counter)
    return _tell(bundle, report, arguments)


def _add_view(commands: argparse._SubParsersAction[_Parser]) -> None:
    parser = commands.add_parser("view", help="show what a party saw, and what that determines")
    _bundle_arguments(parser)
    who = parser.add_mutually_exclusive_group(required=True)
    who.add_argument("--party", metavar="NAME", help="server, key-holder or a client's name")
    who.add_argument("--coalition", metavar="1,4", help="clients by their places in the roster")
    parser.add_argument("--json", action="store_true", help="print it as JSON")
    parser.set_defaults(run=_view)


def _view(arguments: argparse.Namespace) -> int:
    bundle = Bundle.open(arguments.bundle, arguments.roster)
    found = view(bundle, viewers(bundle.roster, arguments.party, arguments.coalition))
    _print_json(found) if arguments.json else print_view(found)
    return 0


def _add_diff(commands: argparse._SubParsersAction[_Parser]) -> None:
    parser = commands.add_parser("diff", help="show where two transcripts part")
    parser.add_argument("a", type=Path, metavar="RUN_A", help="run folder or bundle")
    parser.add_argument("b", type=Path, metavar="RUN_B", help="run folder or bundle")
    parser.add_argument("--json", action="store_true", help="print it as JSON")
    parser.set_defaults(run=_diff)


def _diff(arguments: argparse.Namespace) -> int:
    found = diff(Bundle.open(arguments.a), Bundle.open(arguments.b))
    _print_json(found) if arguments.json else print_diff(found)
    return 0


def _add_export(commands: argparse._SubParsersAction[_Parser]) -> None:
    parser = commands.add_parser("export", help="write what an auditor needs, and nothing else")
    parser.add_argument("bundle", type=Path, metavar="RUN", help="run folder")
    parser.add_argument("out", type=Path, nargs="?", metavar="OUT", help="default: RUN-audit")
    parser.set_defaults(run=_export)


def _export(arguments: argparse.Namespace) -> int:
    source: Path = arguments.bundle
    out = arguments.out or source.with_name(f"{source.resolve().name}-audit")
    size = export(source, out)
    print(f"{out}: {size.files} files, {size.bytes} bytes")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
