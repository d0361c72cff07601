"""Averaging LoRA's matrices against averaging their products, by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks.averaging import apart, main


def adapter(a: float, b: float) -> dict[str, torch.Tensor]:
    return {"q.lora_A.weight": torch.tensor([[a]]), "q.lora_B.weight": torch.tensor([[b]])}


def test_the_product_of_means_is_not_the_mean_of_products() -> None:
    """Products 1·1 and 3·3 have the mean 5, the means' product is 2·2: error 1/5, norm 4/5."""
    error, cosine, norm = apart([adapter(1.0, 1.0), adapter(3.0, 3.0)])
    assert (error, cosine, norm) == pytest.approx((0.2, 1.0, 0.8))


def test_equal_adapters_have_nothing_between_them() -> None:
    assert apart([adapter(2.0, 5.0)] * 3) == pytest.approx((0.0, 1.0, 1.0))


def test_a_wrong_run_folder_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(tmp_path / "none")]) == 2
    (sentence,) = capsys.readouterr().err.splitlines()
    assert str(tmp_path / "none") in sentence


@pytest.mark.parametrize("m", ["0", "-1"])
def test_eq_12_has_at_least_one_neighbour(m: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["run", "--num-neighbours", m])
    assert end.value.code == 2
    assert "--num-neighbours: expected an integer of at least 1" in capsys.readouterr().err
