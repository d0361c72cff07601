"""The model card that is shipped beside the checkpoint, with its measured figures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pilot_secure.data import SCENARIOS
from pilot_secure.data.tasks import PRETRAINING_MIXTURE
from pilot_secure.pretraining.evaluate import Figures

_CARD = """\
---
license: apache-2.0
pipeline_tag: image-text-to-text
library_name: transformers
---

# tiny-llava

A LLaVA of {parameters:.2f} million parameters for experiments on a laptop: 48-pixel images, 36
image tokens, four transformer blocks in the vision tower and in the language model, a word-level
vocabulary of {vocabulary}. It knows drawn shapes, their colours and places, and three-letter words
on book covers, and nothing of the real world. It is the embedded default of pilot-secure.

    from transformers import AutoProcessor, LlavaForConditionalGeneration
    model = LlavaForConditionalGeneration.from_pretrained("tiny-llava")
    processor = AutoProcessor.from_pretrained("tiny-llava")

Prompts are those of LLaVA-1.5 (Vicuna v1 template); `pilot_secure.data.prompts` writes them.

## How it was made

`{command}`

1. {images} images were drawn (four fifths scenes of one to four shapes, one fifth book covers) with
   nine instructions each; nothing was taken from elsewhere.
2. Vision tower, {tower_steps} steps of 64 images: for each patch the shape or letter, its box and
   its *apparent* colour, under random cameras. No name of a colour enters, so that a camera it has
   not met does not spoil what it sees.
3. Connector and language model, {answer_steps} steps of 32 images in three passes, the tower
   frozen: answers to all kinds of instruction, on images without a camera, each under an answer
   convention drawn from the mixture below. In the second pass every answer weighs the same however
   long, in the others every token: letters of options need the one, the frequencies of conventions
   the other.

{mixture}

Seed {seed}; {minutes:.0f} minutes on two CPU cores that were shared with other work.

## How good it is

In percent (CIDEr times 100), greedy generation. *In general*: {samples} fresh samples of each task,
without camera, in the commonest convention.

| task | metric | in general |
|---|---|---|
{general}

By kind of question: {kinds}. Guessing among the options that a hint leaves open gives
about 50 in multiple choice.

*Zero-shot on the clients' test data* (default strengths, seed {seed}), with their cameras and
conventions, which it is for the clients to learn:

{clients}

Figures: `evaluation.json`, by `python -m pilot_secure.pretrain --evaluate`.

## Limits

Words outside its vocabulary become `<unk>`; it can answer only with words that were targets above.
Numbers in boxes have two decimals in steps of 0.05. Apache-2.0, as the project.
"""


def model_card(
    figures: Figures,
    *,
    parameters: int,
    vocabulary: int,
    command: str,
    images: int,
    tower_steps: int,
    answer_steps: Sequence[int],
    seed: int,
    minutes: float,
) -> str:
    """The text of the card."""
    return _CARD.format(
        parameters=parameters / 1e6,
        vocabulary=vocabulary,
        command=command,
        images=images,
        tower_steps=tower_steps,
        answer_steps=" + ".join(map(str, answer_steps)),
        seed=seed,
        minutes=minutes,
        samples=figures.samples,
        mixture=_mixture(),
        general=_general(figures),
        kinds=", ".join(f"{kind} {value:.0f}" for kind, value in figures.kinds.items()),
        clients=_clients(figures),
    )


def write_card(folder: Path, text: str) -> None:
    """Write the card where model hubs look for it."""
    (folder / "README.md").write_text(text)


def _mixture() -> str:
    return "\n".join(
        f"   - {field}: " + ", ".join(f"{name} {100 * share:.0f} %" for name, share in mix.items())
        for field, mix in PRETRAINING_MIXTURE.items()
    )


def _general(figures: Figures) -> str:
    metrics = {task.name: task.metric for tasks in SCENARIOS.values() for task in tasks}
    return "\n".join(
        f"| {task} | {metrics[task]} | {value:.1f} |" for task, value in figures.general.items()
    )


def _clients(figures: Figures) -> str:
    lines = ["| scenario | task | clients |", "|---|---|---|"]
    for scenario, scores in figures.clients.items():
        tasks, values = SCENARIOS[scenario], list(scores.values())
        each = len(values) // len(tasks)
        for i, task in enumerate(tasks):
            own = ", ".join(f"{value:.1f}" for value in values[i * each : (i + 1) * each])
            lines.append(f"| {scenario} | {task.name} | {own} |")
    return "\n".join(lines)
