"""The benchmark of training steps runs on any machine with tiny shapes."""

from __future__ import annotations

import pytest

from benchmarks.gpu_step import main, tiny_config


def test_each_kind_of_step_is_measured() -> None:
    first, second, plain = main(["--tiny", "--repeats", "3"])
    assert [m.step for m in (first, second, plain)] == ["stage 1", "stage 2", "LoRA + connector"]
    assert all(m.seconds > 0 and m.device == "CPU" and m.length == 24 for m in (first, second))
    assert plain.tflop < first.tflop < second.tflop  # one, two, six adapters
    text = tiny_config().text_config
    width, inner = text.hidden_size, text.intermediate_size
    linears = text.num_hidden_layers * (4 * width**2 + 3 * width * inner)
    forward = 2 * linears * 2 * 24  # multiply-adds of the blocks' linears on 2 x 24 tokens
    assert plain.tflop * 1e12 > 3 * forward  # forward, recomputed forward, backward to the inputs


def test_seven_billion_need_a_gpu(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(SystemExit):
        main([])
    assert "no CUDA device" in capsys.readouterr().err
