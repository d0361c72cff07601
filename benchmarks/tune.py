"""Choose every method's hyper-parameters with the same budget, on data that no table is scored on.

    python -m benchmarks.tune --preset embedded --jobs 2
    python -m benchmarks.tune --preset embedded --methods pilot fedavg --scenarios general-vqa

All methods have the same number of trials: learning rates (of LoRA in both stages), times two
values of one knob of its own or, where a method has none, of the connector's learning rate. Where
the best rate is the grid's first or last, that is said: a better one may lie outside. ``--rates``
searches other rates, for all methods alike (fewer, where a trial is costly). A trial is one run in
the clear with a seed of its own, far from those of the tables: the embedded scenarios then draw
other clients with other samples to train and to validate on. With the user's own files, part of
the training file is validated on instead of the test file.

FedDPA-F is searched apart from FedDPA-T, as ``feddpa-f``; ``pilot-m6`` is the half of Pilot's
trials that has the paper's M, and ``pilot-ct-clip`` Pilot with CT-CLIP, whose knob is the adapters'
learning rate. A trial's mark is the mean over tasks of its score after the last
aggregation (or ``--moment``) in percent of the task's best over all trials of all methods, those of
the evidence that are not searched now among them. The best trial of each method is written to
configs/tuned/PRESET/SCENARIO/METHOD.yaml, and every trial's mark to evidence.json beside it; all of
them anew at every search, since one method's best is part of every other's mark.

Trials are cells in ``--out``: called again, the search goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks.arguments import positive_int
from benchmarks.cells import ROOT, Cell, merged, run_cells
from benchmarks.tables.figures import MOMENTS, columns, tasks_of
from benchmarks.tables.layouts import (
    CT_CLIP,
    FEDDPA_F,
    FINE_TUNING,
    GENERAL,
    PAPERS_M,
    PILOT_CT_CLIP,
    PILOT_M6,
    SHIFT,
    VISUAL,
    Row,
    forms_of,
)
from benchmarks.tables.presets import PRESETS, TUNED, Preset
from pilot_secure import entry_point
from pilot_secure.config_file import dump_settings, read_config_file
from pilot_secure.data.public import FORMATS as DATASETS
from pilot_secure.errors import RunFolderError
from pilot_secure.federation.methods import METHODS
from pilot_secure.files import told_in_a_sentence, write_atomically

VALIDATION_SEED = 1_000_000
RATES = {
    "embedded": (1.5e-3, 3e-3, 6e-3, 1.2e-2, 2.4e-2),
    "paper": (1e-5, 2e-5, 4e-5, 1e-4, 2e-4),
}
SIZES: dict[str, Any] = {"embedded": {"data": {"test_samples": 100}}}
CONNECTOR = [{"training": {"connector_rate_factor": factor}} for factor in (0.3, 1.0)]
KNOBS: dict[str, list[dict[str, Any]]] = {
    "pilot": [{"federation": {"num_neighbours": m}} for m in (2, 6)],
    PILOT_M6: [PAPERS_M],
    PILOT_CT_CLIP: [{"training": {"connector_rate_factor": factor}} for factor in (0.01, 0.1)],
    "fedprox": [{"methods": {"proximal_weight": mu}} for mu in (0.01, 0.1)],
    "fedadam": [{"methods": {"server_learning_rate": eta}} for eta in (1e-2, 3e-2)],
    "feddpa": [{"methods": {"feddpa_max_weight": most}} for most in (0.5, 1.0)],
    FEDDPA_F: [{"methods": {"feddpa_max_weight": most}} for most in (0.5, 1.0)],
}
FORMS: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (name, {}) for name in METHODS},
    FEDDPA_F: ("feddpa", FINE_TUNING),
    PILOT_M6: ("pilot", PAPERS_M),
    PILOT_CT_CLIP: ("pilot", merged(CT_CLIP, {"federation": {"num_neighbours": 2}})),
}
"""What is searched, by name: a method, and the settings that make it this form of it."""

Trials = dict[str, list[tuple[dict[str, Any], Cell]]]


def trials(
    preset: Preset,
    name: str,
    scenario: str,
    methods: Sequence[str],
    rates: Sequence[float] | None = None,
) -> Trials:
    """Return each method's candidate settings, with the cell that tries them.

    ``rates`` are LoRA's learning rates, by default the preset's. Forms that none of the scenario's
    tables has are left out.
    """
    found: Trials = {}
    for form in (form for form in methods if form in forms_of(scenario)):
        method, settings = FORMS[form]
        for rate in rates or RATES[name]:
            for knob in KNOBS.get(form, CONNECTOR):
                both = {"learning_rate_stage1": rate, "learning_rate_stage2": rate}
                chosen = merged({"training": both}, knob)
                own = merged(SIZES.get(name, {}), chosen, settings)
                row = Row(f"{form} {_short(chosen)}", method, own)
                cell = preset.cell(scenario, row, VALIDATION_SEED, secure=False, tuned=False)
                without = {"federation": {"score_base": False}}
                tried = _validated_on_training_files(merged(cell.settings, without))
                found.setdefault(form, []).append((chosen, Cell(cell.label, tried)))
    return found


def _validated_on_training_files(settings: dict[str, Any]) -> dict[str, Any]:
    """Leave out test files and test splits: part of the training data is held out and scored."""
    clients = settings.get("data", {}).get("clients")
    if not clients:
        return settings
    return merged(settings, {"data": {"clients": [_without_test(entry) for entry in clients]}})


def _without_test(entry: Mapping[str, Any]) -> dict[str, Any]:
    kept = {key: value for key, value in entry.items() if key not in ("test", "test_splits")}
    known = DATASETS.get(entry.get("format", "llava"))
    if known and (known.hub_test_splits if entry.get("hub") else known.test_splits):
        kept["test_splits"] = []  # they are the default
    return kept


def marks(scores: Mapping[str, Sequence[Mapping[str, float]]]) -> dict[str, list[float]]:
    """Return each trial's mark, given its score by task: in percent of the best, task by task."""
    every = [trial for trials in scores.values() for trial in trials]
    best = {task: max(trial[task] for trial in every) for task in every[0]}
    return {
        method: [
            fmean(100 * trial[task] / best[task] if best[task] > 0 else 100.0 for task in best)
            for trial in trials
        ]
        for method, trials in scores.items()
    }


