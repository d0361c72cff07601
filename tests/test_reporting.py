"""The tables and lines that a run prints."""

from __future__ import annotations

from conftest import FinishedRun
from rich.console import Console

from pilot_secure.reporting import effective_privacy_table, leakage_lines
from pilot_secure.summary import Leakage, Summary


def printed(summary: Summary) -> str:
    console = Console(width=120, record=True)
    console.print(effective_privacy_table(summary))
    return console.export_text()


def test_every_clients_exposure_is_printed_with_its_meaning(secure_run: FinishedRun) -> None:
    text = printed(secure_run.summary)
    assert "worst other client" in text and "leverage of the client's vectors" in text
    rows = [line for line in text.splitlines() if line.strip().startswith("client-")]
    assert len(rows) == 9
    assert all("text 0.00" in row and "dist." in row and "mu" not in row for row in rows)
    lines = leakage_lines(secure_run.summary)
    assert any("colluding clients that cheat" in line for line in lines)


def test_in_the_clear_the_server_sees_everything(clear_run: FinishedRun) -> None:
    rows = [line for line in printed(clear_run.summary).splitlines() if "client-" in line]
    assert len(rows) == 9 and all("task 1.00, text 1.00" in row for row in rows)
    assert leakage_lines(clear_run.summary) == []


def test_a_run_without_an_exchange_has_no_views(clear_run: FinishedRun) -> None:
    summary = clear_run.summary
    assert effective_privacy_table(summary.model_copy(update={"leakage": Leakage()})) is None
