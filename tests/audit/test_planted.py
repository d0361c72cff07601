"""Every rule finds the violation that is planted for it, and no rule cries about another's."""

from __future__ import annotations

from pathlib import Path

import pytest
from planting import NEEDS_ESCROW, PLANTS

from pilot_secure.audit.bundle import Bundle, read_escrow
from pilot_secure.audit.rules import ALL
from pilot_secure.audit.verdicts import Verdict
from pilot_secure.audit.verify import replay, verify

ALSO = {"T01": {"T04"}}
"""A message that was deleted leaves a gap in the order of phases, too."""


def test_there_is_a_violation_for_every_rule() -> None:
    assert list(PLANTS) == [rule.id for rule in ALL]


@pytest.mark.parametrize("rule", PLANTS)
def test_a_planted_violation_is_found(rule: str, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    PLANTS[rule](folder)
    bundle = Bundle.open(folder)
    if rule in NEEDS_ESCROW:
        assert verify(bundle).exit_code == 0  # without the escrow nobody can tell
        report = replay(bundle, read_escrow(folder / "escrow.json"))
    else:
        report = verify(bundle)
    found = {r.id for r in report.results if r.verdict is Verdict.FAIL}
    assert rule in found
    assert found <= {rule} | ALSO.get(rule, set())
    assert report.exit_code == 3
    assert all(finding.found and finding.expected for finding in report.result(rule).findings)