@entry_point.main
def main(argv: Sequence[str] | None = None) -> int:
    options = _options(argv)
    preset = PRESETS[options.preset]
    found = {
        scenario: trials(preset, options.preset, scenario, options.methods, options.rates)
        for scenario in options.scenarios
    }
    cells = [c for by_method in found.values() for many in by_method.values() for _, c in many]
    problems = run_cells(cells, options.out, options.jobs)
    for problem in problems:
        print(problem, file=sys.stderr)
    if problems:
        return 1
    for scenario, by_method in found.items():
        choose(options, scenario, by_method)
    return 0


def choose(options: argparse.Namespace, scenario: str, by_method: Trials) -> None:
    """Write each method's best trial as a configuration, and all trials as evidence."""
    folder = options.tuned / options.preset / scenario
    evidence = _evidence(folder / "evidence.json")
    for form, many in by_method.items():
        evidence[form] = {
            "moment": options.moment,
            "trials": [
                {"settings": settings, "code_sha256": code, "scores": scores}
                for settings, cell in many
                for code, scores in [_by_task(cell, options.out, options.moment)]
            ],
        }
    same = {form: own for form, own in evidence.items() if own["moment"] == options.moment}
    marked = marks({form: [t["scores"] for t in own["trials"]] for form, own in same.items()})
    for form, own in same.items():
        for trial, mark in zip(own["trials"], marked[form], strict=True):
            trial["mark"] = round(mark, 3)
        best = max(own["trials"], key=lambda trial: trial["mark"])
        edge = _edge(own["trials"], best)
        text = _yaml(options, scenario, form, own["trials"], best)
        write_atomically(folder / f"{form}.yaml", text.encode())
        print(f"{scenario:22} {form:12} {best['mark']:6.1f}  {_short(best['settings'])}{edge}")
    write_atomically(folder / "evidence.json", json.dumps(evidence, indent=1).encode() + b"\n")


