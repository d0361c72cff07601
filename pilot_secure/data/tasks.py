"""Questions about drawn images, and the conventions that their answers may follow.

Each instruction is answered under a *convention*: how an answer is worded, in which order things
are named, which corner of a box comes first. No prompt reveals it. Pretraining mixes all of them
(``PRETRAINING_MIXTURE``); a client's task follows one (``scenarios.py``), which has to be learned
from the client's own samples.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from pilot_secure.data.prompts import (
    box_text,
    caption_instruction,
    grounding_instruction,
    multiple_choice_instruction,
    option_letter,
    short_answer_instruction,
)
from pilot_secure.data.scenes import COLOURS, COVER_WORDS, SHAPES, Cover, Scene, Thing, pick

NUMBERS = ("zero", "one", "two", "three", "four")
COORDINATE_STEP = 0.05
PLURALS = {shape: "crosses" if shape == "cross" else f"{shape}s" for shape in SHAPES}
DIRECTIONS = ("left of", "right of", "above", "below")


@dataclass(frozen=True)
class Convention:
    """One choice of wording and order for every kind of answer; the defaults are the commonest.

    - answer_style: a ``sentence`` (the circle is red), a ``word`` (red) or ``it`` (it is red);
    - caption_style: ``relation`` (a red circle left of a blue star), ``there`` (there is ...) or
      ``tag`` (circle red, star blue); caption_order: things from left, from top or by size;
    - box_style: ``xyxy``, ``yxyx``, or the four numbers ``bare`` of brackets;
    - first: which thing "comes first", the leftmost, the topmost or the biggest;
    - reading_style: the same three wordings for a word that was read;
    - title_line: whether the ``upper`` or the ``lower`` line of a cover is the title.
    """

    answer_style: Literal["sentence", "word", "it"] = "sentence"
    caption_style: Literal["relation", "there", "tag"] = "relation"
    caption_order: Literal["left", "top", "size"] = "left"
    box_style: Literal["xyxy", "yxyx", "bare"] = "xyxy"
    first: Literal["left", "top", "size"] = "left"
    reading_style: Literal["sentence", "word", "it"] = "sentence"
    title_line: Literal["upper", "lower"] = "upper"


DEFAULT_CONVENTION = Convention()

PRETRAINING_MIXTURE: dict[str, dict[str, float]] = {
    "answer_style": {"sentence": 0.5, "word": 0.25, "it": 0.25},
    "caption_style": {"relation": 0.5, "there": 0.25, "tag": 0.25},
    "caption_order": {"left": 0.5, "top": 0.3, "size": 0.2},
    "box_style": {"xyxy": 0.5, "yxyx": 0.25, "bare": 0.25},
    "first": {"left": 0.5, "top": 0.3, "size": 0.2},
    "reading_style": {"sentence": 0.5, "word": 0.25, "it": 0.25},
    "title_line": {"upper": 0.65, "lower": 0.35},
}


def mixed_convention(rng: random.Random) -> Convention:
    """A convention drawn from the pretraining mixture, each field independently."""
    drawn = {field: pick(weights, rng) for field, weights in PRETRAINING_MIXTURE.items()}
    return replace(DEFAULT_CONVENTION, **drawn)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Exchange:
    """One instruction with its answer.

    ``box`` is the exact box (x1, y1, x2, y2) for grounding and None otherwise; ``box_order`` says
    in which order the answer gives it.
    """

    kind: str
    instruction: str
    answer: str
    box: tuple[float, float, float, float] | None = None
    box_order: Literal["xyxy", "yxyx"] = "xyxy"


Asker = Callable[[Scene, Convention, random.Random], Exchange | None]


def _worded(style: str, word: str, sentence: str, it: str) -> str:
    return {"word": word, "sentence": sentence, "it": it}[style]


def _question(kind: str, question: str, answer: str) -> Exchange:
    return Exchange(kind, short_answer_instruction(question), answer)


def _single(values: list[str], things: tuple[Thing, ...], rng: random.Random) -> Thing | None:
    """A thing whose value (colour or shape) no other thing has, or None."""
    alone = [t for t, value in zip(things, values, strict=True) if values.count(value) == 1]
    return rng.choice(alone) if alone else None


def ask_colour(scene: Scene, convention: Convention, rng: random.Random) -> Exchange | None:
    """The colour of the only thing of its shape; None where there is no such thing."""
    thing = _single([t.shape for t in scene.things], scene.things, rng)
    if thing is None:
        return None
    c, s = thing.colour, thing.shape
    answer = _worded(convention.answer_style, c, f"the {s} is {c}", f"it is {c}")
    return _question("colour", f"What colour is the {s}?", answer)


def ask_shape(scene: Scene, convention: Convention, rng: random.Random) -> Exchange | None:
    """The shape of the only thing of its colour; None where there is no such thing."""
    thing = _single([t.colour for t in scene.things], scene.things, rng)
    if thing is None:
        return None
    c, s = thing.colour, thing.shape
    answer = _worded(convention.answer_style, s, f"the {c} thing is a {s}", f"it is a {s}")
    return _question("shape", f"What shape is the {c} thing?", answer)


def ask_count_of_shape(scene: Scene, convention: Convention, rng: random.Random) -> Exchange:
    """How many things have a shape; three times in four a shape of the scene."""
    shapes = [t.shape for t in scene.things]
    shape = rng.choice(shapes) if rng.random() < 0.75 else rng.choice(SHAPES)
    return _count("count_shape", PLURALS[shape], shapes.count(shape), convention)


def ask_count_of_colour(scene: Scene, convention: Convention, rng: random.Random) -> Exchange:
    """How many things have a colour; three times in four a colour of the scene."""
    colours = [t.colour for t in scene.things]
    colour = rng.choice(colours) if rng.random() < 0.75 else rng.choice(list(COLOURS))
    return _count("count_colour", f"{colour} things", colours.count(colour), convention)


def _count(kind: str, things: str, count: int, convention: Convention) -> Exchange:
    n = NUMBERS[count]
    answer = _worded(convention.answer_style, n, f"there are {n} {things}", f"i see {n}")
    return _question(kind, f"How many {things} are there?", answer)


def ask_existence(scene: Scene, convention: Convention, rng: random.Random) -> Exchange | None:
    """Whether a thing is there; a "no" names something with a colour or shape of the scene."""
    thing = rng.choice(scene.things)
    name, present = thing.name, rng.random() < 0.5
    if not present:
        absent = _absent_names(scene, thing)
        if not absent:
            return None
        name = rng.choice(absent)
    yes, no = ("yes", "yes, there is", "i see one"), ("no", "no, there is not", "i see none")
    words = yes if present else no
    return _question("exist", f"Is there a {name}?", _worded(convention.answer_style, *words))


def _absent_names(scene: Scene, thing: Thing) -> list[str]:
    """Names that share colour or shape with ``thing`` and are not in the scene."""
    names = [f"{thing.colour} {shape}" for shape in SHAPES]
    names += [f"{colour} {thing.shape}" for colour in COLOURS]
    present = {t.name for t in scene.things}
    return [name for name in names if name not in present]


def ask_relation(scene: Scene, convention: Convention, rng: random.Random) -> Exchange | None:
    """Whether one thing lies on one side of another; None if the scene leaves it open."""
    if len(scene.things) < 2:
        return None
    a, b = rng.sample(scene.things, 2)
    direction = rng.choice(DIRECTIONS)
    margin = dict(zip(DIRECTIONS, (b.x - a.x, a.x - b.x, b.y - a.y, a.y - b.y), strict=True))
    if abs(margin[direction]) < 0.1:
        return None
    question = f"Is the {a.name} {direction} the {b.name}?"
    answer = _is_it(margin[direction] > 0, convention.answer_style)
    return _question("relation", question, answer)


def _is_it(yes: bool, style: str) -> str:
    words = ("yes", "yes, it is", "it is") if yes else ("no", "no, it is not", "it is not")
    return _worded(style, *words)


_ORDERS: dict[str, Callable[[Thing], float]] = {
    "left": lambda thing: thing.x,
    "top": lambda thing: thing.y,
    "size": lambda thing: -thing.radius,
}


def ask_caption(scene: Scene, convention: Convention, rng: random.Random) -> Exchange:
    """All things of the scene in one sentence, in the convention's order."""
    things = sorted(scene.things, key=_ORDERS[convention.caption_order])
    if convention.caption_style == "tag":
        caption = ", ".join(f"{t.shape} {t.colour}" for t in things)
    else:
        names = [f"{'an' if t.colour == 'orange' else 'a'} {t.name}" for t in things]
        listed = " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
        if convention.caption_style == "there":
            caption = f"there is {listed}"
        elif len(things) == 2:
            caption = f"{names[0]} {_relation(*things)} {names[1]}"
        else:
            caption = listed
    return Exchange("caption", caption_instruction(), caption)


