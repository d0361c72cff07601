"""What parties agree on before a run, and that each notices where another's differs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from conftest import merged
from pydantic import TypeAdapter

from pilot_secure.config import SimulationConfig
from pilot_secure.errors import RunFolderError
from pilot_secure.flower.parties import write_public
from pilot_secure.flower.party_folder import PartyFolder
from pilot_secure.flower.terms import Terms, agreed_digest, read_config, read_terms
from pilot_secure.privacy.planning import NoisePlan
from protocols import Entropy, Identity, Roster
from protocols.identity import SERVER

PLAN = NoisePlan("client", "zero_out", 1e-5, 0.5, {"client-01": 1.25}, 8)
TERMS: dict[str, Any] = {
    "tasks": {"client-01": "a", "client-02": "b"},
    "max_samples": 8,
    "vector_lengths": {"text_adapter": 20},
    "base_sha256": "0" * 64,
    "noise": TypeAdapter(NoisePlan).dump_python(PLAN, mode="json"),
}
FLOWER = {"run": {"engine": "flower"}, "security": {"secure_agg": True}}
PEOPLE = [Identity.generate(n, Entropy()) for n in (SERVER, "client-01", "client-02", "client-03")]
ROSTER = Roster.of(PEOPLE[0], PEOPLE[1:3])


def party(
    path: Path,
    config: Mapping[str, Any] | None = None,
    terms: Mapping[str, Any] | None = None,
    roster: Roster = ROSTER,
) -> PartyFolder:
    folder = PartyFolder(path)
    settings = SimulationConfig.model_validate(merged(FLOWER, config or {}))
    write_public(folder, settings, roster, Terms(**{**TERMS, **(terms or {})}))
    return folder


def test_terms_come_back_as_they_were(tmp_path: Path) -> None:
    folder = party(tmp_path / "a")
    assert read_terms(folder).noise_plan == PLAN
    assert read_terms(folder).tasks == TERMS["tasks"]
    assert read_config(folder).run.engine == "flower"
    assert read_terms(party(tmp_path / "b", terms={"noise": None})).noise_plan is None


def test_parties_with_files_of_their_own_agree(tmp_path: Path) -> None:
    ours = agreed_digest(party(tmp_path / "a"))
    elsewhere = {"run": {"out": tmp_path / "x", "report_metrics": True}}
    assert agreed_digest(party(tmp_path / "b", elsewhere)) == ours


@pytest.mark.parametrize(
    "change",
    [
        {"config": {"security": {"threshold": 9}}},
        {"config": {"training": {"learning_rate_stage1": 1e-3}}},
        {"terms": {"max_samples": 16}},
        {"terms": {"tasks": {"client-01": "b", "client-02": "b"}}},
        {"terms": {"noise": None}},
        {"terms": {"base_sha256": "1" * 64}},
        {"roster": Roster.of(PEOPLE[0], [PEOPLE[1], PEOPLE[3]])},
    ],
)
def test_any_other_difference_is_noticed(tmp_path: Path, change: dict[str, Any]) -> None:
    assert agreed_digest(party(tmp_path / "a")) != agreed_digest(party(tmp_path / "b", **change))


def test_a_folder_that_is_none_is_told_in_a_sentence(tmp_path: Path) -> None:
    folder = party(tmp_path / "a")
    (folder.path / "terms.json").write_text("{}")
    with pytest.raises(RunFolderError, match=r"terms\.json: no terms of a run"):
        read_terms(folder)
    (folder.path / "roster.json").write_text("[]")
    with pytest.raises(RunFolderError, match=r"roster\.json: no roster"):
        _ = PartyFolder(folder.path).roster
    with pytest.raises(RunFolderError, match=r"identity\.json"):
        _ = folder.identity
    with pytest.raises(RunFolderError, match="is no name of a run"):
        folder.join("../elsewhere")
