"""Make the shipped base checkpoint: ``python -m pilot_secure.pretrain --out DIR``.

Runs on the CPU in about half an hour on two free cores. Deterministic by seed on one machine; if
it is stopped, the same command goes on from the last saved step. ``--evaluate`` scores a checkpoint
(the shipped one unless ``--out`` is given) and writes its figures and model card.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import torch

from pilot_secure import command_line
from pilot_secure.errors import UsageError
from pilot_secure.libraries import quieten_libraries
from pilot_secure.models import SHIPPED_CHECKPOINT, load_base
from pilot_secure.models.tiny import build_model, build_processor
from pilot_secure.pretraining.card import model_card, write_card
from pilot_secure.pretraining.evaluate import evaluate_base
from pilot_secure.pretraining.pool import draw_pool
from pilot_secure.pretraining.steps import pool_features, train_answers, train_tower

RECIPE_FILE = "recipe.json"

# Passes of connector and language model: name, peak learning rate, length power. Averaged over
# tokens alone, option letters hardly count beside boxes and captions and are not learned; averaged
# over answers, short wordings seem commoner than they are. So: tokens, answers, tokens.
PASSES = (("answers", 2e-3, 0.0), ("refinement", 1.5e-3, 1.0), ("settling", 8e-4, 0.0))


@command_line.main
def main(arguments: list[str] | None = None) -> int:
    """Train the base model (or go on with it) and write the checkpoint, or evaluate one.

    Returns the exit code: 2 after a mistake of the caller, told in a sentence.
    """
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.out is None:
        if not options.evaluate:
            parser.error("--out is needed: the shipped checkpoint is not overwritten unasked")
        options.out = SHIPPED_CHECKPOINT
    if options.out.exists() and not options.out.is_dir():
        parser.error(f"argument --out: expected a folder, {options.out} is a file")
    quieten_libraries()
    torch.set_num_threads(options.threads)
    report = _reporter()
    if not options.evaluate:
        _pretrain(options, report)
    _evaluate(options, report)
    return 0


def _pretrain(options: argparse.Namespace, report: Callable[[str], None]) -> None:
    began = time.monotonic()
    work = options.work or options.out.with_name(options.out.name + "-work")
    report(f"drawing {options.images} images")
    pool = draw_pool(options.images, seed=options.seed, processes=options.threads)
    model, processor = build_model(seed=options.seed), build_processor()
    report("vision tower: shape or letter, box and apparent colour of each patch")
    train_tower(
        model,
        pool,
        steps=options.tower_steps,
        seed=options.seed,
        state_file=work / "tower.pt",
        report=report,
    )
    report("features of the pool")
    features = pool_features(model, pool, seed=options.seed)
    for number, (part, learning_rate, length_power) in enumerate(PASSES):
        report(f"connector and language model: {part}")
        train_answers(
            model,
            processor.tokenizer,
            pool,
            features,
            steps=options.answer_steps[number],
            seed=options.seed + number,
            state_file=work / f"{part}.pt",
            report=report,
            learning_rate=learning_rate,
            length_power=length_power,
        )
    model.save_pretrained(options.out)
    processor.save_pretrained(options.out)
    recipe = {
        "images": options.images,
        "tower_steps": options.tower_steps,
        "answer_steps": options.answer_steps,
        "seed": options.seed,
        "minutes": round((time.monotonic() - began) / 60, 1),
    }
    (options.out / RECIPE_FILE).write_text(json.dumps(recipe, indent=2) + "\n")
    report(f"checkpoint in {options.out}")


def _evaluate(options: argparse.Namespace, report: Callable[[str], None]) -> None:
    recipe = json.loads((options.out / RECIPE_FILE).read_text())
    model, processor = load_base(options.out)
    figures = evaluate_base(
        model, processor, samples=options.samples, seed=options.seed, report=report
    )
    figures.save(options.out)
    command = (
        f"python -m pilot_secure.pretrain --out DIR --images {recipe['images']} "
        f"--tower-steps {recipe['tower_steps']} "
        f"--answer-steps {' '.join(map(str, recipe['answer_steps']))} --seed {recipe['seed']}"
    )
    card = model_card(
        figures,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        vocabulary=len(processor.tokenizer),
        command=command,
        **recipe,
    )
    write_card(options.out, card)
    report(f"figures and model card in {options.out}")


def _reporter() -> Callable[[str], None]:
    began = time.monotonic()

    def report(line: str) -> None:
        print(f"[{time.monotonic() - began:6.0f} s] {line}", flush=True)

    return report


class _Parser(argparse.ArgumentParser):
    """An argument parser whose complaints end the command like any other mistake."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}.")


def _at_least(minimum: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not text.isdecimal() or int(text) < minimum:
            raise argparse.ArgumentTypeError(
                f"expected a whole number, at least {minimum}, got {text!r}"
            )
        return int(text)

    return parse


def _parser() -> _Parser:
    parser = _Parser(prog="python -m pilot_secure.pretrain", description=__doc__)
    parser.add_argument("--out", type=Path, help="folder of the checkpoint; needed for training")
    parser.add_argument("--work", type=Path, help="folder of resumable states (default: OUT-work)")
    parser.add_argument("--evaluate", action="store_true", help="only score what is in OUT")
    parser.add_argument("--samples", type=_at_least(1), default=400, help="general samples a task")
    parser.add_argument("--images", type=_at_least(1), default=50_000, help="drawn images")
    parser.add_argument("--tower-steps", type=_at_least(1), default=3000, help="steps of 64 images")
    parser.add_argument(
        "--answer-steps",
        type=_at_least(1),
        nargs=len(PASSES),
        default=[2800, 2200, 900],
        help="steps of 32 images, for each of the passes " + ", ".join(part[0] for part in PASSES),
    )
    parser.add_argument("--seed", type=_at_least(0), default=0)
    parser.add_argument("--threads", type=_at_least(1), default=2)
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
