"""Exact-match accuracies of the three question-answering tasks.

Source: the evaluation rules that the LLaVA-1.5 line of work uses for GQA (VQA accuracy),
ScienceQA and OCR-VQA, which Pilot (Xiong et al., AAAI 2025, experiments) reports.
"""

from __future__ import annotations

import re

_STATED_LETTER = re.compile(r"The answer is ([A-Z]).")
"""LLaVA's evaluation leaves the full stop unescaped: any character may follow the letter."""
_LEADING_LETTER = re.compile(r"([A-Z])\. ")


def normalise_vqa(answer: str) -> str:
    """Strip, lower-case, and drop one trailing full stop."""
    return answer.strip().lower().removesuffix(".").rstrip()


def normalise_ocrvqa(answer: str) -> str:
    """Strip and lower-case."""
    return answer.strip().lower()


def option_letter(answer: str) -> str | None:
    """The option that a multiple-choice answer names, or None where it names none.

    Accepted, in this order: a bare capital letter ("B"); a letter, a full stop and a text
    ("B. the red one"); exactly one occurrence of "The answer is B" and one more character.
    """
    text = answer.strip()
    if len(text) == 1 and "A" <= text <= "Z":
        return text
    leading = _LEADING_LETTER.match(text)
    if leading:
        return leading.group(1)
    stated = _STATED_LETTER.findall(text)
    return stated[0] if len(stated) == 1 else None
