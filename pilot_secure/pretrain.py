"""Make the shipped base checkpoint: ``python -m pilot_secure.pretrain --out DIR``.

Runs on the CPU in about half an hour of two cores, deterministic by seed on one machine, and can
be stopped and started again: it goes on from the last saved step.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from pilot_secure.models.tiny import build_model, build_processor
from pilot_secure.pretraining.pool import draw_pool
from pilot_secure.pretraining.steps import pool_features, train_answers, train_tower

SHIPPED = Path(__file__).parent / "assets" / "tiny-llava"


def main(arguments: list[str] | None = None) -> int:
    """Train the base model (or go on with it) and write the checkpoint."""
    options = _parser().parse_args(arguments)
    torch.set_num_threads(options.threads)
    work = options.work or options.out.with_name(options.out.name + "-work")
    report = _reporter()

    report(f"drawing {options.images} images")
    pool = draw_pool(options.images, seed=options.seed, processes=options.threads)
    processor = build_processor()
    model = build_model(seed=options.seed)
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
    report("connector and language model: answers")
    train_answers(
        model,
        processor.tokenizer,
        pool,
        features,
        steps=options.answer_steps,
        seed=options.seed,
        state_file=work / "answers.pt",
        report=report,
    )
    model.save_pretrained(options.out)
    processor.save_pretrained(options.out)
    report(f"checkpoint in {options.out}")
    return 0


def _reporter() -> Callable[[str], None]:
    began = time.monotonic()

    def report(line: str) -> None:
        print(f"[{time.monotonic() - began:6.0f} s] {line}", flush=True)

    return report


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m pilot_secure.pretrain", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of the checkpoint")
    parser.add_argument("--work", type=Path, help="folder of resumable states (default: OUT-work)")
    parser.add_argument("--images", type=int, default=50_000, help="drawn images")
    parser.add_argument("--tower-steps", type=int, default=3000, help="steps of 64 images")
    parser.add_argument("--answer-steps", type=int, default=3000, help="steps of 32 images")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    return parser


if __name__ == "__main__":
    sys.exit(main())
