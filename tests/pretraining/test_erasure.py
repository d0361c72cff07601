"""Erasing a concept from a connector: by hand, in general, and as a command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from pilot_secure.colour_blind import main
from pilot_secure.models import base_connector, load_base
from pilot_secure.pretraining.erasure import erasure, features_and_colours, without
from pilot_secure.pretraining.pool import draw_pool


def test_of_two_uncorrelated_features_the_one_that_tells_is_set_to_its_mean() -> None:
    """Features (±1 + 3, ±2) over all four signs; the concept is the first one's sign."""
    features = torch.tensor([[4.0, 2.0], [4.0, -2.0], [2.0, 2.0], [2.0, -2.0]])
    erased = erasure(features, torch.tensor([[1.0], [1.0], [-1.0], [-1.0]]))
    assert erased.rank == 1
    expected = torch.tensor([[3.0, 2.0], [3.0, -2.0], [3.0, 2.0], [3.0, -2.0]])
    assert torch.allclose(erased(features).float(), expected, atol=1e-6)


def test_nothing_linear_is_left_and_nothing_else_is_lost() -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(400, 6, generator=generator) @ torch.randn(6, 6, generator=generator)
    concept = features[:, :2] @ torch.randn(2, 2, generator=generator) + features[:, :2] ** 2
    erased = erasure(features, concept)
    left = erased(features)
    centred = concept.double() - concept.double().mean(0)
    assert float((left.T @ centred / len(left)).abs().max()) < 1e-6
    assert erased.rank == 2
    assert torch.linalg.matrix_rank(left - left.mean(0), atol=1e-4) == 4
    assert torch.allclose(left.mean(0), features.double().mean(0))


def test_what_does_not_correlate_cannot_be_erased() -> None:
    with pytest.raises(ValueError, match="nothing to erase"):
        erasure(torch.randn(8, 2), torch.ones(8, 1))


def test_a_connector_takes_the_erasure_into_its_first_layer(tiny_base: Path) -> None:
    model, _ = load_base(tiny_base)
    pool = draw_pool(12, seed=1, cover_share=0.5, exchanges=1, processes=1)
    features, colours = features_and_colours(model, pool, seed=0)
    assert features.shape == (len(colours), 16) and colours.shape[1] == 3
    assert float(colours.min()) >= 0 and float(colours.max()) <= 1
    connector, erased = base_connector(model), erasure(features, colours)
    changed = without(connector, erased)
    expected = connector(erased(features).float())
    assert torch.allclose(changed(features), expected, atol=1e-5)
    assert not torch.allclose(connector(features), expected, atol=1e-3)


def test_the_command_writes_a_checkpoint_that_differs_in_one_layer(
    tiny_base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "blind"
    arguments = ["--base", str(tiny_base), "--images", "12", "--out", str(out)]
    assert main(arguments) == 0
    before, after = (load_base(path)[0].state_dict() for path in (tiny_base, out))
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    layer = "model.multi_modal_projector.linear_1"
    assert moved == {f"{layer}.weight", f"{layer}.bias"}
    assert json.loads((out / "recipe.json").read_text())["rank"] == 3
    capsys.readouterr()
    assert main(arguments) == 2
    assert "--out: expected an empty or a new folder" in capsys.readouterr().err
