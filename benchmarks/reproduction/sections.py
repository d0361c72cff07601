"""What is filled into the page, section by section, as Markdown."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from benchmarks.reproduction.claims import CLAIMS, difference, verdict
from benchmarks.tables.cost import Cost, told
from benchmarks.tables.counts import PAPER
from benchmarks.tables.figures import MEAN_OF_TASKS, MOMENTS, Figure
from benchmarks.tables.layouts import TABLES

Content = Mapping[str, Any]
Row = Sequence[str]


def grid(heading: Row, rows: Sequence[Row]) -> list[str]:
    """Return a Markdown table and an empty line."""
    lines = [heading, ["---"] * len(heading), *rows]
    return [*(f"| {' | '.join(cells)} |" for cells in lines), ""]


def pm(mean: float | None, spread: float | None, *, sign: str = "", digits: int = 1) -> str:
    """Return a figure with what it may be off by, where that is known; a dash for none."""
    if mean is None or math.isnan(mean):
        return "–"
    after = "" if spread is None or math.isnan(spread) else f" ± {spread:.{digits}f}"
    return f"{mean:{sign}.{digits}f}{after}"


def table(content: Content) -> list[str]:
    """A table of scores: both moments, what the paper's order came to, what it cost."""
    if not content["metrics"]:
        return ["Not run.", ""]
    layout = TABLES[content["table"]]
    metrics = ", ".join(f"{task} {metric}" for task, metric in content["metrics"].items())
    lines = [
        f"Scenario {content['scenario']} ({metrics}), {_seeds(content)} seeds; means over a task's "
        f"clients ± standard deviation over seeds. The mean over tasks is in percent of "
        f"{layout.measure}'s scores; the last column is {layout.first} minus the row in it, paired "
        "by seed, ± 95 % confidence interval.",
        "",
    ]
    for moment in MOMENTS:
        lines += [f"{_title(moment)}:", "", *_scores(content, moment, layout.first)]
    lines += ["What the paper's order came to (mean over tasks, paired):", "", *_order(content)]
    return [*lines, *_settings_and_cost(content)]


def _seeds(content: Content) -> int:
    figures = content["moments"][MOMENTS[0]]["figures"]
    return max(row[MEAN_OF_TASKS]["count"] for row in figures.values())


def _title(moment: str) -> str:
    return f"{moment.replace('_', ' the last ').replace('local', 'local training').capitalize()}"


def _scores(content: Content, moment: str, first: str) -> list[str]:
    found, tasks = content["moments"][moment], list(content["metrics"])
    columns = [*tasks, MEAN_OF_TASKS]
    rows = []
    for label, figures in found["figures"].items():
        cells = [pm(figures[c]["mean"], figures[c]["sd"]) for c in columns]
        apart = found["differences"].get(label, {}).get(MEAN_OF_TASKS)
        last = pm(apart["mean"], apart["ci95"], sign="+") if apart else "–"
        rows.append([label, *cells, last])
    return grid(["", *tasks, "mean, %", f"{first} minus it"], rows)


def _order(content: Content) -> list[str]:
    rows = []
    for claim in CLAIMS[content["table"]]:
        cells = []
        for moment in MOMENTS:
            figure = difference(content, moment, claim)
            known = "" if figure is None else f"{_signed(figure)}: "
            cells.append(known + verdict(figure))
        rows.append([f"{claim[0]} above {claim[1]}", *cells])
    return grid(["the paper", *map(_title, MOMENTS)], rows)


def _signed(figure: Figure) -> str:
    return pm(figure.mean, figure.half_width, sign="+", digits=2)


def _settings_and_cost(content: Content) -> list[str]:
    settings, costs = content.get("settings", {}), content.get("costs", {})
    lines: list[str] = []
    if settings:
        names = list(next(iter(settings.values())))
        rows = [[label, *(own[name] for name in names)] for label, own in settings.items()]
        lines += ["Settings, by tuning and by row:", "", *grid(["", *names], rows)]
    if costs:
        runs = {
            row: {int(seed): Cost(**cost) for seed, cost in seeds.items()}
            for row, seeds in costs.items()
        }
        lines += [told(runs), ""]
    return lines


def counts(content: Content) -> list[str]:
    """Table 4: parameters in millions, and scores where it was run."""
    found = content["counts"]
    names = list(next(iter(found.values())))
    rows = [[m, *(f"{c[name] / 1e6:.4g}" for name in names)] for m, c in found.items()]
    stated = [f"{PAPER[name] / 1e6:.4g}" if name in PAPER else "–" for name in names]
    lines = grid(["", *names], [*rows, ["the paper states", *stated]])
    return [*lines, *(table(content) if content["metrics"] else [])]


def averaging(content: Content) -> list[str]:
    """How far averaging A and B is from averaging ΔW, by group of clients."""
    rows = [
        [group["clients"], *(f"{group[name]:.3f}" for name in ("error", "cosine", "norm"))]
        for group in content["groups"]
    ]
    norm = "norm of the product of means / of the mean of products"
    return grid(["adapters of", "relative error", "cosine", norm], rows)


def speed(content: Content) -> list[str]:
    """Samples a second of training and of greedy evaluation, from pixels and from features."""
    rows = [
        [row["what"], f"{row['pixels']:.0f}", f"{row['cached']:.0f}", f"{row['ratio']:.2f}"]
        for row in content["rates"]
    ]
    lines = grid(["samples a second", "from pixels", "from cached features", "ratio"], rows)
    where = f"{content['threads']} threads, batches of {content['batch_size']}"
    return [*lines, f"{where}; {content['filling_ms']:.2f} ms an image to fill the cache.", ""]


def steps(content: Content) -> list[str]:
    """What a step of each stage costs beside a plain one."""
    rows = [[s["kind"], f"{s['ms']:.1f}", f"{s['ratio']:.3f}"] for s in content["steps"]]
    lines = grid(["step", "ms", "of a plain one"], rows)
    share = 100 * content["difference_share"]
    return [
        *lines,
        f"{content['count']} steps of {content['batch_size']} samples, {content['threads']} "
        f"thread(s), taking turns. The difference loss by itself is {share:.1f} % of a step.",
        "",
    ]


SECTIONS: dict[str, Callable[[Content], list[str]]] = {
    **{f"table-{number}": counts if number == 4 else table for number in TABLES},
    "averaging": averaging,
    "speed": speed,
    "step-cost": steps,
}
"""By the name of the file, ``NAME.json``, that a section is filled from."""
