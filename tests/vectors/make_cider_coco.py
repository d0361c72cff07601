"""Write cider_coco.json: captions, and the scores that pycocoevalcap 1.2 gives them.

Run where that package's scorer can be imported (it needs numpy only; no Java):

    python tests/vectors/make_cider_coco.py > tests/vectors/cider_coco.json
"""

from __future__ import annotations

import json
import random

from pycocoevalcap.cider.cider_scorer import CiderScorer

VOCABULARY = "a the red blue small large circle square left right of above is near"
WORDS = VOCABULARY.split()


def _caption(draw: random.Random) -> str:
    return " ".join(draw.choices(WORDS, k=draw.randint(1, 14)))


def main() -> None:
    """Draw forty images with one to five references and score a caption for each."""
    draw = random.Random(5)
    images = []
    for index in range(40):
        references = [_caption(draw) for _ in range(draw.randint(1, 5))]
        words = draw.choice(references).split()
        kept = [word for word in words if draw.random() < 0.8]
        prediction = "" if index == 7 else " ".join(kept * (2 if index % 9 == 0 else 1))
        images.append({"prediction": prediction, "references": references})
    scorer = CiderScorer()
    for image in images:
        scorer += (image["prediction"], image["references"])
    mean, scores = scorer.compute_score()
    for image, value in zip(images, scores, strict=True):
        image["score"] = float(value)
    print(json.dumps({"origin": "pycocoevalcap 1.2", "mean": float(mean), "images": images}))


if __name__ == "__main__":
    main()
