import errno

import numpy as np
import pytest
import torch

from pilot_secure import pretrain
from pilot_secure.data import SCENARIOS
from pilot_secure.data.scenes import COLOURS, LETTERS, SHAPES, Cover, Scene, Thing
from pilot_secure.data.tasks import DEFAULT_CONVENTION, Exchange
from pilot_secure.models.tiny import build_model, build_tokenizer
from pilot_secure.pretraining import pool as pools
from pilot_secure.pretraining import steps
from pilot_secure.pretraining.card import model_card
from pilot_secure.pretraining.evaluate import Figures, general_samples


@pytest.fixture(scope="module")
def pool():
    return pools.draw_pool(40, seed=1, processes=1)


def small_model():
    return build_model(hidden=32, layers=1, heads=2)


def quiet(line):
    pass


def test_pools_are_drawn_alike_by_seed_whatever_the_processes(pool, monkeypatch):
    monkeypatch.setattr(pools, "_CHUNK", 20)
    one, two = (pools.draw_pool(40, seed=1, processes=n) for n in (1, 2))
    assert np.array_equal(one.images, two.images) and one.exchanges == two.exchanges
    assert len(pool.images) == len(pool.exchanges) == 40
    assert not np.array_equal(one.images, pools.draw_pool(40, seed=2, processes=1).images)


def test_dense_targets_mark_things_and_letters():
    classes, boxes = np.zeros(36, np.int8), np.zeros((36, 4), np.float16)
    colours = np.zeros((36, 3), np.uint8)
    thing = Thing(0.25, 0.75, 0.18, "blue", "star")
    pools._fill_targets(Scene((thing,), "black"), classes, boxes, colours)
    grid = classes.reshape(6, 6)
    expected = np.zeros((6, 6), int)
    expected[4:6, 0:3] = expected[3, 0:3] = 1 + SHAPES.index("star")
    assert np.array_equal(grid, expected)
    row = np.flatnonzero(classes)[0]
    assert boxes[row] == pytest.approx(thing.box, abs=1e-3)
    assert tuple(colours[row]) == COLOURS["blue"]

    classes[:] = 0
    cover = Cover(("sea", "hop"), "black", "yellow", (0.05, 0.55), 0.02, 1.0)
    pools._fill_targets(cover, classes, boxes, colours)
    read = [
        "".join(LETTERS[c - 1 - len(SHAPES)] for c in row if c) for row in classes.reshape(6, 6)
    ]
    assert "SEA" in "".join(dict.fromkeys(read[1])) and "H" in read[4] and "P" in read[4]


def test_random_cameras_leave_half_the_images_alone():
    matrix, offset = steps.random_cameras(400, torch.Generator().manual_seed(0))
    plain = (matrix == torch.eye(3)).flatten(1).all(1) & (offset == 0).all(1)
    assert 0.4 < plain.float().mean() < 0.6
    assert matrix.min() >= 0 and (matrix.sum(2) <= 1 + 1e-6).all()


def train(model, pool, folder, count, stop=None):
    features = torch.randn(40, 36, 32, generator=torch.Generator().manual_seed(2)).half()
    if stop is not None:
        whole = steps._save

        def save_then_stop(state_file, trained, optimiser, step):
            whole(state_file, trained, optimiser, step)
            if step == stop:
                raise KeyboardInterrupt

        steps._save = save_then_stop
    try:
        steps.train_answers(
            model,
            build_tokenizer(),
            pool,
            features,
            steps=count,
            seed=0,
            state_file=folder / "state.pt",
            report=quiet,
            batch_size=4,
        )
    finally:
        if stop is not None:
            steps._save = whole


def test_a_stopped_run_goes_on_as_if_it_had_not_stopped(pool, tmp_path, monkeypatch):
    monkeypatch.setattr(steps, "SAVE_EVERY", 3)
    straight, resumed = small_model(), small_model()
    before = {k: v.clone() for k, v in straight.state_dict().items()}
    train(straight, pool, tmp_path / "a", 6)
    with pytest.raises(KeyboardInterrupt):
        train(small_model(), pool, tmp_path / "b", 6, stop=3)
    train(resumed, pool, tmp_path / "b", 6)
    after = straight.state_dict()
    assert all(torch.equal(v, after[k]) for k, v in resumed.state_dict().items())
    moved = {
        name.split(".")[1] for name, value in before.items() if not torch.equal(value, after[name])
    }
    assert moved == {"multi_modal_projector", "language_model", "weight"}  # not the tower


