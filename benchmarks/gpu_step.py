"""What a training step of LLaVA-1.5-7B costs: seconds, peak memory, utilisation of the chip.

    python -m benchmarks.gpu_step            # on a CUDA device: 7B shapes, batch 16, length 700
    python -m benchmarks.gpu_step --tiny     # tiny shapes, on anything

Weights and data are random and nothing is downloaded: a step's cost depends on shapes alone. The
steps are the worker's own: Pilot's stage 1 (two adapters), its stage 2 (six, of three tasks), and
one adapter with the text adapter alone (plain LoRA + connector). FLOPs are counted by torch over
one step, recomputed activations included, and divided by the chip's dense bf16 peak.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict, dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

from pilot_secure.config import ModelConfig, SimulationConfig, TrainingConfig
from pilot_secure.data import EncodedSample
from pilot_secure.federation.methods import METHODS
from pilot_secure.federation.state import ClientState
from pilot_secure.federation.worker import Samples, Worker
from pilot_secure.models import ImageFeatures
from pilot_secure.models.shapes import llava_config

SEVEN_B = "llava-hf/llava-1.5-7b-hf"
TASKS = ("task-1", "task-2", "task-3")
STEPS = {"stage 1": ("pilot", 1), "stage 2": ("pilot", 2), "LoRA + connector": ("fedavg", 1)}
PEAK_BF16_FLOPS = {
    "A100": 312e12,
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "H200 NVL": 835e12,
    "H200": 989e12,
    "L40S": 362e12,
    "A10G": 70e12,
    "A10": 125e12,
}
"""Dense tensor-core peaks from the vendor's data sheets; the first name that fits counts."""
ANSWER_TOKENS = 24


@dataclass(frozen=True)
class Measurement:
    """One kind of step; utilisation is None where the chip's peak is not known."""

    step: str
    device: str
    batch_size: int
    length: int
    seconds: float
    peak_memory_gib: float | None
    tflop: float
    utilisation: float | None


def tiny_config() -> LlavaConfig:
    return LlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=32,
            patch_size=8,
        ),
        text_config=LlamaConfig(
            vocab_size=64,
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
        ),
        image_token_index=63,
        image_seq_length=16,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
    )


class _Padding:
    """All that a training step asks of a processor: what pads a batch."""

    class tokenizer:  # noqa: N801
        pad_token_id = 0


def random_worker(config: LlavaConfig, batch: int, *, seven_b: bool, checkpointing: bool) -> Worker:
    model = ModelConfig(
        lora_rank=64 if seven_b else 2,
        lora_alpha=128 if seven_b else 4,
        lora_dropout=0.05,
        adapter_init_scale=1.0,
        mixed_precision="bf16" if seven_b else "no",
    )
    training = TrainingConfig(batch_size=batch, gradient_checkpointing=checkpointing)

    def load(_base: str, *, dtype: torch.dtype, device: torch.device) -> tuple[object, _Padding]:
        before = torch.get_default_dtype()
        torch.set_default_dtype(dtype)
        try:
            with torch.device(device):
                base = LlavaForConditionalGeneration(config)
        finally:
            torch.set_default_dtype(before)
        return base.requires_grad_(False).eval(), _Padding()

    return Worker(model, training, seed=0, load=load)


def random_samples(config: LlavaConfig, count: int, length: int) -> Samples:
    """``count`` samples of ``length`` tokens, one image each, with short answers."""
    image_tokens = config.image_seq_length
    generator = torch.Generator().manual_seed(0)
    words = torch.randint(
        1, config.image_token_index - 1, (count, length - image_tokens), generator=generator
    ).tolist()
    image = [config.image_token_index] * image_tokens
    answer = min(ANSWER_TOKENS, (length - image_tokens) // 2)
    encoded = [
        EncodedSample((row[0], *image, *row[1:]), prompt_length=length - answer) for row in words
    ]
    width = config.vision_config.hidden_size
    features = [torch.randn(image_tokens, width, generator=generator) for _ in range(count)]
    return Samples(encoded, ImageFeatures(features, torch.arange(count)))


def measure(
    name: str, worker: Worker, config: LlavaConfig, batch: int, length: int, repeats: int
) -> Measurement:
    """Train one client: one step whose FLOPs are counted, one to warm up, then the timed ones."""
    method_name, stage = STEPS[name]
    settings = SimulationConfig.model_validate({"federation": {"method": method_name}})
    method = METHODS[method_name](settings, tasks=TASKS)
    state = ClientState(text_adapter=worker.initial_text_adapter())
    method.begin_stage(state, stage, worker, TASKS[0])
    cuda = worker.accelerator.device.type == "cuda"

    def steps(count: int) -> list[float]:
        moments = []

        def done(_seconds: float) -> None:
            if cuda:
                torch.cuda.synchronize()
            moments.append(time.perf_counter())

        worker.train(
            state,
            random_samples(config, count * batch, length),
            stage=stage,
            label=name,
            journal=lambda *_: None,
            progress=done,
        )
        return [later - earlier for earlier, later in zip(moments, moments[1:], strict=False)]

    with FlopCounterMode(display=False) as counter:
        steps(1)
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    seconds = sorted(steps(repeats + 1))[repeats // 2]
    device = torch.cuda.get_device_name() if cuda else "CPU"
    flops = counter.get_total_flops()
    peak = next((value for part, value in PEAK_BF16_FLOPS.items() if part in device), None)
    return Measurement(
        step=name,
        device=device,
        batch_size=batch,
        length=length,
        seconds=seconds,
        peak_memory_gib=torch.cuda.max_memory_allocated() / 2**30 if cuda else None,
        tflop=flops / 1e12,
        utilisation=flops / seconds / peak if peak else None,
    )


def main(argv: list[str] | None = None) -> list[Measurement]:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--tiny", action="store_true", help="tiny shapes, batch 2, length 24")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--length", type=int, default=700)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--no-checkpointing", action="store_true")
    given = parser.parse_args(argv)
    if not given.tiny and not torch.cuda.is_available():
        parser.error("no CUDA device: 7B shapes need one; --tiny runs on anything")
    config = tiny_config() if given.tiny else llava_config(SEVEN_B)
    batch, length = (2, 24) if given.tiny else (given.batch, given.length)
    worker = random_worker(
        config, batch, seven_b=not given.tiny, checkpointing=not given.no_checkpointing
    )
    measured = []
    for name in STEPS:
        measured.append(measure(name, worker, config, batch, length, given.repeats))
        print(json.dumps(asdict(measured[-1])), flush=True)
    return measured


if __name__ == "__main__":
    main()
