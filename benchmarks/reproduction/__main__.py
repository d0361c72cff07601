"""Fill docs/reproduction.md from what the benchmarks measured, so that no figure is typed by hand.

    python -m benchmarks.reproduction --from runs/tables-embedded runs/heterogeneity runs/figures

Between ``<!-- NAME -->`` and ``<!-- end of NAME -->`` in the page goes what NAME.json in one of the
folders says (the last one that has it; NAME.md as it is, where a benchmark writes its own page).
A section without a file is left as it is and named. Everything else in the page is written by
hand. Files: table-1.json to table-7.json (benchmarks.tables), heterogeneity.md
(benchmarks.heterogeneity), circumstances.md (benchmarks.circumstances), visual-shift.md
(benchmarks.visual_shift), averaging.json (benchmarks.averaging), speed.json
(benchmarks.feature_cache), step-cost.json (benchmarks.step_cost), each of the last three with
``--json FILE``.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.cells import ROOT
from benchmarks.reproduction.sections import SECTIONS
from pilot_secure import entry_point
from pilot_secure.errors import RunFolderError
from pilot_secure.files import told_in_a_sentence, write_atomically

PAGE = ROOT / "docs" / "reproduction.md"
_FIGURES = ("tables-embedded", "heterogeneity", "circumstances", "figures")
FOLDERS = tuple(ROOT / "runs" / name for name in _FIGURES)
_PLACE = re.compile(r"<!-- (?P<name>[\w-]+) -->\n(?P<old>.*?)<!-- end of (?P=name) -->", re.DOTALL)


@entry_point.main
def main(argv: Sequence[str] | None = None) -> int:
    options = _options(argv)
    before = _read(options.page)
    for folder in options.folders or ():
        if not folder.is_dir():
            raise RunFolderError(f"{folder}: expected a folder of figures, there is none.")
    after, missing = fill(before, options.folders or FOLDERS)
    for name in missing:
        print(f"{name}: no file of its name in the folders; left as it is", file=sys.stderr)
    if after == before:
        print("nothing has changed")
    elif options.check:
        print(f"{options.page} is not what the figures say", file=sys.stderr)
        return 1
    else:
        write_atomically(options.page, after.encode())
        print(f"{options.page} is filled")
    return 0


def fill(page: str, folders: Sequence[Path]) -> tuple[str, list[str]]:
    """Return the page with every section that has a file filled, and the names of the others."""
    missing: list[str] = []

    def filled(place: re.Match[str]) -> str:
        name = place["name"]
        content = section(name, folders)
        if content is None:
            missing.append(name)
            return place[0]
        return f"<!-- {name} -->\n\n{content.strip()}\n\n<!-- end of {name} -->"

    return _PLACE.sub(filled, page), missing


def section(name: str, folders: Sequence[Path]) -> str | None:
    """Return a section's text from the last folder that has its file, None if none has.

    Raises: RunFolderError naming a file that cannot be read or holds something else.
    """
    for folder in reversed(folders):
        if name in SECTIONS and (path := folder / f"{name}.json").exists():
            return _from_figures(name, path)
        if name not in SECTIONS and (path := folder / f"{name}.md").exists():
            return _read(path)
    return None


def _from_figures(name: str, path: Path) -> str:
    text = _read(path)
    try:
        return "\n".join(SECTIONS[name](json.loads(text)))
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        told = f"{type(error).__name__}: {error}"
        raise RunFolderError(f"{path}: expected the figures of {name}, but {told}.") from None


def _read(path: Path) -> str:
    with told_in_a_sentence(path):
        return path.read_text()


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.reproduction", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--from", dest="folders", type=Path, nargs="+")
    parser.add_argument("--page", type=Path, default=PAGE)
    parser.add_argument("--check", action="store_true", help="change nothing, fail if it would")
    return parser.parse_args(argv)


if __name__ == "__main__":
    raise SystemExit(main())
