"""Check the unmasking phase with SPIN for every small parameter set, and compare with the config.

For each n, t and number of colluders the model is searched exhaustively; the parameters' own check
must refuse exactly those sets for which SPIN finds two openings. Without the clients' guard over
attempts every set must be unsafe, which shows that the model can fail. Needs the Debian package
``spin`` and a C compiler::

    python tests/spin/run.py
"""

from __future__ import annotations

import itertools
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from protocols import SERVER, AggregationParameters, ParameterError, SumSpec

MODEL = Path(__file__).with_name("unmasking.pml")
LARGEST = 5


def searched(folder: Path, **defines: int) -> bool:
    """Whether an exhaustive search finds no two openings."""
    options = [f"-D{name}={value}" for name, value in defines.items()]
    run(["spin", *options, "-a", str(MODEL)], folder)
    run(["cc", "-O0", "-DSAFETY", "-o", "pan", "pan.c"], folder)
    output = run(["./pan", "-m100000"], folder)
    if "errors: 0" in output and "Search not completed" not in output:
        return True
    if "assertion violated" in output:
        return False
    raise SystemExit(f"SPIN did not finish for {defines}:\n{output}")


def run(command: list[str], folder: Path) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode != 0 and command[0] != "./pan":
        raise SystemExit(f"{' '.join(command)}:\n{done.stdout}{done.stderr}")
    return done.stdout


def accepted(n: int, t: int, c: int) -> bool:
    """Whether the aggregation's parameters accept this threshold."""
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
            min_contributors=c + 2,
        )
    except ParameterError:
        return False
    return True


def main() -> int:
    if shutil.which("spin") is None or shutil.which("cc") is None:
        sys.stderr.write("SPIN is not installed: apt-get install spin gcc\n")
        return 2
    wrong = 0
    print(f"{'n':>3}{'t':>3}{'c':>3}  {'SPIN':<8}{'split':<8}{'no guard':<10}parameters")
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        for n, c in itertools.product(range(2, LARGEST + 1), range(3)):
            for t in range(max(2, c + 1), n + 1):
                if c >= n - 1:
                    continue
                one = searched(folder, N=n, T=t, C=c, SPLIT=0, GUARD=1)
                split = searched(folder, N=n, T=t, C=c, SPLIT=1, GUARD=1)
                unguarded = searched(folder, N=n, T=t, C=c, SPLIT=0, GUARD=0)
                takes = accepted(n, t, c)
                agree = one == split == takes and not unguarded
                wrong += not agree
                words = ["safe" if safe else "unsafe" for safe in (one, split, unguarded)]
                verdict = ("accepted" if takes else "refused") + ("" if agree else "  DISAGREES")
                print(
                    f"{n:>3}{t:>3}{c:>3}  {words[0]:<8}{words[1]:<8}{words[2]:<10}{verdict}",
                    flush=True,
                )
    print("every verdict agrees" if wrong == 0 else f"{wrong} verdicts disagree")
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
