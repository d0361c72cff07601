"""The parts of pretraining: the vision tower alone, then connector and language model.

1. The tower learns what can be seen, patch by patch: shape or letter, box, and *apparent* colour
   under random cameras. Names of colours never enter, so a new camera leaves it intact.
2. The tower is frozen. Connector and language model learn to answer, on features of images
   without a camera, under all conventions mixed; passes weigh tokens or answers
   alike.

All follow schedules in steps, with all randomness derived from (seed, step): a run that is
resumed from its last saved state continues as if it had not stopped.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import LlavaForConditionalGeneration, PreTrainedTokenizerBase

from pilot_secure.data.collate import IGNORED
from pilot_secure.models.base import image_outputs
from pilot_secure.models.tiny import IMAGE_TOKENS, PIXEL_MEAN, PIXEL_STD
from pilot_secure.pretraining.packing import pack, prefix_ids, tokenise, within_budget
from pilot_secure.pretraining.pool import PATCH_CLASSES, Pool


@dataclass(frozen=True)
class Plan:
    """How one part is trained: steps of ``batch_size`` images, and where its state is kept."""

    steps: int
    batch_size: int
    learning_rate: float
    seed: int
    state_file: Path


SAVE_EVERY = 250
TOKEN_BUDGET = 96  # of the exchanges packed after one image
Report = Callable[[str], None]


def normalised(images: Tensor) -> Tensor:
    """Images float [B, 3, H, W] in 0..1 as pixel values of the processor's scale."""
    return (images.clamp(0, 1) - PIXEL_MEAN) / PIXEL_STD


