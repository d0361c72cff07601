"""CIDEr as the COCO caption evaluation computes it, without Java.

Source: Vedantam, Zitnick, Parikh, "CIDEr: Consensus-based Image Description Evaluation"
(CVPR 2015), section 5, in the form of the COCO evaluation code, which papers quote as "CIDEr":
the clipped variant with a Gaussian length penalty (CIDEr-D), n-grams of 1 to 4 words,
document frequencies counted over the references of the images that are evaluated.

Why our own code: the one published package with this scorer (pycocoevalcap 1.2) brings 100 MB
of Java archives and a compiled COCO library for the hundred lines needed here. The tests
compare with values which that package's scorer gave (`tests/vectors/cider_coco.json`).

Tokenizer: COCO's is the Penn Treebank tokenizer of Stanford CoreNLP (Java), after which most
punctuation is dropped. `tokenize` follows its rules for what captions hold (clitics, hyphens,
numbers, brackets, common abbreviations) and gives the same words on all but three of the 130
captions, chosen for their punctuation, in `tests/vectors/ptb_words.json`.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence

MAX_WORDS = 4
LENGTH_SIGMA = 6.0
_BRACKETS = {"(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-"}
_WORD = re.compile(
    r"""
    (?:[^\W\d_]\.){2,}                                              # a.m., u.s.
    | \b(?:mr|mrs|ms|dr|st|ave|blvd|jr|sr|prof|vs|etc|inc)\. | \bno\.(?=\s*\d)
    | '(?:s|m|d|re|ve|ll)\b | n't\b | \w+?(?=n't\b)                 # man 's, do n't
    | \bcan(?=not\b) | (?<=\bcan)not\b                             # can not, gon na, got ta
    | \b(?:gon|wan)(?=na\b) | (?<=\bgon|\bwan)na\b | \bgot(?=ta\b) | (?<=\bgot)ta\b
    | (?<!\w)'(?:\d\ds?\b|n\b'?) | \b[dlo]'\w+                     # '80s, 'n', o'clock
    | (?<!\w)-?\d++(?:[.,:/]\d++)++ | (?<![\w-])-\d+\b            # 3,000, 10:30, 1/2, -5
    | \#[^\W\d]\w* | \w+(?:[-/]\w+)*                              # cat/dog, t-shirt
    | [!?]{2,} | [][(){}&$%\#@*+=°/]
    """,
    re.VERBOSE,
)

Words = tuple[str, ...]
Vector = dict[Words, float]


def tokenize(caption: str) -> Words:
    """Lower-cased words of a caption as COCO's evaluation counts them."""
    words = _WORD.findall(caption.lower().replace("’", "'"))
    return tuple(_BRACKETS.get(word, word) for word in words)


def cider_per_image(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
    """CIDEr of each caption against its own references, on the COCO code's scale of 0 to 10.

    `references[i]` holds at least one caption of image i. With fewer than two images every
    n-gram has an inverse document frequency of log 1 = 0, so the score is 0.
    Papers print 100 times the mean.
    """
    cooked = [[_counts(tokenize(text)) for text in group] for group in references]
    frequency = Counter(
        ngram for group in cooked for ngram in {ngram for counts in group for ngram in counts}
    )
    log_images = math.log(len(cooked)) if cooked else 0.0
    scores = []
    for prediction, group in zip(predictions, cooked, strict=True):
        hypothesis = _Caption(_counts(tokenize(prediction)), frequency, log_images)
        similarities = [
            _similarity(hypothesis, _Caption(counts, frequency, log_images)) for counts in group
        ]
        scores.append(10.0 * sum(similarities) / len(similarities))
    return scores


def _counts(words: Words) -> Counter[Words]:
    """How often each n-gram of 1 to `MAX_WORDS` words occurs."""
    return Counter(
        words[start : start + size]
        for size in range(1, MAX_WORDS + 1)
        for start in range(len(words) - size + 1)
    )


class _Caption:
    """TF-IDF vectors of one caption, one per n-gram size, their norms, and its length.

    The length is counted in bigrams, as the COCO code does: only differences of lengths count.
    """

    def __init__(
        self, counts: Counter[Words], frequency: Counter[Words], log_images: float
    ) -> None:
        self.vectors: list[Vector] = [{} for _ in range(MAX_WORDS)]
        self.length = 0
        for ngram, count in counts.items():
            inverse = log_images - math.log(max(1, frequency[ngram]))
            self.vectors[len(ngram) - 1][ngram] = count * inverse
            self.length += count if len(ngram) == 2 else 0
        self.norms = [math.sqrt(sum(x * x for x in v.values())) for v in self.vectors]


def _similarity(hypothesis: _Caption, reference: _Caption) -> float:
    """Mean over n of the clipped cosine similarity, times the length penalty; 0 to 1."""
    total = 0.0
    for mine, theirs, my_norm, their_norm in zip(
        hypothesis.vectors, reference.vectors, hypothesis.norms, reference.norms, strict=True
    ):
        if my_norm and their_norm:
            product = sum(
                min(value, theirs[ngram]) * theirs[ngram]
                for ngram, value in mine.items()
                if ngram in theirs
            )
            total += product / (my_norm * their_norm)
    gap = hypothesis.length - reference.length
    return total / MAX_WORDS * math.exp(-(gap**2) / (2 * LENGTH_SIGMA**2))