def test_tower_training_lowers_its_loss_and_leaves_the_rest(pool, tmp_path):
    model, lines = small_model(), []
    before = {k: v.clone() for k, v in model.state_dict().items()}
    steps.train_tower(
        model,
        pool,
        steps=60,
        seed=0,
        state_file=tmp_path / "t.pt",
        report=lines.append,
        batch_size=8,
    )
    assert "step 50/60" in lines[0] and "step 60/60" in lines[1]
    moved = [k for k, v in model.state_dict().items() if not torch.equal(v, before[k])]
    assert moved and all("vision_tower" in name for name in moved)
    assert float(lines[-1].split("class ")[1].split()[0]) < 2.5  # log(18) = 2.89 for a guess


def test_general_samples_follow_the_commonest_convention():
    task = SCENARIOS["visual-understanding"][2]
    dataset = general_samples(task, 20, seed=0)
    assert set(dataset["box_order"]) == {"xyxy"} and DEFAULT_CONVENTION.box_style == "xyxy"
    assert all(answer.startswith("[") for answer in dataset["answer"])


def test_the_card_holds_the_figures():
    figures = Figures(
        samples=10,
        general={"captioning": 71.5},
        kinds={"colour": 90.0},
        clients={name: {f"client-{i}": 10.0 * i for i in range(9)} for name in SCENARIOS},
    )
    card = model_card(
        figures,
        parameters=1_700_000,
        vocabulary=134,
        command="make-it",
        images=5,
        tower_steps=6,
        answer_steps=(7, 8, 9),
        seed=8,
        minutes=9.2,
    )
    assert "| captioning | cider | 71.5 |" in card and "colour 90" in card
    assert "| general-vqa | text-reading | 60.0, 70.0, 80.0 |" in card
    assert "1.70 million" in card and "`make-it`" in card
    assert "7 + 8 + 9 steps" in card


def test_the_shipped_checkpoint_is_not_overwritten_unasked(capsys):
    assert pretrain.main([]) == 2
    assert capsys.readouterr().err.startswith("error: --out is needed")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--out", "new", "--images", "0"], "--images: expected a whole number, at least 1"),
        (["--out", "new", "--seed", "-1"], "argument --seed: expected"),
        (["--out", "new", "--answer-steps", "1"], "--answer-steps: expected 3 arguments"),
        (["--out", "new", "--steps", "5"], "unrecognized arguments: --steps 5"),
        (["--out", "taken"], "argument --out: expected a folder, taken is a file"),
        (["--evaluate", "--out", "new"], "new/recipe.json: there is no such file or folder"),
        (["--evaluate", "--out", "empty"], "model.base: expected a LLaVA checkpoint"),
    ],
)
def test_mistakes_are_one_sentence(tmp_path, monkeypatch, capsys, words, sentence):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken").touch()
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "recipe.json").write_text("{}")
    assert pretrain.main([*words, "--threads", "1"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and sentence in line
    assert not (tmp_path / "new").exists()


def test_a_full_disk_is_one_sentence(tmp_path, monkeypatch, capsys):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device", "tower.pt")

    monkeypatch.setattr(pretrain, "_pretrain", full)
    assert pretrain.main(["--out", str(tmp_path / "new"), "--threads", "1"]) == 2
    assert capsys.readouterr().err == "error: tower.pt: the disk is full.\n"


def test_packed_exchange_kinds_cover_every_task(pool):
    kinds = {e.kind for image in pool.exchanges for e in image}
    asked = {kind for tasks in SCENARIOS.values() for task in tasks for kind in task.kinds}
    assert asked <= kinds
    assert all(isinstance(e, Exchange) for image in pool.exchanges for e in image)
