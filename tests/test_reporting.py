"""The tables and lines that a run prints."""

from __future__ import annotations

from conftest import FinishedRun
from rich.console import Console

from pilot_secure.reporting import effective_privacy_table, leakage_lines, scores_table
from pilot_secure.summary import ClientSummary, Leakage, Summary, task_summaries


def printed(summary: Summary) -> str:
    console = Console(width=120, record=True)
    console.print(effective_privacy_table(summary))
    return console.export_text()


def test_every_clients_exposure_is_printed_with_its_meaning(secure_run: FinishedRun) -> None:
    text = printed(secure_run.summary)
    assert "worst other client" in text
    rows = [line for line in text.splitlines() if line.strip().startswith("client-")]
    assert len(rows) == 9
    assert all("text 0.00" in row and "dist." in row and "mu" not in row for row in rows)
    lines = leakage_lines(secure_run.summary)
    assert any("colluding clients that cheat" in line for line in lines)


def test_rank_and_leverage_of_the_worst_views_are_printed(secure_run: FinishedRun) -> None:
    summary = secure_run.summary
    aggregations = summary.leakage.model_extra["aggregations"]
    lines = [line for line in leakage_lines(summary) if " saw " in line]
    views = [(a, view) for a in aggregations for view in a["worst"]]
    assert len(lines) == len({(v["coalition_size"], v["vector"]) for _a, v in views})
    for vector in ("task_adapter", "text_adapter"):
        for size, who in ((0, "server"), (1, "client-")):
            seen = [v for _a, v in views if (v["vector"], v["coalition_size"]) == (vector, size)]
            most = max(view["leverage"] for view in seen)
            (line,) = [x for x in lines if vector in x and x.startswith(f"leakage: {who}")]
            told = f"leverage {most:.2f} of" if most else f"saw no sum of {vector}"
            assert told in line and (" of rank " in line) == (most > 0)
    assert "leakage: server saw no sum of text_adapter" in lines
    left_out = {"aggregations": [{**aggregations[0], "coalitions_left_out": 7}]}
    told = leakage_lines(summary.model_copy(update={"leakage": Leakage(**left_out)}))
    assert any("7 of the largest coalitions were too many" in line for line in told)


def test_in_the_clear_the_server_sees_everything(clear_run: FinishedRun) -> None:
    rows = [line for line in printed(clear_run.summary).splitlines() if "client-" in line]
    assert len(rows) == 9 and all("task 1.00, text 1.00" in row for row in rows)
    assert leakage_lines(clear_run.summary) == []


def test_a_run_without_an_exchange_has_no_views(clear_run: FinishedRun) -> None:
    summary = clear_run.summary
    assert effective_privacy_table(summary.model_copy(update={"leakage": Leakage()})) is None


def client(name: str, task: str, metric: str, score: float | None, unparsed: int) -> ClientSummary:
    return ClientSummary(
        client=name,
        task=task,
        samples=8,
        test_samples=20,
        metric=metric,
        before=10.0,
        after_local=20.0,
        after_aggregation=score,
        unparsed={"before": 9, "after_aggregation": unparsed},
    )


def test_scores_and_unparsed_answers_are_told_for_clients_and_tasks(
    secure_run: FinishedRun,
) -> None:
    clients = (
        client("a", "boxes", "grounding_iou50", 30.0, 2),
        client("b", "boxes", "grounding_iou50", 45.0, 3),
        client("c", "captions", "cider", 60.0, 0),
        client("d", "captions", "cider", None, 0),
        client("e", "mixed", "cider", 1.0, 0),
        client("f", "mixed", "vqa_accuracy", 2.0, 0),
    )
    boxes, captions, mixed = task_summaries(clients)
    assert (boxes.metric, boxes.clients, boxes.after_aggregation) == ("grounding_iou50", 2, 37.5)
    assert boxes.unparsed == {"before": 18, "after_aggregation": 5}
    assert (captions.after_local, captions.after_aggregation) == (20.0, None)
    assert (mixed.metric, mixed.after_local, mixed.after_aggregation) == (None, None, None)
    console = Console(width=100, record=True)
    console.print(scores_table(secure_run.summary.model_copy(update={"clients": clients})))
    rows = [line.split() for line in console.export_text().splitlines() if line.strip()]
    assert ["a", "boxes", "IoU@0.5", "%", "8", "10.0", "20.0", "30.0", "2/20"] in rows
    assert ["mean", "boxes", "10.0", "20.0", "37.5", "5/40"] in rows
    assert ["d", "captions", "CIDEr", "8", "10.0", "20.0", "–"] in rows


def test_a_runs_summary_has_its_tasks(secure_run: FinishedRun) -> None:
    summary = secure_run.summary
    assert [task.clients for task in summary.tasks] == [3, 3, 3]
    assert summary.tasks == task_summaries(summary.clients)
    boxes = next(task for task in summary.tasks if task.metric == "grounding_iou50")
    of_boxes = [client for client in summary.clients if client.task == boxes.task]
    assert boxes.unparsed["after_aggregation"] == sum(
        client.unparsed["after_aggregation"] for client in of_boxes
    )
    assert boxes.unparsed["before"] > 0  # an untrained model of one token an answer
