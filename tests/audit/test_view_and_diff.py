"""What parties saw, and where two runs part."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from good_runs import make_good_run

from pilot_secure.audit.__main__ import main
from pilot_secure.audit.bundle import Bundle
from pilot_secure.audit.diff import diff
from pilot_secure.audit.view import view
from pilot_secure.privacy import ClientLedger, Ledger, LocalNoise, SharedNoise, with_claims
from pilot_secure.privacy.accountants import gaussian_epsilon


@pytest.fixture(scope="module")
def plain_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_good_run(tmp_path_factory.mktemp("plain") / "run", plain=True, count=5)


def test_a_client_saw_its_own_messages(good_run: Path) -> None:
    found = view(Bundle.open(good_run), ("client-03",))
    assert all("client-03" in (m.sender, m.recipient) for m in found.messages)
    assert len(found.messages) == 2 * 2 * 9  # rounds, directions, phases
    advert = next(m for m in found.messages if m.kind == "advertisement")
    assert advert.fields["share_key"].startswith("32 bytes ")
    by_vector = {d.view.vector: d.view for d in found.determined}
    assert by_vector["task_adapter"].rank == 3
    assert by_vector["text_adapter"].num_sums == 1
    # its own task of three: two unknown vectors, one equation
    assert by_vector["task_adapter"].leverage["client-06"] == pytest.approx(0.5)


def test_the_server_saw_everything_and_no_text_adapter(good_run: Path) -> None:
    found = view(Bundle.open(good_run), ("server",))
    assert len(found.messages) == 324
    text = [d.view for d in found.determined if d.view.vector == "text_adapter"]
    assert all(v.rank == 0 and set(v.leverage.values()) == {0.0} for v in text)


def test_a_coalition_knows_more(good_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["view", str(good_run), "--coalition", "1,4", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["viewer"] == ["client-01", "client-04"]
    task = next(d["view"] for d in found["determined"] if d["view"]["vector"] == "task_adapter")
    assert task["leverage"]["client-07"] == pytest.approx(1.0)  # the third of their task


def with_ledger(run: Path, copy: Path, *, shared: bool = False) -> Path:
    """A copy of a run of nine with a ledger of local or shared noise, in both rounds."""
    shutil.copytree(run, copy)
    cohort = [f"client-0{i}" for i in range(1, 10)]
    local = {"stage": 1, "noise_multiplier": 4.0, "clipping_norm": 1.0, "uploads": 1}
    ring = {
        "stage": 1,
        "sum": "all",
        "vector": "task_adapter",
        "noise_steps": 4000,
        "steps_per_unit": 1000.0,
        "clipping_norm": 1.0,
        "coordinates": 100,
        "weights": dict.fromkeys(cohort, 1.0),
    }
    releases = tuple(
        SharedNoise(round=number, **ring) if shared else LocalNoise(round=number, **local)
        for number in (1, 2)
    )
    clients = [ClientLedger(client=c, task="t", num_examples=64, releases=releases) for c in cohort]
    ledger = Ledger(
        unit="client", adjacency="zero_out", delta=1e-5, max_colluders=1, clients=tuple(clients)
    )
    (copy / "ledger.json").write_bytes(with_claims(ledger).to_json())
    return copy


def test_a_ledger_gives_every_view_its_own_epsilon(
    good_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = with_ledger(good_run, tmp_path / "run")
    whole = gaussian_epsilon((2 / 16) ** 0.5, 1e-5)
    found = view(Bundle.open(run), ("server",))
    assert list(found.claimed.values()) == pytest.approx([whole] * 9)
    # its task of three, in two rounds: a third of the noised update each time
    servers = gaussian_epsilon((2 / 3 / 16) ** 0.5, 1e-5)
    assert [e.epsilon for e in found.effective] == pytest.approx([servers] * 9)
    clients = view(Bundle.open(run), ("client-01", "client-04"))
    assert {e.client for e in clients.effective} == set(found.claimed) - {"client-01", "client-04"}
    # who reads a client's distances is credited with its whole update
    assert [e.epsilon for e in clients.effective] == pytest.approx([whole] * 7)
    assert main(["view", str(run), "--party", "server"]) == 0
    assert f"effective epsilon {servers:.3f} in this view" in capsys.readouterr().out


def test_a_claim_on_shared_noise_does_not_hold_against_more_colluders(
    good_run: Path, tmp_path: Path
) -> None:
    run = with_ledger(good_run, tmp_path / "run", shared=True)
    assert None not in {e.epsilon for e in view(Bundle.open(run), ("client-01",)).effective}
    both = view(Bundle.open(run), ("client-01", "client-04"))
    assert {e.epsilon for e in both.effective} == {None}


def test_who_holds_which_distances(tmp_path: Path) -> None:
    from in_process import KEY_HOLDER_TRUST

    run = make_good_run(tmp_path / "run", count=6, rounds=1, **KEY_HOLDER_TRUST)
    known = {}
    for party in ("server", "client-03", "key-holder"):
        found = view(Bundle.open(run), (party,)).determined
        known[party] = {d.view.vector: d.view.num_distances for d in found}
    assert [known[party]["text_adapter"] for party in known] == [0, 5, 15]
    assert {known[party]["task_adapter"] for party in known} == {0}


@pytest.mark.parametrize(
    "arguments",
    [
        ["--party", "nobody"],
        ["--coalition", "0"],
        ["--coalition", "1,,2"],
        ["--coalition", "¹"],
        ["--coalition", "9" * 5000],
        [],
    ],
)
def test_who_is_no_party_is_told(
    good_run: Path, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["view", str(good_run), *arguments]) == 2
    assert capsys.readouterr().err.startswith("error: ")


def test_views_and_differences_print(plain_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["view", str(plain_run), "--party", "server"]) == 0
    assert "rank 1" in capsys.readouterr().out
    assert main(["diff", str(plain_run), str(plain_run)]) == 0
    assert "the transcripts are the same" in capsys.readouterr().out


def test_a_run_is_the_same_as_its_copy(plain_run: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(plain_run, tmp_path / "copy"))
    assert diff(Bundle.open(plain_run), Bundle.open(copy)).same


def test_two_runs_part_where_a_client_dropped_out(plain_run: Path, tmp_path: Path) -> None:
    other = make_good_run(
        tmp_path / "other", plain=True, count=5, drop_before={"unmask": {"client-02"}}
    )
    found = diff(Bundle.open(plain_run), Bundle.open(other))
    assert found.course is not None and found.course.a is not None and found.course.b is not None
    assert (found.course.a.sender, found.course.b.sender) == ("client-02", "client-03")
    assert found.course.a.kind == "unmask_shares"
    assert found.records_b < found.records_a
    assert found.bytes == found.course  # the same seeds until then


def test_runs_of_equal_course_part_by_their_ids(
    plain_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = make_good_run(tmp_path / "other", plain=True, count=5, run_id="run-2")
    assert main(["diff", str(plain_run), str(other)]) == 0
    told = capsys.readouterr().out
    assert "first other bytes: entry 0, run, session or signature" in told
    assert "first other course of events: none" in told


def test_the_page_holds_the_report_and_loads_nothing(plain_run: Path, tmp_path: Path) -> None:
    """How it looks and behaves is for `make report-check`."""
    page = tmp_path / "report.html"
    assert main(["verify", str(plain_run), "--html", str(page)]) == 0
    text = page.read_text(encoding="utf-8")
    data = text.split('type="application/json">')[1].split("</script>")[0]
    content = json.loads(data)
    assert len(content["report"]["results"]) == 25
    assert len(content["messages"]) == content["report"]["records"]
    assert "://" not in text.replace("http://www.w3.org/2000/svg", "")
