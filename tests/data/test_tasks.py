import random
from dataclasses import replace

import pytest

from pilot_secure.data.prompts import conversation, multiple_choice_instruction, prompt_text
from pilot_secure.data.scenes import Cover, Scene, Thing, draw_cover, draw_scene, even_domain
from pilot_secure.data.tasks import (
    COVER_KINDS,
    DEFAULT_CONVENTION,
    PRETRAINING_MIXTURE,
    QUESTION_KINDS,
    SCENE_KINDS,
    Convention,
    ask_about_cover,
    ask_about_scene,
    mixed_convention,
    rounded_side,
)
from pilot_secure.models.tiny import build_tokenizer

RED = Thing(0.2, 0.7, 0.15, "red", "circle")
BLUE = Thing(0.7, 0.3, 0.18, "blue", "star")
SCENE = Scene((RED, BLUE), "black")
COVER = Cover(("sea", "hop"), "black", "yellow", (0.05, 0.55), 0.02, 1.0)


def asked(kind, convention=DEFAULT_CONVENTION, scene=SCENE, seed=0):
    return ask_about_scene(kind, scene, convention, random.Random(seed))


def answers(kind, convention, scene=SCENE):
    """Question line and answer of every draw that the scene allows."""
    found = (asked(kind, convention, scene, seed) for seed in range(40))
    return {(e.instruction.split("\n")[0], e.answer) for e in found if e}


@pytest.mark.parametrize(
    ("style", "colour", "shape", "relation"),
    [
        ("word", "red", "star", "yes"),
        ("sentence", "the circle is red", "the blue thing is a star", "yes, it is"),
        ("it", "it is red", "it is a star", "it is"),
    ],
)
def test_wordings_of_answers(style, colour, shape, relation):
    convention = Convention(answer_style=style)
    assert ("What colour is the circle?", colour) in answers("colour", convention)
    assert ("What shape is the blue thing?", shape) in answers("shape", convention)
    question = "Is the red circle left of the blue star?"
    assert (question, relation) in answers("relation", convention)


def test_counting_and_existence_tell_the_truth():
    word = Convention(answer_style="word")
    twice = Scene((RED, replace(BLUE, shape="circle")), "black")
    assert ("How many circles are there?", "two") in answers("count_shape", word, twice)
    assert ("How many red things are there?", "one") in answers("count_colour", word, twice)
    for question, answer in answers("exist", word):
        there = any(name in question for name in ("red circle", "blue star"))
        assert answer == ("yes" if there else "no"), question


@pytest.mark.parametrize("kind", ["exist", "relation"])
def test_yes_and_no_are_balanced(kind):
    rng, word = random.Random(0), Convention(answer_style="word")
    scenes = (draw_scene(even_domain(), rng) for _ in range(900))
    said = [e.answer for s in scenes if (e := ask_about_scene(kind, s, word, rng))]
    assert 0.44 < said.count("yes") / len(said) < 0.56


@pytest.mark.parametrize(
    ("convention", "caption"),
    [
        (Convention(), "a red circle left of a blue star"),
        (Convention(caption_order="top"), "a blue star right of a red circle"),
        (Convention(caption_style="there"), "there is a red circle and a blue star"),
        (Convention(caption_style="tag", caption_order="size"), "star blue, circle red"),
    ],
)
def test_captions_by_convention(convention, caption):
    assert asked("caption", convention).answer == caption


@pytest.mark.parametrize(
    ("style", "answer", "order"),
    [
        ("xyxy", "[0.05, 0.55, 0.35, 0.85]", "xyxy"),
        ("yxyx", "[0.55, 0.05, 0.85, 0.35]", "yxyx"),
        ("bare", "0.05 0.55 0.35 0.85", "xyxy"),
    ],
)
def test_boxes_by_convention(style, answer, order):
    scene = Scene((RED,), "black")
    exchange = asked("grounding", Convention(box_style=style), scene)
    assert exchange.instruction.endswith("describes: the red circle")
    assert (exchange.answer, exchange.box_order) == (answer, order)
    assert exchange.box == pytest.approx((0.05, 0.55, 0.35, 0.85))


def test_sides_are_rounded_to_the_grid_and_clipped():
    assert [rounded_side(v) for v in (-0.2, 0.024, 0.026, 0.97, 1.3)] == [0, 0, 0.05, 0.95, 1]


def options_of(exchange):
    lines = exchange.instruction.split("\n")
    hint = next(line for line in lines if line.startswith("Context: "))
    excluded = hint.removeprefix("Context: It is not ").rstrip(".")
    return dict(line.split(". ") for line in lines if line[1:3] == ". "), excluded


