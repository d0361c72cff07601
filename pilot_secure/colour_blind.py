"""Make a base model that was never taught colours.

    python -m pilot_secure.colour_blind --out DIR

The vision tower keeps them, the connector no longer passes them on (`pretraining.erasure`); all
else is as in the base model that it is made from. A minute on two cores; deterministic by seed on
one machine.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from transformers import LlavaForConditionalGeneration

from pilot_secure import command_line
from pilot_secure.errors import UsageError
from pilot_secure.libraries import quieten_libraries
from pilot_secure.models import SHIPPED_NAME, base_connector, load_base
from pilot_secure.pretraining.erasure import Erasure, erasure, features_and_colours, without
from pilot_secure.pretraining.pool import draw_pool

IMAGES = 2500
RECIPE_FILE = "recipe.json"


def colour_erasure(
    model: LlavaForConditionalGeneration, *, images: int = IMAGES, seed: int = 0
) -> Erasure:
    """Return what takes apparent colours out of a base model's vision features."""
    pool = draw_pool(images, seed=seed, cover_share=0.0, exchanges=1)
    return erasure(*features_and_colours(model, pool, seed=seed))


@command_line.main
def main(arguments: list[str] | None = None) -> int:
    """Write the checkpoint. Returns the exit code: 2 after a mistake, told in a sentence."""
    options = _options(arguments)
    if options.out.exists() and any(options.out.iterdir() if options.out.is_dir() else [True]):
        raise UsageError(f"--out: expected an empty or a new folder, {options.out} is not.")
    quieten_libraries()
    model, processor = load_base(options.base)
    erased = colour_erasure(model, images=options.images, seed=options.seed)
    connector = base_connector(model)
    connector.load_state_dict(without(connector, erased).state_dict())
    model.save_pretrained(options.out)
    processor.save_pretrained(options.out)
    recipe = {
        "base": options.base,
        "erased": "apparent colour",
        "rank": erased.rank,
        "images": options.images,
        "seed": options.seed,
    }
    (options.out / RECIPE_FILE).write_text(json.dumps(recipe, indent=2) + "\n")
    print(f"{erased.rank} directions of the features no longer pass; checkpoint in {options.out}")
    return 0


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m pilot_secure.colour_blind", description=__doc__
    )
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--out", type=Path, required=True, help="folder of the new checkpoint")
    parser.add_argument("--base", default=SHIPPED_NAME, help="checkpoint of the embedded kind")
    parser.add_argument("--images", type=int, default=IMAGES, help="drawn images to learn it from")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    if options.images < 1 or options.seed < 0:
        parser.error("--images: expected at least 1; --seed: expected at least 0")
    return options


if __name__ == "__main__":
    raise SystemExit(main())
