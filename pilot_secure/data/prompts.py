"""The prompts of LLaVA-1.5, word for word, and the conversation template around them.

The same text goes to every checkpoint, so they must be trained on LLaVA-1.5's Vicuna v1 template:
the tiny default, and LLaVA-1.5 on Vicuna. Only the end mark is replaced by the tokenizer's own
(``data.collate``). ``FIXED_PHRASES`` lists the pieces that never vary; the
tiny default's tokenizer holds each of them as one token, so that a prompt stays short.
"""

from __future__ import annotations

from collections.abc import Sequence

IMAGE_TOKEN = "<image>"
END_MARK = "</s>"
"""What ends an answer in the template; a tokenizer's own end mark takes its place."""
SYSTEM_LINE = (
    "A chat between a curious human and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the human's questions."
)
USER, ASSISTANT = "USER:", "ASSISTANT:"

SHORT_ANSWER = "Answer the question using a single word or phrase."
OPTION_LETTER = "Answer with the option's letter from the given choices directly."
CAPTION = "Provide a one-sentence caption for the provided image."
GROUNDING = "Please provide the bounding box coordinate of the region this sentence describes:"

FIXED_PHRASES = (SYSTEM_LINE, USER, ASSISTANT, SHORT_ANSWER, OPTION_LETTER, CAPTION, GROUNDING)


def short_answer_instruction(question: str) -> str:
    """A question to be answered in a word or a phrase (GQA, OCR-VQA)."""
    return f"{question}\n{SHORT_ANSWER}"


def multiple_choice_instruction(question: str, options: Sequence[str], hint: str = "") -> str:
    """A question with lettered options and an optional hint (ScienceQA).

    Raises ValueError for fewer than two or more than 26 options.
    """
    if not 2 <= len(options) <= 26:
        raise ValueError(f"a multiple choice needs 2 to 26 options, got {len(options)}")
    lines = [question]
    if hint:
        lines.append(f"Context: {hint}")
    lines += [f"{option_letter(i)}. {option}" for i, option in enumerate(options)]
    return "\n".join([*lines, OPTION_LETTER])


def option_letter(index: int) -> str:
    """``A`` for 0, ``B`` for 1 and so on."""
    return chr(ord("A") + index)


def caption_instruction() -> str:
    """The request for a one-sentence caption (COCO captions)."""
    return CAPTION


def grounding_instruction(expression: str) -> str:
    """The request for the box of what ``expression`` refers to (RefCOCO)."""
    return f"{GROUNDING} {expression}"


def box_text(box: Sequence[float]) -> str:
    """Four relative coordinates as ``[x1, y1, x2, y2]`` with two decimals each."""
    return "[" + ", ".join(f"{side:.2f}" for side in box) + "]"


def conversation(turns: Sequence[tuple[str, str | None]], *, with_image: bool = True) -> str:
    """A conversation in the Vicuna v1 template, the image in front of the first human turn.

    ``turns`` are (instruction, answer) pairs; an answer of None leaves the conversation open after
    ``ASSISTANT:``, for the model to go on. Only the last answer may be None (ValueError).
    """
    parts = [SYSTEM_LINE]
    for index, (instruction, answer) in enumerate(turns):
        image = f"{IMAGE_TOKEN}\n" if with_image and index == 0 else ""
        parts.append(f"{USER} {image}{instruction} {ASSISTANT}")
        if answer is not None:
            parts.append(f"{answer}{END_MARK}")
        elif index + 1 < len(turns):
            raise ValueError(f"turn {index + 1} of {len(turns)} has no answer but is not the last")
    return " ".join(parts).replace(f"{END_MARK} ", END_MARK)


def prompt_text(instruction: str) -> str:
    """The prompt of one question about one image, ready for the processor."""
    return conversation([(instruction, None)])
