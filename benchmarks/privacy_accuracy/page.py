"""Plots, and one HTML page that holds tables and plots."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.privacy_accuracy.results import Difference, Price, Row

_STYLE = (
    "body{font-family:sans-serif;max-width:70em;margin:2em auto}"
    "table{border-collapse:collapse;margin:1em 0}"
    "td,th{padding:.2em .8em;border-bottom:1px solid #ccc;text-align:right}"
    "td:first-child,th:first-child{text-align:left}img{max-width:100%}"
)


def _png(figure: Any) -> bytes:
    from matplotlib import pyplot

    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=120, bbox_inches="tight")
    pyplot.close(figure)
    return out.getvalue()


def curve(rows: Sequence[Row]) -> bytes:
    """Score against epsilon, a panel for each task; what has no noise as a level line.

    Bars are the standard deviation over seeds; the table has the confidence interval of the mean,
    which for two seeds is nine times as wide.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    tasks = list(dict.fromkeys(row.task for row in rows))
    figure, axes = pyplot.subplots(1, len(tasks), figsize=(4.5 * len(tasks), 3.6), squeeze=False)
    for axis, task in zip(axes[0], tasks, strict=True):
        own = [row for row in rows if row.task == task]
        for number, method in enumerate(dict.fromkeys(row.method for row in own)):
            _draw_method(axis, f"C{number}", [row for row in own if row.method == method])
        axis.set(title=task, xlabel="epsilon of the run", xscale="log")
        axis.set_ylim(bottom=0)
    axes[0][0].set_ylabel("score after the last aggregation")
    handles, labels = axes[0][-1].get_legend_handles_labels()
    figure.legend(handles, labels, fontsize=8, ncols=5, loc="upper center", bbox_to_anchor=(0.5, 0))
    return _png(figure)


def _draw_method(axis: Any, colour: str, rows: Sequence[Row]) -> None:
    for unit, style in (("example", "o-"), ("client", "s--")):
        points = sorted((r for r in rows if r.unit == unit), key=lambda r: r.target_epsilon or 0)
        if points:
            axis.errorbar(
                [r.target_epsilon for r in points],
                [r.mean for r in points],
                yerr=[0 if r.seeds < 2 else r.sd for r in points],
                fmt=style, color=colour, capsize=3, label=f"{rows[0].method}, {unit}-level",
            )  # fmt: skip
    for row in rows:
        if row.unit is None:
            style = ":" if row.protection == "clear" else "-."
            label = f"{row.method}, {row.protection}"
            axis.axhline(row.mean, color=colour, linestyle=style, linewidth=1, label=label)


def audit_plot(audits: Sequence[Mapping[str, Any]]) -> bytes:
    """Empirical lower bounds against claims at the audit's delta; nothing may be above the line."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axis = pyplot.subplots(figsize=(4.5, 4))
    claimed = [found["claimed"] for found in audits]
    axis.scatter(claimed, [found["lower_bound"] for found in audits], label="empirical bound")
    axis.scatter(claimed, [found["ceiling"] for found in audits], marker="_", label="ceiling")
    highest = max([*claimed, 1.0])
    axis.plot([0, highest], [0, highest], "k:", linewidth=1, label="claim")
    axis.set(xlabel="claimed epsilon at the audit's delta", ylabel="epsilon at least (99.9 %)")
    axis.set_xscale("symlog")
    axis.legend(fontsize=7)
    return _png(figure)


def cost_plot(phases: Mapping[str, Sequence[Mapping[str, Any]]]) -> bytes:
    """Bytes and seconds of each phase, for each protection."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    names = list(dict.fromkeys(p["phase"] for entries in phases.values() for p in entries))
    names = [name for name in names if name != "evaluate"]
    figure, axes = pyplot.subplots(1, 2, figsize=(12, 4))
    for place, (protection, entries) in enumerate(phases.items()):
        costs = {p["phase"]: p for p in entries}
        offsets = [i + 0.8 * place / len(phases) for i in range(len(names))]
        sent = [
            sum(costs.get(n, {}).get(k, 0) for k in ("upload_bytes", "download_bytes")) / 1e6
            for n in names
        ]
        took = [costs.get(n, {}).get("seconds", 0) for n in names]
        for axis, values in zip(axes, (sent, took), strict=True):
            axis.bar(offsets, values, width=0.8 / len(phases), label=protection)
    for axis, title in zip(axes, ("MB, both ways", "seconds"), strict=True):
        axis.set_xticks(range(len(names)), names, rotation=60, ha="right", fontsize=7)
        axis.set_title(title)
        axis.set_yscale("symlog", linthresh=0.01)
    axes[0].legend(fontsize=7)
    return _png(figure)


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """An HTML table."""
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in header)
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    return f"<table><tr>{head}</tr>{body}</table>"


