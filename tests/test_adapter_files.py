"""Adapters on disk: PEFT loads the LoRA by itself, the connector comes back as it was."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from pilot_secure.adapter_files import (
    ConnectorDescription,
    load_connector,
    restore_connector,
    save_connector,
    save_text_adapter,
)
from pilot_secure.errors import RunFolderError

TOKENS = torch.tensor([[1, 2, 3, 4]])


def _base() -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=11,
            hidden_size=8,
            intermediate_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
        )
    ).eval()


def _lora() -> LoraConfig:
    return LoraConfig(r=2, lora_alpha=4, target_modules=r".*layers\.\d+\..*\.(q_proj|v_proj)")


@torch.no_grad()
def test_plain_peft_loads_the_text_adapter(tmp_path: Path) -> None:
    trained = get_peft_model(_base(), _lora())
    for name, parameter in trained.named_parameters():
        if "lora_" in name:
            parameter.normal_()
    state = get_peft_model_state_dict(trained)
    save_text_adapter(tmp_path, trained.peft_config["default"], state, base="tiny")
    loaded = PeftModel.from_pretrained(_base(), tmp_path)
    expected = trained.eval()(TOKENS).logits
    assert torch.equal(loaded(TOKENS).logits, expected)
    assert not torch.allclose(_base()(TOKENS).logits, expected)
    assert loaded.peft_config["default"].base_model_name_or_path == "tiny"


def test_only_lora_matrices_are_saved_as_a_text_adapter(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="connector.weight"):
        save_text_adapter(tmp_path, _lora(), {"connector.weight": torch.zeros(1)}, base="tiny")
    with pytest.raises(ValueError, match="nothing"):
        save_text_adapter(tmp_path, _lora(), {}, base="tiny")


def test_connector_comes_back(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Linear(3, 4), nn.GELU(), nn.Linear(4, 2))
    description = ConnectorDescription(kind="mixture", arguments={"tasks": 3, "init": "task"})
    save_connector(tmp_path, description, module.state_dict())
    other = nn.Sequential(nn.Linear(3, 4), nn.GELU(), nn.Linear(4, 2))
    assert restore_connector(other, tmp_path) == description
    features = torch.randn(5, 3)
    assert torch.equal(other(features), module(features))
    with pytest.raises(RunFolderError, match=r"connector\.safetensors: .*size mismatch"):
        restore_connector(nn.Sequential(nn.Linear(3, 5), nn.GELU(), nn.Linear(5, 2)), tmp_path)


def test_broken_connector_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match=r"connector\.json: there is no such file"):
        load_connector(tmp_path)
    save_connector(tmp_path, ConnectorDescription(kind="x"), {"w": torch.zeros(2)})
    (tmp_path / "connector.safetensors").write_bytes(b"cut")
    with pytest.raises(RunFolderError, match="no safetensors file"):
        load_connector(tmp_path)
    (tmp_path / "connector.json").write_text("{}")
    with pytest.raises(RunFolderError, match="no connector description"):
        load_connector(tmp_path)
