"""Good runs pass; what is missing, cut, edited or huge never does."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from good_runs import make_good_run
from in_process import KEY_HOLDER_TRUST

from pilot_secure.audit.__main__ import main
from pilot_secure.audit.bundle import Bundle
from pilot_secure.audit.rules import ALL
from pilot_secure.audit.verdicts import AuditReport, Verdict
from pilot_secure.audit.verify import verify
from protocols import Identity, Roster
from protocols.entropy import DeterministicEntropy

NEEDS_ESCROW = {"M01", "M04"}


def audit(run: Path) -> AuditReport:
    return verify(Bundle.open(run))


def failed(report: AuditReport) -> dict[str, list[str]]:
    return {
        result.id: [finding.found for finding in result.findings]
        for result in report.results
        if result.verdict is Verdict.FAIL
    }


def unchecked(report: AuditReport) -> set[str]:
    return {r.id for r in report.results if r.verdict is Verdict.NOT_CHECKABLE}


@pytest.fixture
def copy(good_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(good_run, tmp_path / "copy"))


def test_there_are_the_rules_of_the_design() -> None:
    ids = [rule.id for rule in ALL]
    assert len(set(ids)) == len(ids) == 25
    assert "".join(sorted(set(name[0] for name in ids))) == "BDHKLMST"


def test_a_good_run_passes(good_run: Path) -> None:
    report = audit(good_run)
    assert failed(report) == {}
    assert unchecked(report) == NEEDS_ESCROW
    assert report.exit_code == 0
    assert all(r.checked or r.notes for r in report.results if r.verdict is Verdict.PASS)


SIX: dict[str, Any] = {"count": 6, "rounds": 1}
FIVE: dict[str, Any] = {"count": 5, "plain": True}
VISIBLE = {"neighbour_visibility": "visible"}
GOOD: dict[str, dict[str, Any]] = {
    "nine, visible": VISIBLE | {"drop_before": {"select": {"client-05"}}},
    "six": {"count": 6, "drop_before": {"masked_input": {"client-02"}}},
    "six, visible": SIX | VISIBLE,
    "key holder": SIX | KEY_HOLDER_TRUST,
    "key holder, visible": SIX
    | KEY_HOLDER_TRUST
    | VISIBLE
    | {"drop_before": {"masked_input": {"client-02"}}},
    "exact distances": SIX | {"sketch_size": None},
    "16 bits": FIVE | {"ring_bits": 16},
    "24 bits": FIVE | {"ring_bits": 24},
    "32 bits": FIVE | {"ring_bits": 32},
    "gone at advertise": FIVE | {"drop_before": {"advertise": {"client-01"}}, "rounds": 1},
    "gone at share": FIVE | {"drop_before": {"share": {"client-02"}}, "rounds": 1},
    "gone at upload": FIVE | {"drop_before": {"masked_input": {"client-02"}}, "rounds": 1},
    "gone at consistency": FIVE | {"drop_before": {"consistency": {"client-03"}}},
    "gone at unmask": FIVE | {"drop_before": {"unmask": {"client-01"}}},
    "gone at deliver": FIVE | {"drop_before": {"deliver": {"client-04"}}},
    "late with its shares": FIVE | {"late_in": {"share": {"client-03"}}, "rounds": 1},
    "late with its upload": FIVE | {"late_in": {"masked_input": {"client-03"}}, "rounds": 1},
    "late to unmask": FIVE | {"late_in": {"unmask": {"client-03"}}},
    "literal": SIX | {"eq12": "literal"},
}


@pytest.mark.parametrize("kind", GOOD)
def test_no_false_alarm(kind: str, tmp_path: Path) -> None:
    report = audit(make_good_run(tmp_path / "run", **GOOD[kind]))
    assert failed(report) == {}
    assert unchecked(report) == NEEDS_ESCROW
    assert report.exit_code == 0


def test_an_aborted_attempt_is_no_alarm(tmp_path: Path) -> None:
    gone = {"client-01", "client-02"}
    run = make_good_run(tmp_path / "run", **FIVE, drop_before={"consistency": gone})
    report = audit(run)
    assert failed(report) == {}
    assert report.attempts[-1].opened == ()


def test_hashes_alone_show_that_nothing_was_deleted(tmp_path: Path) -> None:
    run = make_good_run(tmp_path / "run", **FIVE, keep_payloads=False)
    report = audit(run)
    assert failed(report) == {}
    assert report.result("T01").verdict is Verdict.PASS
    assert report.result("S01").verdict is Verdict.PASS
    assert {"T02", "T03", "S02", "S06", "M03", "B01"} <= unchecked(report)
    assert report.exit_code == 4
    assert report.payloads == 10  # the receipts


def test_the_command_prints_what_the_json_says(
    good_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify", str(good_run), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["exit_code"] == 0
    assert len(printed["results"]) == 25
    assert main(["verify", str(good_run)]) == 0
    table = capsys.readouterr().out
    for result in printed["results"]:
        assert f"{result['id']}  {result['verdict']}" in table


def test_a_bundle_holds_what_is_needed_and_nothing_else(
    good_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Path(shutil.copytree(good_run, tmp_path / "run"))
    for name in ("config.yaml", "summary.json", "escrow.json", "adapters/client-01/x", "state/y"):
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_text("secret")
    assert main(["export", str(run)]) == 0
    out = tmp_path / "run-audit"
    names = {path.relative_to(out).parts[0] for path in out.iterdir()}
    files = {"transcript.jsonl", "heads.jsonl", "roster.json", "ledger.json"}
    assert names == files | {"payloads", "parameters"}
    assert audit(out).results == audit(good_run).results
    assert main(["export", str(run)]) == 2
    assert "expected a new or empty folder" in capsys.readouterr().err


# --- what is spoilt -----------------------------------------------------------------------------


def lines_of(run: Path) -> list[bytes]:
    return (run / "transcript.jsonl").read_bytes().splitlines(keepends=True)


def write_lines(run: Path, lines: list[bytes]) -> None:
    (run / "transcript.jsonl").write_bytes(b"".join(lines))


def edited(run: Path, place: int, **changes: object) -> None:
    lines = lines_of(run)
    lines[place] = json.dumps({**json.loads(lines[place]), **changes}).encode() + b"\n"
    write_lines(run, lines)


def swap(run: Path) -> None:
    lines = lines_of(run)
    lines[5], lines[6] = lines[6], lines[5]
    write_lines(run, lines)


SPOILT: dict[str, Callable[[Path], object]] = {
    "a line deleted": lambda run: write_lines(run, lines_of(run)[:7] + lines_of(run)[8:]),
    "the end deleted": lambda run: write_lines(run, lines_of(run)[:-5]),
    "two lines swapped": swap,
    "another recipient": lambda run: edited(run, 4, recipient="client-07"),
    "a longer message": lambda run: edited(run, 4, length=4000),
    "a number edited": lambda run: edited(run, 4, seq=40),
    "a number that JSON cannot hold": lambda run: edited(run, 4, length=1 << 54),
    "another payload": lambda run: edited(run, 4, payload="../../etc/passwd"),
    "a huge number": lambda run: edited(run, 4, length=10**400),
    "not UTF-8": lambda run: write_lines(run, [*lines_of(run)[:9], b"\xff\xfe\n"]),
    "not JSON": lambda run: write_lines(run, [*lines_of(run)[:9], b"{{{{\n"]),
    "deeply nested": lambda run: write_lines(run, [*lines_of(run)[:9], b"[" * 60000 + b"\n"]),
    "a huge line": lambda run: write_lines(run, [*lines_of(run)[:9], b"x" * (1 << 20)]),
    "heads edited": lambda run: (run / "heads.jsonl").write_bytes(b"\xff\xff\n"),
    "other bytes in a payload": lambda run: next((run / "payloads").iterdir()).write_bytes(b"x"),
}


@pytest.mark.parametrize("what", SPOILT)
def test_a_spoilt_transcript_fails(copy: Path, what: str) -> None:
    SPOILT[what](copy)
    report = audit(copy)
    assert "T01" in failed(report)
    assert report.exit_code == 3


def test_a_transcript_cut_at_a_head_is_not_taken_for_a_whole_one(copy: Path) -> None:
    """What a killed run leaves, or somebody who hides the last rounds."""
    heads = (copy / "heads.jsonl").read_bytes().splitlines(keepends=True)
    first = json.loads(heads[0])
    (copy / "heads.jsonl").write_bytes(heads[0])
    write_lines(copy, [*lines_of(copy)[: first["count"] + 3], b'{"seq": 1'])
    report = audit(copy)
    assert failed(report) == {}
    assert report.result("T01").verdict is Verdict.NOT_CHECKABLE
    assert "head of the run's end" in " ".join(report.result("T01").missing)
    assert report.exit_code == 4


@pytest.mark.parametrize("lost", ["payloads", "parameters", "heads.jsonl", "ledger.json"])
def test_missing_evidence_is_named_and_does_not_pass(copy: Path, lost: str) -> None:
    path = copy / lost
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    report = audit(copy)
    assert report.exit_code == (0 if lost == "ledger.json" else 4)  # D01 is not of T, K and S
    assert all(r.missing for r in report.results if r.verdict is Verdict.NOT_CHECKABLE)
    assert len(unchecked(report)) > len(NEEDS_ESCROW)


def test_an_empty_transcript_never_passes(copy: Path) -> None:
    write_lines(copy, [])
    (copy / "heads.jsonl").unlink()
    report = audit(copy)
    assert report.exit_code == 4
    assert all(r.verdict is not Verdict.PASS for r in report.results if r.id[0] in "TKS")


def test_one_missing_payload_is_named(copy: Path) -> None:
    record = json.loads(lines_of(copy)[30])
    (copy / record["payload"]).unlink()
    report = audit(copy)
    assert report.exit_code in (3, 4)
    assert report.result("T02").verdict is Verdict.NOT_CHECKABLE


def test_a_wrong_roster_fails(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    people = [
        Identity.generate(name, DeterministicEntropy(name.encode() * 9))
        for name in ("server", *(f"client-0{i}" for i in range(1, 10)))
    ]
    other = copy.parent / "other.json"
    other.write_text(Roster.of(people[0], people[1:]).model_dump_json())
    report = verify(Bundle.open(copy, other))
    assert {"T01", "T02", "K03", "S03"} <= set(failed(report))
    assert main(["verify", str(copy), "--roster", str(other)]) == 3
    for content in ("", "[]", "{}", "\x00"):
        other.write_text(content)
        assert main(["verify", str(copy), "--roster", str(other)]) == 2
        assert capsys.readouterr().err.count("\n") == 1
    assert main(["verify", str(copy), "--roster", str(copy / "none.json")]) == 2


def test_another_protocol_version_is_no_known_message(copy: Path) -> None:
    from recorded import rewrite

    rewrite(copy, 3, lambda body: {**body, "version": 2})
    report = audit(copy)
    assert "version" in failed(report)["T03"][0]
    assert report.exit_code == 3


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["verify"],
        ["verify", "/none"],
        ["verify", "."],
        ["verify", ".", "--max-leverage", "2"],
        ["verify", ".", "--max-leverage", "nan"],
        ["verify", ".", "--max-leverage", "much"],
        ["export", "/none"],
        ["nonsense"],
    ],
)
def test_a_mistake_is_one_sentence(
    arguments: list[str], capsys: Any, monkeypatch: Any, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    told = capsys.readouterr().err
    assert told.startswith("error: ")
    assert told.count("\n") == 1