def random_cameras(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Random colour maps, half of them the identity. Returns [B, 3, 3] and [B, 3].

    Channel gains of 0.35 to 1, up to 60 % of mixing towards grey, small offsets, and haze (lower
    contrast, lighter) for a fifth of the images.
    """

    def uniform(*shape: int) -> Tensor:
        return torch.rand(count, *shape, generator=generator)

    identity = torch.eye(3)
    matrix = identity * (0.35 + 0.65 * uniform(3, 1))
    mixing = 0.6 * uniform(1, 1) * (uniform(1, 1) < 0.5)
    haze, used = (uniform() < 0.2).float(), (uniform() < 0.5).float()
    matrix = ((1 - mixing) * matrix + mixing / 3) * (1 - 0.4 * haze)[:, None, None]
    offset = 0.12 * uniform(3) + 0.25 * haze[:, None]
    chosen = used[:, None, None]
    return chosen * matrix + (1 - chosen) * identity, offset * used[:, None]


def photographs(images: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Images uint8 [B, H, W, 3] under random cameras, with noise.

    Returns the pixel values [B, 3, H, W] of the processor's scale, and the cameras.
    """
    x = images.permute(0, 3, 1, 2).float() / 255
    matrix, offset = random_cameras(len(x), generator)
    x = torch.einsum("bij,bjhw->bihw", matrix, x) + offset[:, :, None, None]
    noise = torch.rand(len(x), 1, 1, 1, generator=generator) * 16 / 255
    return normalised(x + noise * torch.randn(x.shape, generator=generator)), matrix, offset


def apparent_colours(colours: Tensor, matrix: Tensor, offset: Tensor) -> Tensor:
    """What colours uint8 [B, P, 3] look like to a camera, in 0..1."""
    seen = torch.einsum("bij,bpj->bpi", matrix, colours.float() / 255)
    return (seen + offset[:, None]).clamp(0, 1)


def train_tower(
    model: LlavaForConditionalGeneration,
    pool: Pool,
    *,
    steps: int,
    seed: int,
    state_file: Path,
    report: Report,
    batch_size: int = 64,
    learning_rate: float = 1e-3,
) -> None:
    """Train the vision tower on the pool's dense targets; its probe is thrown away."""
    tower = model.model.vision_tower
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        probe = nn.Linear(tower.config.hidden_size, PATCH_CLASSES + 4 + 3)
    images = torch.from_numpy(pool.images)

    def loss_of(rows: Tensor, generator: torch.Generator) -> tuple[Tensor, str]:
        x, matrix, offset = photographs(images[rows], generator)
        with torch.autocast("cpu", torch.bfloat16):
            seen = probe(tower(x).last_hidden_state[:, 1:])
        return _dense_loss(seen.float(), pool, rows, matrix, offset)

    trained = nn.ModuleList([tower, probe])
    plan = Plan(steps, batch_size, learning_rate, seed, state_file)
    _train(trained, loss_of, len(images), plan, report)


def _dense_loss(
    seen: Tensor, pool: Pool, rows: Tensor, matrix: Tensor, offset: Tensor
) -> tuple[Tensor, str]:
    """Class, box and apparent colour of each patch. ``seen``: [B, P, PATCH_CLASSES + 7]."""
    index = rows.numpy()
    classes = torch.from_numpy(pool.classes[index].astype(np.int64))
    boxes = torch.from_numpy(pool.boxes[index].astype(np.float32))
    apparent = apparent_colours(torch.from_numpy(pool.colours[index]), matrix, offset)
    there = classes > 0
    kind = F.cross_entropy(seen[..., :PATCH_CLASSES].flatten(0, 1), classes.flatten())
    place = (seen[..., PATCH_CLASSES:-3] - boxes).abs()[there].mean()
    tint = (seen[..., -3:] - apparent).abs()[there].mean()
    return kind + 3 * place + 3 * tint, f"class {kind:.3f} box {place:.3f} colour {tint:.3f}"


@torch.no_grad()
def pool_features(model: LlavaForConditionalGeneration, pool: Pool, *, seed: int) -> Tensor:
    """Vision features of the pool without camera, with light noise. float16 [N, P, hidden]."""
    tower = model.model.vision_tower.eval()
    generator = torch.Generator().manual_seed(seed)
    features = []
    for start in range(0, len(pool.images), 250):
        x = torch.from_numpy(pool.images[start : start + 250]).permute(0, 3, 1, 2).float() / 255
        noise = torch.rand(len(x), 1, 1, 1, generator=generator) * 12 / 255
        x = normalised(x + noise * torch.randn(x.shape, generator=generator))
        features.append(tower(x).last_hidden_state[:, 1:].half())
    return torch.cat(features)


def train_answers(
    model: LlavaForConditionalGeneration,
    tokenizer: PreTrainedTokenizerBase,
    pool: Pool,
    features: Tensor,
    *,
    steps: int,
    seed: int,
    state_file: Path,
    report: Report,
    batch_size: int = 32,
    learning_rate: float = 2e-3,
    length_power: float = 0.0,
) -> None:
    """Train connector and language model on packed exchanges, the tower's features given.

    A token of an answer of n tokens weighs n ** -length_power: at 0 all tokens alike, so that
    captions and boxes count most, at 1 all answers alike.
    """
    prefix = prefix_ids(tokenizer, IMAGE_TOKENS)
    packed = tokenise(tokenizer, pool.exchanges)
    core, head = model.model, model.lm_head
    model.set_attn_implementation("eager")  # half the time of sdpa backwards, under a 4-D mask

    def loss_of(rows: Tensor, generator: torch.Generator) -> tuple[Tensor, str]:
        starts = torch.randint(1000, (len(rows),), generator=generator).tolist()
        chosen = [
            within_budget(packed[row], start, TOKEN_BUDGET)
            for row, start in zip(rows.tolist(), starts, strict=True)
        ]
        batch = pack(prefix, chosen, tokenizer.pad_token_id)
        hidden = torch.zeros(batch.attention_mask.shape, dtype=torch.bfloat16)
        hidden.masked_fill_(~batch.attention_mask, torch.finfo(torch.bfloat16).min)
        tokens = core.multi_modal_projector(features[rows].float())
        with torch.autocast("cpu", torch.bfloat16):
            states = core(
                input_ids=batch.input_ids,
                position_ids=batch.position_ids,
                attention_mask=hidden,
                mm_encoder_outputs=image_outputs(tokens),
                use_cache=False,
            ).last_hidden_state[:, :-1]
        targets = batch.labels[:, 1:]
        answered = targets != IGNORED
        losses = F.cross_entropy(
            head(states[answered].float()), targets[answered], reduction="none"
        )
        weights = batch.answer_lengths[:, 1:][answered].float() ** -length_power
        return (weights * losses).sum() / weights.sum(), f"loss {losses.mean():.3f}"

    trained = nn.ModuleList([core.multi_modal_projector, core.language_model, head])
    plan = Plan(steps, batch_size, learning_rate, seed, state_file)
    _train(trained, loss_of, len(features), plan, report)
    model.set_attn_implementation("sdpa")


def _train(
    trained: nn.Module,
    loss_of: Callable[[Tensor, torch.Generator], tuple[Tensor, str]],
    size: int,
    plan: Plan,
    report: Report,
) -> None:
    """AdamW with warm-up and cosine decay over ``size`` images, resumable."""
    trained.train().requires_grad_(True)
    parameters = list(trained.parameters())
    optimiser = torch.optim.AdamW(
        parameters, plan.learning_rate, weight_decay=0.01, betas=(0.9, 0.98)
    )
    first = _restore(plan.state_file, trained, optimiser)
    began = time.monotonic()
    for step in range(first, plan.steps):
        for group in optimiser.param_groups:
            group["lr"] = plan.learning_rate * _schedule(step, plan.steps)
        generator = torch.Generator().manual_seed(plan.seed * 1_000_003 + step)
        loss, figures = loss_of(_rows(step, plan.batch_size, size, plan.seed), generator)
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        done = step + 1
        if done % 50 == 0 or done == plan.steps:
            left = (time.monotonic() - began) / (done - first) * (plan.steps - done)
            report(f"step {done}/{plan.steps}, {left:.0f} s left: {figures}")
        if done % SAVE_EVERY == 0 or done == plan.steps:
            _save(plan.state_file, trained, optimiser, done)
    trained.eval().requires_grad_(False)


def _schedule(step: int, steps: int, warm_up: int = 100) -> float:
    return min(1.0, (step + 1) / warm_up) * max(0.02, 0.5 * (1 + math.cos(math.pi * step / steps)))


def _rows(step: int, batch_size: int, size: int, seed: int) -> Tensor:
    """The images of one step: a fresh permutation per epoch, the rest of an epoch dropped."""
    per_epoch = max(1, size // batch_size)
    epoch, place = divmod(step, per_epoch)
    generator = torch.Generator().manual_seed(seed * 7919 + epoch)
    return torch.randperm(size, generator=generator)[place * batch_size : (place + 1) * batch_size]


def _restore(state_file: Path, trained: nn.Module, optimiser: torch.optim.Optimizer) -> int:
    if not state_file.exists():
        return 0
    state = torch.load(state_file, weights_only=True)
    trained.load_state_dict(state["weights"])
    optimiser.load_state_dict(state["optimiser"])
    return int(state["step"])


def _save(
    state_file: Path, trained: nn.Module, optimiser: torch.optim.Optimizer, step: int
) -> None:
    state_file.parent.mkdir(parents=True, exist_ok=True)
    fresh = state_file.with_suffix(".new")
    state = {"weights": trained.state_dict(), "optimiser": optimiser.state_dict(), "step": step}
    torch.save(state, fresh)
    os.replace(fresh, state_file)