@pytest.mark.parametrize(
    ("first", "rank"),
    [("left", lambda t: t.x), ("top", lambda t: t.y), ("size", lambda t: -t.radius)],
)
def test_what_comes_first_follows_the_convention_and_the_hint(first, rank):
    rng, excluded_one = random.Random(0), 0
    for _ in range(300):
        scene = draw_scene(even_domain(), rng)
        exchange = ask_about_scene("first", scene, Convention(first=first), rng)
        if exchange is None:
            continue
        options, excluded = options_of(exchange)
        things = {t.name: t for t in scene.things}
        left = [things[n] for n in options.values() if things[n].colour != excluded]
        assert options[exchange.answer] == min(left, key=rank).name
        excluded_one += len(left) < len(options)
    assert excluded_one > 30


@pytest.mark.parametrize("kind", ["choice_colour", "choice_object"])
def test_hints_never_exclude_the_right_option(kind):
    rng, letters = random.Random(0), []
    for _ in range(200):
        scene = draw_scene(even_domain(), rng)
        exchange = ask_about_scene(kind, scene, DEFAULT_CONVENTION, rng)
        if exchange is None:
            continue
        options, excluded = options_of(exchange)
        right = options[exchange.answer]
        assert excluded not in right and any(excluded in option for option in options.values())
        if kind == "choice_object":
            assert [n for n in options.values() if n in {t.name for t in scene.things}] == [right]
        letters.append(exchange.answer)
    assert {letter: letters.count(letter) > 30 for letter in letters} == dict.fromkeys("ABC", True)


@pytest.mark.parametrize(
    ("convention", "title", "author"),
    [
        (Convention(), "the title is sea", "the author is hop"),
        (Convention(reading_style="word", title_line="lower"), "hop", "sea"),
        (Convention(reading_style="it"), "it is sea", "it is hop"),
    ],
)
def test_covers_by_convention(convention, title, author):
    rng = random.Random(0)
    assert ask_about_cover("title", COVER, convention, rng).answer == title
    assert ask_about_cover("author", COVER, convention, rng).answer == author
    for _ in range(20):
        check = ask_about_cover("title_check", COVER, convention, rng)
        right = title.split()[-1] in check.instruction.split("\n")[0]
        assert ("not" not in check.answer and check.answer != "no") == right


def every_exchange(count):
    rng, domain = random.Random(7), even_domain()
    for _ in range(count):
        convention = mixed_convention(rng)
        for kind in SCENE_KINDS:
            exchange = ask_about_scene(kind, draw_scene(domain, rng), convention, rng)
            if exchange:
                yield exchange
        for kind in COVER_KINDS:
            yield ask_about_cover(kind, draw_cover(domain, rng), convention, rng)


def test_the_tiny_vocabulary_holds_every_word_and_decodes_to_the_same_text():
    tokenizer = build_tokenizer()
    for exchange in every_exchange(120):
        ids = tokenizer(prompt_text(exchange.instruction))["input_ids"]
        assert tokenizer.unk_token_id not in ids, exchange.instruction
        answer = tokenizer(exchange.answer, add_special_tokens=False)["input_ids"]
        assert tokenizer.unk_token_id not in answer
        assert tokenizer.decode(answer) == exchange.answer


def test_every_wording_of_the_mixture_is_a_field_of_the_convention():
    rng = random.Random(0)
    drawn = [mixed_convention(rng) for _ in range(400)]
    for field, weights in PRETRAINING_MIXTURE.items():
        seen = {getattr(convention, field) for convention in drawn}
        assert seen == set(weights)
        assert max(weights, key=weights.get) == getattr(DEFAULT_CONVENTION, field)
        assert sum(weights.values()) == pytest.approx(1)


def test_questions_have_short_answer_prompts():
    for kind in QUESTION_KINDS:
        exchange = next(e for seed in range(20) if (e := asked(kind, seed=seed)))
        assert exchange.instruction.endswith(
            "?\nAnswer the question using a single word or phrase."
        )


def test_the_multiple_choice_prompt():
    assert multiple_choice_instruction("Which?", ["red", "blue"], "It is not red.") == (
        "Which?\nContext: It is not red.\nA. red\nB. blue\n"
        "Answer with the option's letter from the given choices directly."
    )
    with pytest.raises(ValueError, match="2 to 26"):
        multiple_choice_instruction("Which?", ["red"])


def test_the_vicuna_template():
    system = (
        "A chat between a curious human and an artificial intelligence assistant. "
        "The assistant gives helpful, detailed, and polite answers to the human's questions."
    )
    assert prompt_text("Why?") == f"{system} USER: <image>\nWhy? ASSISTANT:"
    assert conversation([("Why?", "so"), ("When?", None)]) == (
        f"{system} USER: <image>\nWhy? ASSISTANT: so</s>USER: When? ASSISTANT:"
    )
    with pytest.raises(ValueError, match="turn 1 of 2"):
        conversation([("Why?", None), ("When?", "now")])
