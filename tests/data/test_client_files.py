"""Clients made from files: the split among clients, and into training and test samples."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from pilot_secure.data.client_files import load_clients
from pilot_secure.data.client_sources import ClientFiles, SplitSettings
from pilot_secure.errors import DataError
from pilot_secure.metrics import score

NUM_IMAGES = 24


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(NUM_IMAGES):
        Image.new("L", (6, 4), number).save(folder / f"{number}.png")
    return folder


def _rows(answer: str = "answer {row}") -> list[dict[str, Any]]:
    """Two rows for each image, with a key that has three values."""
    return [
        {
            "id": str(row),
            "image": f"{row // 2}.png",
            "place": "abc"[row // 2 % 3],
            "conversations": [
                {"from": "human", "value": "<image>\nWhat?"},
                {"from": "gpt", "value": answer.format(row=row)},
            ],
        }
        for row in range(2 * NUM_IMAGES)
    ]


def _write(tmp_path: Path, rows: list[dict[str, Any]], name: str = "train.json") -> Path:
    path = tmp_path / name
    path.write_text(json.dumps(rows))
    return path


def _entry(tmp_path: Path, images: Path, metric: str = "vqa_accuracy", **more: Any) -> ClientFiles:
    rows = more.pop("rows", _rows())
    return ClientFiles("t", metric, _write(tmp_path, rows), images, **more)


def _image_names(dataset: Any) -> set[str]:
    encoded = dataset.with_format("arrow")["image"].to_pylist()
    return {Path(image["path"]).name for image in encoded}


def test_split_keeps_images_together_and_loses_nothing(tmp_path: Path, images: Path) -> None:
    loaded = load_clients([_entry(tmp_path, images, split_into=3)], SplitSettings(test_share=0.25))
    assert [client.name for client in loaded.clients] == ["client-01", "client-02", "client-03"]
    sides = [(c, side) for c in loaded.clients for side in (c.train, c.test)]
    assert [side.num_rows for _, side in sides] == [12, 4] * 3  # 8 images: 6 and 2, two rows each
    ids = sorted(int(name) for _, side in sides for name in side["id"])
    assert ids == list(range(2 * NUM_IMAGES))
    names = [_image_names(side) for _, side in sides]
    assert sum(len(group) for group in names) == len(set().union(*names)) == NUM_IMAGES
    assert len(loaded.reports) == 1


def test_fewer_samples_than_asked_for_are_told(tmp_path: Path, images: Path) -> None:
    """Each of two clients has 12 images with two rows each, 3 of the images for its test."""
    entry = _entry(
        tmp_path, images, split_into=2, name="own", samples_per_client=100, test_samples=2
    )
    told = load_clients([entry], SplitSettings(test_share=0.25)).shortages
    assert told == [f"{entry.source}: samples_per_client is 100, own-1 has 18 (the fewest)"]


def test_same_seed_same_split(tmp_path: Path, images: Path) -> None:
    entry = _entry(tmp_path, images, split_into=3, split_by="place")

    def ids(seed: int) -> list[list[str]]:
        clients = load_clients([entry], SplitSettings(seed=seed)).clients
        return [list(c.train["id"]) for c in clients]

    assert ids(1) == ids(1)
    assert ids(1) != ids(2)


def test_dirichlet_split_is_uneven_where_alpha_is_small(tmp_path: Path, images: Path) -> None:
    place = {row["id"]: row["place"] for row in _rows()}

    def spread(alpha: float, **more: Any) -> float:
        """Mean share of a client's most frequent value, over seeds."""
        shares = []
        for seed in range(6):
            entry = _entry(tmp_path, images, split_into=3, **more)
            settings = SplitSettings(split_alpha=alpha, seed=seed)
            for client in load_clients([entry], settings).clients:
                places = [place[name] for name in (*client.train["id"], *client.test["id"])]
                shares.append(max(map(places.count, "abc")) / len(places))
        return sum(shares) / len(shares)

    # One value only would be 1, three values evenly 1/3.
    assert spread(0.05, split_by="place") > 0.8
    assert spread(1000.0, split_by="place") < 0.4
    assert spread(0.05) < 0.6  # without a key alpha plays no part


def test_images_decode_and_columns_fit_the_metrics(tmp_path: Path, images: Path) -> None:
    box = _entry(
        tmp_path,
        images,
        "grounding_iou50",
        rows=_rows("[0.10, 0.20, 0.50, 0.60]"),
        box_order="yxyx",
        name="hospital",
        split_into=2,
    )
    clients = load_clients([box], SplitSettings()).clients
    assert [client.name for client in clients] == ["hospital-1", "hospital-2"]
    record = clients[0].train[0]
    assert record["image"].size == (6, 4)
    assert record["instruction"] == "What?"
    assert record["box"] == pytest.approx([0.2, 0.1, 0.6, 0.5])
    test = clients[0].test
    assert score("grounding_iou50", list(test["answer"]), test).value == 100.0


