import copy

import pytest
import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from tiny_models import random_llava

from pilot_secure.models import (
    PERSONAL,
    SHARED,
    attach_text_adapter,
    load_text_adapter_state,
    text_adapter_parameters,
    text_adapter_state,
    use_personal_adapter,
    weighted_adapters,
)

OPTIONS = {"rank": 2, "alpha": 4, "dropout": 0.0}


def attached(seed: int = 0) -> PeftModel:
    return attach_text_adapter(random_llava(), seed=seed, **OPTIONS)


def test_lora_sits_on_the_seven_language_linears_alone():
    model = attached()
    trainable = {name for name, p in model.named_parameters() if p.requires_grad}
    assert all("language_model" in name and "lora_" in name for name in trainable)
    layers = {name.split(".")[-2] for name in text_adapter_parameters(model)}
    assert layers == {"lora_A", "lora_B"}
    linears = {name.split(".")[-3] for name in text_adapter_parameters(model)}
    assert linears == {
        *("q_proj", "k_proj", "v_proj", "o_proj"),
        *("gate_proj", "up_proj", "down_proj"),
    }
    assert len(trainable) == len(text_adapter_parameters(model)) == 14


def test_the_start_is_fixed_by_the_seed_and_leaves_the_global_one_alone():
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    first = text_adapter_state(attached(seed=1))
    assert torch.rand(1) == expected
    again, other = text_adapter_state(attached(seed=1)), text_adapter_state(attached(seed=2))
    assert all(torch.equal(first[k], again[k]) for k in first)
    assert any(not torch.equal(first[k], other[k]) for k in first)


def test_state_round_trip_is_a_copy():
    model = attached()
    state = text_adapter_state(model)
    before = copy.deepcopy(state)
    load_text_adapter_state(model, {k: v + 1 for k, v in state.items()})
    assert all(torch.equal(state[k], before[k]) for k in state)
    for name, value in text_adapter_state(model).items():
        torch.testing.assert_close(value, before[name] + 1)


def test_foreign_names_are_refused():
    model = attached()
    state = text_adapter_state(model)
    state["surplus"] = torch.zeros(1)
    with pytest.raises(ValueError, match="surplus"):
        load_text_adapter_state(model, state)


def test_names_are_those_of_peft_files(tmp_path):
    model = attached()
    load_text_adapter_state(model, {k: v + 0.5 for k, v in text_adapter_state(model).items()})
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(random_llava(), tmp_path)
    expected, got = text_adapter_state(model), text_adapter_state(loaded)
    assert expected.keys() == got.keys()
    assert all(torch.equal(expected[k], got[k]) for k in expected)


def test_weights_scale_each_adapters_part_for_each_sample() -> None:
    """Outputs are linear in the weights: base + w·shared + v·personal, row by row."""
    model = attached()
    use_personal_adapter(model, True)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for adapter in (SHARED, PERSONAL):
            for parameter in text_adapter_parameters(model, adapter).values():
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
    layer = next(m for m in model.modules() if isinstance(m, LoraLayer))
    inputs = torch.randn(2, 3, layer.in_features, generator=generator)

    def out(shared: float | torch.Tensor, personal: float | torch.Tensor) -> torch.Tensor:
        with weighted_adapters(model, {SHARED: shared, PERSONAL: personal}), torch.no_grad():
            return layer(inputs)

    base = out(0.0, 0.0)
    parts = {SHARED: out(1.0, 0.0) - base, PERSONAL: out(0.0, 1.0) - base}
    assert all(part.abs().max() > 0.1 for part in parts.values())
    w, v = torch.tensor([0.25, 1.0]), torch.tensor([2.0, 0.0])
    expected = base + w.view(2, 1, 1) * parts[SHARED] + v.view(2, 1, 1) * parts[PERSONAL]
    torch.testing.assert_close(out(w, v), expected)
    with torch.no_grad():  # no hook stays
        torch.testing.assert_close(layer(inputs), base + parts[SHARED] + parts[PERSONAL])


def test_a_personal_adapter_that_is_off_takes_no_part() -> None:
    model = attached()
    before = text_adapter_state(model)
    use_personal_adapter(model, True)
    assert text_adapter_state(model, PERSONAL).keys() == before.keys()
    use_personal_adapter(model, False)
    with torch.no_grad():
        for parameter in text_adapter_parameters(model, PERSONAL).values():
            parameter.fill_(5.0)
    layer = next(m for m in model.modules() if isinstance(m, LoraLayer))
    inputs = torch.ones(1, 1, layer.in_features)
    torch.testing.assert_close(layer(inputs), layer.base_layer(inputs))  # B of the shared is zero
    for name, tensor in text_adapter_state(model).items():
        assert torch.equal(tensor, before[name])