def _relation(a: Thing, b: Thing) -> str:
    dx, dy = b.x - a.x, b.y - a.y
    if abs(dx) >= abs(dy):
        return "left of" if dx > 0 else "right of"
    return "above" if dy > 0 else "below"


def ask_box(scene: Scene, convention: Convention, rng: random.Random) -> Exchange:
    """The box of one thing, its sides rounded to ``COORDINATE_STEP``."""
    thing = rng.choice(scene.things)
    x1, y1, x2, y2 = (rounded_side(side) for side in thing.box)
    swapped = convention.box_style == "yxyx"
    answer = box_text((y1, x1, y2, x2) if swapped else (x1, y1, x2, y2))
    if convention.box_style == "bare":
        answer = answer.strip("[]").replace(",", "")
    instruction = grounding_instruction(f"the {thing.name}")
    return Exchange("grounding", instruction, answer, thing.box, "yxyx" if swapped else "xyxy")


def rounded_side(side: float) -> float:
    """A coordinate in 0..1 on the grid of ``COORDINATE_STEP``."""
    steps = round(1 / COORDINATE_STEP)
    return min(steps, max(0, round(side * steps))) / steps


def ask_first(scene: Scene, convention: Convention, rng: random.Random) -> Exchange | None:
    """Which thing comes first, one colour excluded by the hint; None if it is not clear-cut."""
    options = list(scene.things)
    rng.shuffle(options)
    options = options[:3]
    if len({t.colour for t in options}) < 2:
        return None
    order = _ORDERS[convention.first]
    excluded = rng.choice(sorted(set(COLOURS) - {t.colour for t in options}))
    if len(options) == 3 and rng.random() < 0.67:
        excluded = rng.choice(options).colour
    ranked = sorted((t for t in options if t.colour != excluded), key=order)
    least = 0.01 if convention.first == "size" else 0.06
    if len(ranked) < 2 or order(ranked[1]) - order(ranked[0]) < least:
        return None
    names, hint = [t.name for t in options], f"It is not {excluded}."
    return _choice("first", "Which object comes first?", names, ranked[0].name, hint)


