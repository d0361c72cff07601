"""What do cached vision features save, per training step and in evaluation?

    python -m benchmarks.feature_cache [--base CHECKPOINT] [--repeats 5] [--threads 2] [--json FILE]

Both sides run in one process, alternating, on the same samples; the table gives samples a second
(of the median time) of each and the ratio. "pixels" runs the vision tower in every step, "cached"
starts from its features; the time to fill the cache once is given apart.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.arguments import positive_int
from pilot_secure import entry_point
from pilot_secure.data import answer_batch, build_scenario, encode_samples
from pilot_secure.files import write_atomically
from pilot_secure.models import (
    FeatureCache,
    TwoAdapterConnector,
    answer_losses,
    attach_text_adapter,
    base_connector,
    generate_answers,
    load_base,
    pixel_values,
    vision_features,
)


@entry_point.main
def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base", default="tiny-llava", help="checkpoint folder or hub id")
    parser.add_argument("--repeats", type=positive_int, default=5)
    parser.add_argument("--batch-size", type=positive_int, default=8)
    parser.add_argument("--threads", type=positive_int, default=2)
    parser.add_argument("--json", type=Path, default=None, help="write the figures here, too")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model, processor = load_base(options.base)
    peft = attach_text_adapter(model, rank=8, alpha=16, dropout=0.0, seed=0)
    connector = TwoAdapterConnector(base_connector(peft))
    connector.train_own_parts()
    clients = build_scenario(
        "visual-understanding", clients_per_task=1, samples_per_client=64, test_samples=64
    )
    cache = FeatureCache(model, processor)
    began = time.perf_counter()
    for client in clients:
        cache.features(client.train)
        cache.features(client.test)
    filling = (time.perf_counter() - began) / (128 * len(clients))
    print(f"filling the cache: {1000 * filling:.2f} ms an image, once")
    print(f"{'samples a second':36} pixels     cached     cached / pixels")
    rates = [
        _rates(f"{client.task}, {what}", run, count, options.repeats)
        for client in clients
        for what, (run, count) in _runs(peft, processor, connector, client, cache, options).items()
    ]
    if options.json:
        content = {
            "threads": options.threads,
            "batch_size": options.batch_size,
            "filling_ms": 1000 * filling,
            "rates": rates,
        }
        write_atomically(options.json, json.dumps(content, indent=1).encode() + b"\n")


def _runs(
    peft: Any, processor: Any, connector: Any, client: Any, cache: FeatureCache, options: Any
) -> dict[str, tuple[Callable[[bool], None], int]]:
    """A training step and an evaluation, each taking whether features are cached, and samples."""
    samples = encode_samples(
        processor.tokenizer,
        client.train["instruction"],
        client.train["answer"],
        cache.features(client.train).shape[1],
    )
    count = options.batch_size
    batch = answer_batch(samples[:count], processor.tokenizer.pad_token_id)

    def features(split: Any, rows: int, cached: bool) -> Tensor:
        if cached:
            return cache.features(split)[:rows]
        return vision_features(peft, pixel_values(processor, list(split[:rows]["image"])))

    def step(cached: bool) -> None:
        image_tokens = connector(features(client.train, count, cached))
        answer_losses(peft, batch, image_tokens).mean().backward()
        peft.zero_grad()
        connector.zero_grad()

    def evaluation(cached: bool) -> None:
        generate_answers(
            peft,
            processor,
            connector,
            client.test["instruction"],
            features(client.test, len(client.test), cached),
            max_new_tokens=24,
        )

    return {"training": (step, count), "greedy answers": (evaluation, len(client.test))}


def _rates(
    what: str, run: Callable[[bool], None], count: int, repeats: int
) -> dict[str, str | float]:
    seconds: dict[bool, list[float]] = {False: [], True: []}
    for repeat in range(repeats + 1):
        for cached in (False, True):
            began = time.perf_counter()
            run(cached)
            if repeat:  # the first round warms up
                seconds[cached].append(time.perf_counter() - began)
    pixels, from_features = (count / statistics.median(seconds[cached]) for cached in (False, True))
    ratio = from_features / pixels
    print(f"{what:34} {pixels:8.0f}   {from_features:8.0f} {ratio:16.2f}")
    return {"what": what, "pixels": pixels, "cached": from_features, "ratio": ratio}


if __name__ == "__main__":
    raise SystemExit(main())