def _evidence(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    with told_in_a_sentence(path):
        content = path.read_text()
    try:
        return dict(json.loads(content))
    except ValueError as error:
        raise RunFolderError(f"{path}: expected the trials of earlier searches: {error}.") from None


def _by_task(cell: Cell, folder: Path, moment: str) -> tuple[str, dict[str, float]]:
    """Return the hash of the code that ran a cell, and its score by task."""
    result = cell.result(folder)
    assert result is not None
    scores = columns(result.clients, moment)
    return result.code_sha256, {task: scores[task] for task in tasks_of(result.clients)}


def _edge(trials: Sequence[Mapping[str, Any]], best: Mapping[str, Any]) -> str:
    """Say that the best rate is the least or the greatest of several."""
    rates = [trial["settings"]["training"]["learning_rate_stage1"] for trial in trials]
    own = best["settings"]["training"]["learning_rate_stage1"]
    inside = min(rates) < own < max(rates) or min(rates) == max(rates)
    return "" if inside else " (the grid's edge: a better rate may lie outside)"


def _yaml(
    options: argparse.Namespace,
    scenario: str,
    form: str,
    trials: Sequence[Mapping[str, Any]],
    best: Mapping[str, Any],
) -> str:
    """The chosen settings on top of the scenario's own file, with what they are for."""
    file = PRESETS[options.preset].files[scenario]
    comment = (
        f"{form} on {scenario}: the best of {len(trials)} trials on\n"
        f"validation data, {best['mark']:.1f} % of the best score of any method\n"
        f"(mean of tasks, {options.moment}).{_edge(trials, best)}\n"
        f"Chosen by python -m benchmarks.tune --preset {options.preset}; all trials are in "
        f"evidence.json.\nWhat it does not choose is as in configs/{file}."
    )
    method, settings = FORMS[form]
    scenarios_own = read_config_file(ROOT / "configs" / file)
    content = merged(scenarios_own, best["settings"], settings, {"federation": {"method": method}})
    return dump_settings(content, comment)


def _short(settings: Mapping[str, Any]) -> str:
    leaves = {name: value for section in settings.values() for name, value in section.items()}
    return ", ".join(f"{name} {value:g}" for name, value in leaves.items() if name != "method")


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tune", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--preset", choices=sorted(RATES), default="embedded")
    parser.add_argument(
        "--scenarios", nargs="+", choices=[VISUAL, GENERAL, SHIFT], default=[VISUAL, GENERAL]
    )
    parser.add_argument("--methods", nargs="+", choices=sorted(FORMS), default=sorted(FORMS))
    parser.add_argument(
        "--rates",
        nargs="+",
        type=float,
        metavar="RATE",
        help="LoRA's learning rates to try; default "
        + "; ".join(f"{name}: {' '.join(map(str, own))}" for name, own in RATES.items()),
    )
    parser.add_argument("--moment", choices=MOMENTS, default="after_aggregation")
    parser.add_argument("--jobs", type=positive_int, default=2, help="processes, one thread each")
    parser.add_argument("--out", type=Path, default=None, help="cells; default runs/tune-PRESET")
    parser.add_argument("--tuned", type=Path, default=TUNED, help="where chosen values go")
    options = parser.parse_args(argv)
    unknown = set(options.scenarios) - set(PRESETS[options.preset].files)
    if unknown:
        parser.error(f"--scenarios: preset {options.preset} has no {', '.join(unknown)}")
    if any(not 0 < rate < 1 for rate in options.rates or []):
        parser.error(f"--rates: expected numbers between 0 and 1, got {options.rates}")
    options.out = options.out or ROOT / "runs" / f"tune-{options.preset}"
    return options


if __name__ == "__main__":
    raise SystemExit(main())