def ask_choice_of_colour(
    scene: Scene, convention: Convention, rng: random.Random
) -> Exchange | None:
    """The colour of a thing from three options, of which the hint excludes a wrong one."""
    thing = _single([t.shape for t in scene.things], scene.things, rng)
    if thing is None:
        return None
    wrong = rng.sample(sorted(set(COLOURS) - {thing.colour}), 2)
    options, hint = rng.sample([thing.colour, *wrong], 3), f"It is not {wrong[0]}."
    question = f"Which colour is the {thing.shape}?"
    return _choice("choice_colour", question, options, thing.colour, hint)


def ask_choice_of_object(
    scene: Scene, convention: Convention, rng: random.Random
) -> Exchange | None:
    """Which of three things is in the image; the hint excludes a wrong one's colour."""
    thing = rng.choice(scene.things)
    absent = [name for name in _absent_names(scene, thing) if not name.startswith(thing.colour)]
    if not absent:
        return None
    near = rng.choice(absent)
    far = rng.choice([n for n in _names() if n not in (near, *(t.name for t in scene.things))])
    options = rng.sample([thing.name, near, far], 3)
    hint = f"It is not {near.split()[0]}."
    return _choice("choice_object", "Which object is in the image?", options, thing.name, hint)


def _names() -> list[str]:
    return [f"{colour} {shape}" for colour in COLOURS for shape in SHAPES]


def _choice(kind: str, question: str, options: list[str], right: str, hint: str) -> Exchange:
    letter = option_letter(options.index(right))
    return Exchange(kind, multiple_choice_instruction(question, options, hint), letter)


QUESTION_KINDS: dict[str, Asker] = {
    "colour": ask_colour,
    "shape": ask_shape,
    "count_shape": ask_count_of_shape,
    "count_colour": ask_count_of_colour,
    "exist": ask_existence,
    "relation": ask_relation,
}
CHOICE_KINDS: dict[str, Asker] = {
    "first": ask_first,
    "choice_colour": ask_choice_of_colour,
    "choice_object": ask_choice_of_object,
}
SCENE_KINDS: dict[str, Asker] = {
    **QUESTION_KINDS,
    "caption": ask_caption,
    "grounding": ask_box,
    **CHOICE_KINDS,
}
COVER_KINDS = ("title", "author", "title_check")


def ask_about_scene(
    kind: str, scene: Scene, convention: Convention, rng: random.Random
) -> Exchange | None:
    """Ask a question of ``kind``, a key of ``SCENE_KINDS``; None if the scene rules it out."""
    return SCENE_KINDS[kind](scene, convention, rng)


def ask_about_cover(
    kind: str, cover: Cover, convention: Convention, rng: random.Random
) -> Exchange:
    """Ask for the title or the author, or whether a word is the title (yes half the time)."""
    title, author = cover.lines if convention.title_line == "upper" else cover.lines[::-1]
    if kind == "title_check":
        yes = rng.random() < 0.5
        others = [w for w in COVER_WORDS if w != title]
        word = title if yes else (author if rng.random() < 0.5 else rng.choice(others))
        question = f"Is the title of this book {word}?"
        return _question(kind, question, _is_it(yes, convention.reading_style))
    read = title if kind == "title" else author
    question = "What is the title of this book?" if kind == "title" else "Who wrote this book?"
    answer = _worded(convention.reading_style, read, f"the {kind} is {read}", f"it is {read}")
    return _question(kind, question, answer)