def sentences(what: Sequence[str]) -> str:
    """A list in HTML."""
    return "<ul>" + "".join(f"<li>{html.escape(sentence)}</li>" for sentence in what) + "</ul>"


def _spread(mean: float, half_width: float) -> str:
    return f"{mean:.1f}" if half_width != half_width else f"{mean:.1f} ± {half_width:.1f}"


def score_table(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """Header and rows: methods and protections, a column for each task."""
    tasks = list(dict.fromkeys(row.task for row in rows))
    cells: dict[tuple[str, str], dict[str, str]] = {}
    for row in rows:
        key = (row.method, row.protection)
        cells.setdefault(key, {})[row.task] = _spread(row.mean, row.half_width)
    return (
        ["method", "protection", *tasks],
        [[*key, *(found.get(task, "–") for task in tasks)] for key, found in cells.items()],
    )


def difference_table(found: Sequence[Difference]) -> tuple[list[str], list[list[str]]]:
    """Header and rows: secure minus clear."""
    rows = [
        [d.method, d.task, f"{d.mean:+.2f} ± {d.half_width:.2f}", "yes" if d.is_noise else "no"]
        for d in found
    ]
    return ["method", "task", "secure - clear (95 %)", "holds zero"], rows


def audit_table(
    audits: Mapping[str, Mapping[str, Any]],
) -> tuple[list[str], list[list[str]]]:
    """Header and rows: what canaries found in each cell."""
    header = ["cell", "claimed (run's delta)", "claimed (audit's)", "at least", "ceiling", "AUC"]
    rows = [
        [
            label,
            "∞" if a["claimed_at_run_delta"] is None else f"{a['claimed_at_run_delta']:.2f}",
            f"{a['claimed']:.2f}",
            f"{a['lower_bound']:.2f}",
            f"{a['ceiling']:.2f}",
            f"{a['auc']:.3f}",
            f"{a['tpr_at_1_percent_fpr']:.3f}",
            a["verdict"],
        ]
        for label, a in audits.items()
    ]
    return [*header, "TPR at 1 % FPR", "verdict"], rows


def price_table(found: Sequence[Price]) -> tuple[list[str], list[list[str]]]:
    """Header and rows: the price of each protection."""
    tasks = list(found[0].scores) if found else []
    rows = [
        [
            p.protection,
            f"{p.upload_bytes / 1e6:.1f}",
            f"{p.download_bytes / 1e6:.1f}",
            f"{p.aggregation_seconds:.1f}",
            f"{p.wall_seconds:.1f}",
            *(f"{p.scores[task]:.1f}" for task in tasks),
        ]
        for p in found
    ]
    return ["protection", "MB up", "MB down", "aggregation s", "wall s", *tasks], rows


def page(title: str, parts: Sequence[tuple[str, str | bytes]]) -> str:
    """The page: headings with HTML, or with a plot's PNG, embedded."""
    body = [f"<h1>{html.escape(title)}</h1>"]
    for heading, content in parts:
        body.append(f"<h2>{html.escape(heading)}</h2>")
        if isinstance(content, bytes):
            coded = base64.b64encode(content).decode()
            content = f'<img alt="{html.escape(heading)}" src="data:image/png;base64,{coded}">'
        body.append(content)
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}'
        f"</title><style>{_STYLE}</style></head><body>{''.join(body)}</body></html>\n"
    )
