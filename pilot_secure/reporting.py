"""The tables that a run prints at its end."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from pilot_secure.summary import ClientSummary, Moment, Summary, TaskSummary, task_summaries

METRIC_LABELS = {
    "vqa_accuracy": "accuracy %",
    "scienceqa_accuracy": "accuracy %",
    "ocrvqa_accuracy": "accuracy %",
    "cider": "CIDEr",
    "grounding_iou50": "IoU@0.5 %",
}

_METRICS_WITH_A_FORM = ("scienceqa_accuracy", "grounding_iou50")

REPORT_WIDTH = 100
_FAULTS = {"vanished": "before", "late": "too late for", "lost": "without an answer in"}


def report_console() -> Console:
    """Return standard output; where it is no terminal, wide enough for the tables."""
    console = Console()
    return console if console.is_terminal else Console(width=REPORT_WIDTH)


def print_report(console: Console, summary: Summary, folder: Path) -> None:
    """Print scores, costs, drop-outs and notes of a run."""
    console.print(scores_table(summary))
    console.print(phases_table(summary))
    for line in drop_out_lines(summary):
        console.print(line, highlight=False)
    privacy, exposure = privacy_table(summary), effective_privacy_table(summary)
    if privacy is not None and summary.privacy is not None:
        console.print(privacy)
        for caveat in summary.privacy.caveats:
            console.print(f"privacy: {caveat}", highlight=False)
    if exposure is not None:
        console.print(exposure)
        console.print(f"views: {_LEGEND}", highlight=False)
        if privacy is not None:
            console.print(f"views: {_NOISED_LEGEND}", highlight=False)
    for line in leakage_lines(summary):
        console.print(line, highlight=False)
    for line in selection_lines(summary):
        console.print(line, highlight=False)
    for note in summary.notes:
        console.print(f"note: {note}", highlight=False)
    memory = summary.peak_memory_bytes / 2**20
    minutes, seconds = divmod(round(summary.wall_seconds), 60)
    console.print(
        f"wall time {minutes} min {seconds} s, peak memory {memory:,.0f} MiB", highlight=False
    )
    console.print(f"run folder: {folder}", highlight=False, soft_wrap=True)


def scores_table(summary: Summary) -> Table:
    """One row a client, and the mean of each task.

    Answers of the last model that had not the form that the metric needs are counted apart, for
    the metrics that need one.
    """
    table = Table(title=_title(summary), box=box.SIMPLE_HEAD, title_justify="left")
    for name in ("client", "task", "metric"):
        table.add_column(name, no_wrap=True)
    for name in ("samples", "before", "after\nlocal", "after\naggr.", "un-\nparsed"):
        table.add_column(name, justify="right", no_wrap=True)
    for task in task_summaries(summary.clients):
        for client in summary.clients:
            if client.task == task.task:
                label = METRIC_LABELS.get(client.metric, client.metric)
                cells = [client.client, task.task, label, str(client.samples)]
                table.add_row(*cells, *_scores(client), _unparsed(client, client.test_samples))
        asked = sum(c.test_samples for c in summary.clients if c.task == task.task)
        cells = ["mean", task.task, "", "", *_scores(task)]
        table.add_row(*cells, _unparsed(task, asked), style="bold")
        table.add_section()
    return table


def _scores(scored: ClientSummary | TaskSummary) -> list[str]:
    scores = (scored.before, scored.after_local, scored.after_aggregation)
    return ["–" if score is None else f"{score:.1f}" for score in scores]


def _unparsed(scored: ClientSummary | TaskSummary, asked: int) -> str:
    """How many of the last answers, or an empty cell for a metric that takes any text."""
    last: tuple[Moment, ...] = ("after_aggregation", "after_local", "before")
    if scored.metric not in _METRICS_WITH_A_FORM:
        return ""
    counts = [scored.unparsed[moment] for moment in last if moment in scored.unparsed]
    return f"{counts[0]}/{asked}" if counts else "–"


def _title(summary: Summary) -> str:
    mode = "secure aggregation" if summary.secure_agg else "in the clear"
    return f"{summary.method} on {summary.scenario}, seed {summary.seed}, {mode}"


def phases_table(summary: Summary) -> Table:
    """One row a phase: seconds, and megabytes over all clients."""
    table = Table(title="cost of each phase", box=box.SIMPLE_HEAD, title_justify="left")
    table.add_column("phase")
    for name in ("seconds", "MB up", "MB down"):
        table.add_column(name, justify="right")
    for phase in summary.phases:
        table.add_row(
            phase.phase,
            f"{phase.seconds:.2f}",
            f"{phase.upload_bytes / 1e6:.3f}",
            f"{phase.download_bytes / 1e6:.3f}",
        )
    table.add_section()
    table.add_row(
        "all",
        f"{sum(p.seconds for p in summary.phases):.2f}",
        f"{sum(p.upload_bytes for p in summary.phases) / 1e6:.3f}",
        f"{sum(p.download_bytes for p in summary.phases) / 1e6:.3f}",
    )
    return table


def drop_out_lines(summary: Summary) -> list[str]:
    """One line for each client that dropped out."""
    return [
        f"dropped out: {d.client} {_FAULTS[d.fault]} "
        f"{d.phase} in round {d.round}, stage {d.stage}, attempt {d.attempt}"
        for d in summary.drop_outs
    ]


def privacy_table(summary: Summary) -> Table | None:
    """One row a client: its noise multiplier and epsilon; None for a run without noise."""
    privacy = summary.privacy
    if privacy is None:
        return None
    what = "one training example" if privacy.unit == "example" else "a client's whole update"
    table = Table(
        title=f"differential privacy of {what} ({privacy.adjacency.replace('_', ' ')}), "
        f"delta {privacy.delta:.2g}, clipping norm {privacy.clipping_norm:g}",
        box=box.SIMPLE_HEAD,
        title_justify="left",
    )
    table.add_column("client")
    for name in ("noise multiplier", "epsilon"):
        table.add_column(name, justify="right")
    for client, noise in privacy.noise_multiplier.items():
        epsilon = privacy.epsilon[client]
        reason = f"∞ ({privacy.reasons.get(client)})"
        table.add_row(client, f"{noise:.3f}", reason if epsilon is None else f"{epsilon:.3f}")
    return table


def effective_privacy_table(summary: Summary) -> Table | None:
    """One row a client: its exposure to the server, the key holder and the worst coalition.

    None where nothing is exchanged.
    """
    entries = _entries(summary)
    viewers = sorted({_viewer(entry) for entry in entries}, key=_viewer_order)
    if not entries:
        return None
    noised = any(entry["epsilon"] is not None for entry in entries)
    table = Table(title="what each view tells of a client", box=box.SIMPLE_HEAD)
    table.title_justify = "left"
    table.add_column("client")
    for viewer in viewers:
        table.add_column(viewer, justify="right")
    for client in sorted({entry["client"] for entry in entries}):
        cells = []
        for viewer in viewers:
            seen = [e for e in entries if e["client"] == client and _viewer(e) == viewer]
            cells.append(_exposure(max(seen, key=_exposedness), noised) if seen else "–")
        table.add_row(client, *cells)
    return table


_LEGEND = (
    "leverage of the client's vectors in what is seen (1: determined; 0: nothing beyond what the "
    "others' vectors cover), and distances seen"
)
_NOISED_LEGEND = (
    "mu of Gaussian DP under client-level noise, where a distance, or a choice of neighbours that "
    "is visible, counts as the whole update; epsilon at the run's delta"
)


def _entries(summary: Summary) -> list[dict[str, Any]]:
    return list((summary.leakage.model_extra or {}).get("effective_privacy", []))


def _viewer(entry: dict[str, Any]) -> str:
    size = len(entry["members"])
    if not size:
        return str(entry["viewer"]).replace("_", " ")
    return "worst other client" if size == 1 else f"worst coalition of {size}"


def _viewer_order(viewer: str) -> tuple[bool, bool, str]:
    return viewer.startswith("worst"), viewer.startswith("worst c"), viewer


def _exposedness(entry: dict[str, Any]) -> tuple[float, float, int]:
    mu = math.inf if entry["mu"] is None else entry["mu"]
    return mu, max(entry["leverage"].values(), default=0.0), entry["distances"]


def _exposure(entry: dict[str, Any], noised: bool) -> str:
    words = [
        f"{vector.split('_')[0]} {leverage:.2f}"
        for vector, leverage in sorted(entry["leverage"].items())
    ]
    if entry["distances"]:
        words.append(f"{entry['distances']} dist.")
    if noised:
        epsilon = entry["epsilon"]
        if entry["mu"] is not None:
            words.append(f"mu {entry['mu']:.2f}")
        words.append("eps ∞" if epsilon is None else f"eps {epsilon:.2f}")
    return ", ".join(words)


SHOWN_CHANGES = 10


def selection_lines(summary: Summary) -> list[str]:
    """Which neighbours exact distances would have chosen otherwise, and how near the ties were."""
    check = summary.selection_check
    if check is None:
        return []
    lines = [
        f"neighbours: {check.unchanged} of {check.selections} selections are those of exact "
        "distances (a check that only a simulation can make)"
    ]
    for entry in check.changed[:SHOWN_CHANGES]:
        gap = 100 * (entry.chosen_distance / entry.passed_over_distance - 1)
        lines.append(
            f"near-tie: round {entry.round}, stage {entry.stage}: {entry.client} chose "
            f"{entry.chosen} at {entry.chosen_distance:.4g} over {entry.passed_over} at "
            f"{entry.passed_over_distance:.4g} ({gap:+.2f} %)"
        )
    more = len(check.changed) - SHOWN_CHANGES
    return [*lines, f"near-tie: {more} more in summary.json"] if more > 0 else lines


def leakage_lines(summary: Summary) -> list[str]:
    """Rank and leverage of the worst views, cheaters' bits, and sums one client apart."""
    extra = summary.leakage.model_extra or {}
    lines = _worst_lines(extra.get("aggregations", []))
    if "distances" in extra:
        bits = extra["distances"]["malicious_bits_per_victim_and_aggregation"]
        more = extra["distances"]["malicious_bits_with_the_server"]
        helped = f" ({more:.0f} with the server's help)" if more > bits else ""
        lines.append(
            f"leakage: colluding clients that cheat learn at most {bits:.0f} bits{helped} of a "
            "victim's text adapter from distances in an aggregation"
        )
        holder = extra["distances"].get("key_holder")
        if holder:
            lines.append(
                f"leakage: the key holder learned {holder['distances']} distances and "
                f"{holder['norms']} norms of text adapters in the run, and no coordinate; together "
                "with any one client it reads every sketch"
            )
    for entry in extra.get("close_survivors", []):
        lines.append(
            f"leakage: {entry['sum']} of {entry['earlier']} and {entry['later']} differ by "
            f"{', '.join(entry['clients'])} alone"
        )
    return lines


