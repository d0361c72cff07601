"""Search the unmasking phase with SPIN for every small parameter set, and compare with the config.

For each n, t and number of colluders the model is searched exhaustively: with an honest server,
with each of its cheats alone (lies about survivors, a split roster, a second attempt), and with all
at once. The parameters' own check must refuse exactly those sets for which something unsafe is
found. Then each of the clients' counter-measures is taken out of a set that the parameters accept,
which must make the cheat that it is there for succeed. Needs the Debian package ``spin`` and a C
compiler::

    python tests/spin/run.py
"""

from __future__ import annotations

import itertools
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from protocols import SERVER, AggregationParameters, ParameterError, SumSpec

MODEL = Path(__file__).with_name("unmasking.pml")
LARGEST = 5
HONEST = {"LIE": 0, "SPLIT": 0, "SECOND": 0}
CHEATS = {
    "honest": HONEST,
    "lie": HONEST | {"LIE": 1},
    "split": HONEST | {"SPLIT": 1},
    "second": HONEST | {"SECOND": 1},
    "all": {"LIE": 1, "SPLIT": 1, "SECOND": 1, "SUSPECTS": 1},
}
SMALLER = {"N": 5, "T": 3, "C": 0, "N2": 2, "T2": 2}
OTHERS = {"N": 3, "T": 2, "C": 0, "N2": 3, "T2": 2, "FRESH": 2}
COUNTER_MEASURES: tuple[tuple[str, str, dict[str, int]], ...] = (
    ("lie", "CONFIRM", {"N": 5, "T": 3, "C": 0}),
    ("split", "PINNED", {"N": 4, "T": 3, "C": 0}),
    ("second", "ANSWERED", {"N": 4, "T": 3, "C": 1}),
    ("second", "JOINED", SMALLER),
    ("second", "JOINED", OTHERS),
)


class Search(NamedTuple):
    """What an exhaustive search found, and how many states it stored."""

    safe: bool
    states: int


def search(**defines: int) -> Search:
    """Search the model with these switches and sizes."""
    options = [f"-D{name}={value}" for name, value in defines.items()]
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        run(["spin", *options, "-a", str(MODEL)], folder)
        run(["cc", "-O0", "-w", "-DSAFETY", "-DNOFAIR", "-o", "pan", "pan.c"], folder)
        output = run(["./pan", "-m100000"], folder)
    safe = "errors: 0" in output and "Search not completed" not in output
    stored = re.search(r"(\d+) states, stored", output)
    if stored is None or not (safe or "assertion violated" in output):
        raise SystemExit(f"SPIN did not finish for {defines}:\n{output}")
    return Search(safe, int(stored[1]))


def run(command: list[str], folder: Path) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode != 0 and command[0] != "./pan":
        raise SystemExit(f"{' '.join(command)}:\n{done.stdout}{done.stderr}")
    return done.stdout


def parameter_sets(largest: int = LARGEST) -> Iterator[tuple[int, int, int]]:
    """Every n, t and c with at least two honest clients, and colluders that cannot open alone."""
    for n, c in itertools.product(range(2, largest + 1), range(3)):
        if c < n - 1:
            yield from ((n, t, c) for t in range(max(2, c + 1), n + 1))


def accepted(n: int, t: int, c: int, minimum: int | None = None) -> bool:
    """Whether the aggregation's parameters accept this threshold and fewest contributors."""
    names = tuple(f"client-{place:02d}" for place in range(1, n + 1))
    try:
        AggregationParameters.build(
            run_id="spin",
            round=1,
            stage=1,
            roster=bytes(32),
            cohort=names,
            sums=(SumSpec(id="all", vector="v", recipient=SERVER, contributors=names),),
            vector_lengths={"v": 1},
            clip={"v": 1.0},
            max_samples=1,
            threshold=t,
            max_colluders=c,
            min_contributors=c + 2 if minimum is None else minimum,
        )
    except ParameterError:
        return False
    return True


class Table:
    """Prints verdicts as they come, and counts searches, states and what disagrees."""

    def __init__(self, pool: ThreadPoolExecutor) -> None:
        self._pool = pool
        self.searches = self.states = self.wrong = 0

    def verdicts(self, searches: list[dict[str, int]]) -> list[bool]:
        found = list(self._pool.map(lambda defines: search(**defines), searches))
        self.searches += len(found)
        self.states += sum(one.states for one in found)
        return [one.safe for one in found]

    def row(self, label: str, verdicts: list[bool], agrees: bool, remark: str = "") -> None:
        words = "".join(f"{'safe' if safe else 'unsafe':<9}" for safe in verdicts)
        self.wrong += not agrees
        print(f"{label}{words}{remark}{'' if agrees else '  DISAGREES'}", flush=True)


def thresholds(table: Table) -> None:
    """The parameters refuse a threshold exactly if a cheating server could use it."""
    print(f"{'n':>3}{'t':>3}{'c':>3}  " + "".join(f"{name:<9}" for name in CHEATS) + "parameters")
    for n, t, c in parameter_sets():
        size = {"N": n, "T": t, "C": c}
        verdicts = table.verdicts([size | cheat for cheat in CHEATS.values()])
        takes = accepted(n, t, c)
        agrees = all(verdicts) == takes and verdicts[0]
        remark = "accepted" if takes else "refused"
        table.row(f"{n:>3}{t:>3}{c:>3}  ", verdicts, agrees, remark)


def minima(table: Table) -> None:
    """One contributor fewer than c + 2 leaves an honest one alone, even with an honest server."""
    print(f"\n{'n':>3}{'t':>3}{'c':>3}{'min':>4}  {'honest':<9}parameters")
    for n, t, c in parameter_sets():
        if not accepted(n, t, c):
            continue
        for minimum in range(max(2, c + 1), c + 3):
            size = {"N": n, "T": t, "C": c, "MINIMUM": minimum}
            verdicts = table.verdicts([size | HONEST])
            takes = accepted(n, t, c, minimum)
            remark = "accepted" if takes else "refused"
            table.row(f"{n:>3}{t:>3}{c:>3}{minimum:>4}  ", verdicts, verdicts[0] == takes, remark)


def counter_measures(table: Table) -> None:
    """Without its counter-measure a cheat succeeds, though the parameters accept the set."""
    columns = f"{'with':<9}{'without':<9}{'no cheat, without':<19}set"
    print(f"\n{'cheat':<8}{'counter-measure':<17}{columns}")
    for cheat, measure, size in COUNTER_MEASURES:
        out = {measure: 0}
        verdicts = table.verdicts(
            [size | CHEATS[cheat], size | CHEATS[cheat] | out, size | HONEST | out]
        )
        takes = accepted(size["N"], size["T"], size["C"])
        words = " ".join(f"{name}={value}" for name, value in size.items())
        agrees = verdicts == [True, False, True] and takes
        table.row(f"{cheat:<8}{measure:<17}", verdicts, agrees, f"{'':<10}{words}")


def main() -> int:
    if shutil.which("spin") is None or shutil.which("cc") is None:
        sys.stderr.write("SPIN is not installed: apt-get install spin gcc\n")
        return 2
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        table = Table(pool)
        thresholds(table)
        minima(table)
        counter_measures(table)
    print(f"\n{table.searches} searches, {table.states} states")
    wrong = table.wrong
    print("every verdict agrees" if wrong == 0 else f"{wrong} verdicts disagree")
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