def test_captions_of_one_image_are_one_test_record(tmp_path: Path, images: Path) -> None:
    (client,) = load_clients([_entry(tmp_path, images, "cider")], SplitSettings()).clients
    assert client.test.num_rows == len(_image_names(client.test))
    for record in client.test:
        first = 2 * int(record["references"][0].split()[1]) // 2
        assert record["references"] == [f"answer {first}", f"answer {first + 1}"]
    assert client.train.num_rows == 2 * len(_image_names(client.train))


def test_given_test_file_is_used_whole(tmp_path: Path, images: Path) -> None:
    test = _write(tmp_path, _rows()[:6], "test.json")
    entry = _entry(tmp_path, images, split_into=2, test=test)
    loaded = load_clients([entry], SplitSettings())
    assert [c.train.num_rows for c in loaded.clients] == [NUM_IMAGES, NUM_IMAGES]
    assert [list(c.test["id"]) for c in loaded.clients] == [list("012345")] * 2
    assert len(loaded.reports) == 2


def test_answers_that_the_metric_cannot_score_are_left_out(tmp_path: Path, images: Path) -> None:
    rows = _rows("[0.1, 0.2, 0.3, 0.4]")
    rows[3]["conversations"][1]["value"] = "A star."
    loaded = load_clients([_entry(tmp_path, images, "grounding_iou50", rows=rows)], SplitSettings())
    assert loaded.reports[0].unscorable == 1
    assert "1 answers that the metric cannot score" in str(loaded.reports[0])
    with pytest.raises(DataError, match="expected answers that scienceqa_accuracy can score"):
        load_clients([_entry(tmp_path, images, "scienceqa_accuracy")], SplitSettings())


def test_broken_images_are_skipped_counted_and_reported(tmp_path: Path, images: Path) -> None:
    (images / "0.png").unlink()
    (images / "5.png").write_bytes((images / "6.png").read_bytes()[:40])
    entry = _entry(tmp_path, images)
    loaded = load_clients([entry], SplitSettings(max_broken_share=0.1))
    (report,) = loaded.reports
    assert [(broken.row, broken.image) for broken in report.broken] == [
        (1, "0.png"),
        (2, "0.png"),
        (11, "5.png"),
        (12, "5.png"),
    ]
    assert (report.rows, report.examined, report.broken_share) == (48, 48, pytest.approx(4 / 48))
    assert "4 broken skipped: row 1 (0.png: the file is missing)" in str(report)
    (client,) = loaded.clients
    assert client.train.num_rows + client.test.num_rows == 44
    with pytest.raises(DataError) as caught:
        load_clients([entry], SplitSettings(max_broken_share=0.08))
    assert "row 11 (5.png: the image cannot be decoded" in str(caught.value)
    assert "8.3% of the rows with an image, expected at most max_broken" in str(caught.value)


def test_a_draw_looks_only_at_the_images_it_needs(tmp_path: Path, images: Path) -> None:
    """A missing image is replaced by another one."""
    for number in range(0, NUM_IMAGES, 3):
        (images / f"{number}.png").unlink()
    entry = _entry(tmp_path, images, split_into=2, samples_per_client=6, test_samples=2)
    loaded = load_clients([entry], SplitSettings(max_broken_share=0.9))
    assert [(c.train.num_rows, c.test.num_rows) for c in loaded.clients] == [(6, 2)] * 2
    (report,) = loaded.reports
    assert report.broken and 16 <= report.examined < 48
    again = load_clients([entry], SplitSettings(max_broken_share=0.9)).clients
    assert [list(c.train["id"]) for c in again] == [list(c.train["id"]) for c in loaded.clients]
    other = load_clients([entry], SplitSettings(max_broken_share=0.9, seed=1)).clients
    assert [list(c.train["id"]) for c in other] != [list(c.train["id"]) for c in again]


def test_a_test_file_can_be_divided_as_the_training_data_are(tmp_path: Path, images: Path) -> None:
    test = _write(tmp_path, _rows(), "test.json")
    kinds: dict[str, Any] = {"split_by": "place", "split_kind": "domain", "divide_test": True}
    entry = _entry(tmp_path, images, split_into=3, test=test, **kinds)
    place = {row["id"]: row["place"] for row in _rows()}
    clients = load_clients([entry], SplitSettings()).clients
    places = [
        ({place[name] for name in c.train["id"]}, {place[name] for name in c.test["id"]})
        for c in clients
    ]
    assert all(len(train) == 1 and train == test for train, test in places)
    assert set().union(*(train for train, _ in places)) == set("abc")


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (
            {"split_into": 4, "split_by": "place", "split_kind": "domain"},
            "`place` has 3 values, which leave one of 4 clients fewer than 2 images",
        ),
        ({"split_into": 13}, "24 usable images for 13 clients, expected at least 2 for each"),
        ({"split_into": 2, "split_by": "hospital"}, "expected a key that rows have"),
        ({"split_into": 12, "split_by": "place"}, "expected a larger split_alpha"),
    ],
)
def test_splits_that_cannot_be(
    tmp_path: Path, images: Path, more: dict[str, Any], words: str
) -> None:
    with pytest.raises(DataError, match=words):
        load_clients([_entry(tmp_path, images, **more)], SplitSettings(split_alpha=0.01))