def _worst_lines(aggregations: list[dict[str, Any]]) -> list[str]:
    """For the server and coalitions of each size, the aggregation that tells most of a vector."""
    worst: dict[tuple[int, str], tuple[dict[str, Any], dict[str, Any]]] = {}
    for aggregation in aggregations:
        for view in aggregation["worst"]:
            place = (view["coalition_size"], view["vector"])
            if place not in worst or view["leverage"] > worst[place][1]["leverage"]:
                worst[place] = aggregation, view
    lines = [
        _worst_line(vector, aggregation, view)
        for (_size, vector), (aggregation, view) in sorted(worst.items())
    ]
    left_out = max((entry["coalitions_left_out"] for entry in aggregations), default=0)
    if left_out:
        lines.append(
            f"leakage: {left_out} of the largest coalitions were too many to look at: what they "
            "see is not told here"
        )
    return lines


def _worst_line(vector: str, aggregation: dict[str, Any], view: dict[str, Any]) -> str:
    viewer = f"leakage: {', '.join(view['viewer'])} saw"
    if not view["sums"]:
        return f"{viewer} no sum of {vector}"
    return (
        f"{viewer} {view['sums']} sums of {vector} of rank {view['rank']}: leverage "
        f"{view['leverage']:.2f} of {view['victim']}, the most exposed (round "
        f"{aggregation['round']}, stage {aggregation['stage']})"
    )
