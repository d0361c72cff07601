import copy

import pytest
import torch
from peft import PeftModel
from tiny_models import random_llava

from pilot_secure.models import (
    attach_text_adapter,
    load_text_adapter_state,
    text_adapter_parameters,
    text_adapter_state,
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
