import json
import random

import pytest
import torch
from transformers import AutoProcessor, LlavaForConditionalGeneration

from pilot_secure.data import SCENARIOS, build_scenario
from pilot_secure.data.scenes import draw_cover, draw_scene
from pilot_secure.metrics import score
from pilot_secure.models import (
    SHIPPED_CHECKPOINT,
    FeatureCache,
    base_connector,
    generate_answers,
    load_base,
)
from pilot_secure.models.tiny import build_tokenizer
from pilot_secure.pretraining import pool
from pilot_secure.pretraining.evaluate import FIGURES_FILE, general_samples

TASKS = {task.name: task for tasks in SCENARIOS.values() for task in tasks}


@pytest.fixture(scope="module")
def base():
    return load_base("tiny-llava")


def test_it_loads_with_transformers_alone(base):
    model = LlavaForConditionalGeneration.from_pretrained(SHIPPED_CHECKPOINT)
    processor = AutoProcessor.from_pretrained(SHIPPED_CHECKPOINT)
    assert type(processor) is type(base[1])
    mine = base[0].state_dict()
    assert all(torch.equal(value, mine[name]) for name, value in model.state_dict().items())


def test_its_tokenizer_is_the_one_the_code_builds(base):
    assert base[1].tokenizer.get_vocab() == build_tokenizer().get_vocab()


@pytest.mark.parametrize("name", TASKS)
def test_it_is_as_good_as_its_card_says(base, name):
    model, processor = base
    task, figures = TASKS[name], json.loads((SHIPPED_CHECKPOINT / FIGURES_FILE).read_text())
    dataset = general_samples(task, 80, seed=1)
    answers = generate_answers(
        model,
        processor,
        base_connector(model),
        dataset["instruction"],
        FeatureCache(model, processor).features(dataset),
        max_new_tokens=24,
    )
    measured = score(task.metric, answers, dataset).value
    # three standard errors of 80 answers are 17 points; CIDEr spreads over 1000 instead of 100
    assert measured == pytest.approx(
        figures["general"][name], abs=100 if task.metric == "cider" else 17
    )
    if task.metric != "cider":
        assert measured > 40


def test_every_word_of_a_clients_answer_was_a_target_in_pretraining():
    tokenizer, rng = build_tokenizer(), random.Random(0)
    trained: set[int] = set()
    for _ in range(2500):
        scene = draw_scene(pool.PRETRAINING_DOMAIN, rng)
        cover = draw_cover(pool.PRETRAINING_DOMAIN, rng)
        texts = [e.answer for e in pool._scene_exchanges(scene, 9, rng)]
        texts += [e.answer for e in pool._cover_exchanges(cover, 3, rng)]
        trained.update(i for text in texts for i in tokenizer(text)["input_ids"])
    for name in SCENARIOS:
        for client in build_scenario(name, samples_per_client=100, test_samples=100):
            for dataset in (client.train, client.test):
                asked = {i for text in dataset["answer"] for i in tokenizer(text)["input_ids"]}
                assert asked <= trained, tokenizer.decode(sorted(asked - trained))
