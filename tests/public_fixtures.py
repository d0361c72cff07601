"""Small copies of the five public datasets, made here, in their official and their Hub layouts.

    python tests/public_fixtures.py FOLDER

writes `FOLDER/data` as `docs/data.md` describes it, and the same samples under `FOLDER/hub`. The
images are drawn; questions, captions and phrases are ours. As in the real datasets, the images
that RefCOCO tests on are among those whose captions Karpathy's split trains on, and one image of
GQA's is one of COCO's under another number and in another size.
"""

from __future__ import annotations

import io
import json
import pickle
import random
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from datasets import Dataset, Features, Image
from PIL import Image as Pillow
from PIL import ImageDraw

COLOURS = {"red": (220, 30, 30), "green": (30, 180, 60), "blue": (40, 70, 220)}
SIZES = ((24, 16), (16, 24), (20, 20))
COCO_TRAIN, COCO_RESTVAL, COCO_TEST = range(1, 13), range(101, 104), range(201, 207)
REF_TRAIN, REF_TEST_A, REF_TEST_B = range(1, 7), (7, 8), (9, 10)
GQA_TRAIN, GQA_TEST = range(5001, 5010), range(6001, 6005)
COCO_IMAGE_OF_GQA = (5001, 201)
"""GQA's first training image is COCO's image 201, which captions are tested on."""


def picture(number: int) -> tuple[Pillow.Image, str, tuple[int, int, int, int]]:
    """An image of one coloured box, the colour's name, and the box (x, y, width, height)."""
    draw = random.Random(number)
    size = SIZES[number % len(SIZES)]
    image = Pillow.new("RGB", size, tuple(draw.randint(90, 250) for _ in range(3)))
    colour = list(COLOURS)[number // 3 % 3]
    x, y = draw.randint(0, 5), draw.randint(0, 5)
    width, height = size[0] // 2, size[1] // 2
    corners = (x, y, x + width - 1, y + height - 1)
    ImageDraw.Draw(image).rectangle(corners, fill=COLOURS[colour])
    return image, colour, (x, y, width, height)


def coco_file(number: int) -> tuple[str, str]:
    """Folder and file name of an image of COCO, as 2014's."""
    folder = "train2014" if number < 100 else "val2014"
    return folder, f"COCO_{folder}_{number:012d}.jpg"


def save(image: Pillow.Image, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, quality=95)


def write_json(content: Any, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def gqa_rows(numbers: Iterable[int]) -> list[dict[str, Any]]:
    """Two questions for each image, of different types."""
    rows = []
    for number in numbers:
        _, colour, _ = picture(number)
        for index, (question, answer, semantic) in enumerate(
            [("What colour is the box?", colour, "attr"), ("Is there a box?", "yes", "obj")]
        ):
            rows.append(
                {
                    "id": f"{number}{index:02d}",
                    "imageId": str(number),
                    "question": question,
                    "answer": answer,
                    "fullAnswer": f"It is {answer}.",
                    "isBalanced": True,
                    "groups": {"global": None, "local": f"07-{semantic}"},
                    "types": {
                        "detailed": f"{semantic}Q",
                        "semantic": semantic,
                        "structural": "query" if semantic == "attr" else "verify",
                    },
                    "semantic": [{"operation": "select", "dependencies": [], "argument": "box"}],
                    "semanticStr": "select: box",
                }
            )
    return rows


def make_gqa(root: Path) -> None:
    folder = root / "data" / "gqa"
    for side, numbers in (("train", GQA_TRAIN), ("testdev", GQA_TEST)):
        rows = gqa_rows(numbers)
        content = {row["id"]: {k: v for k, v in row.items() if k != "id"} for row in rows}
        write_json(content, folder / f"{side}_balanced_questions.json")
        for number in numbers:
            save(picture(number)[0], folder / "images" / f"{number}.jpg")
        hub = root / "hub" / "gqa"
        write_table(rows, hub / f"{side}_balanced_instructions", side)
        images = [{"id": str(n), "image": encoded(picture(n)[0], f"{n}.jpg")} for n in numbers]
        write_table(images, hub / f"{side}_balanced_images", side)
    known = dict([COCO_IMAGE_OF_GQA])
    ids = [{"image_id": n, "coco_id": known.get(n)} for n in (*GQA_TRAIN, *GQA_TEST)]
    write_json(ids, root / "data" / "visual-genome" / "image_data.json")


def make_coco(root: Path) -> None:
    splits = {"train": COCO_TRAIN, "restval": COCO_RESTVAL, "val": (150,), "test": COCO_TEST}
    images = []
    for split, numbers in splits.items():
        table = []
        for number in numbers:
            image, colour, _ = picture(number)
            path, name = coco_file(number)
            save(image, root / "data" / "coco" / path / name)
            captions = [f"A {colour} box.", f"There is a {colour} box on a plain ground."]
            images.append(
                {
                    "filepath": path,
                    "filename": name,
                    "cocoid": number,
                    "split": split,
                    "sentences": [{"raw": text, "tokens": text.split()} for text in captions],
                }
            )
            table.append({"image": encoded(image, name), "cocoid": number, "caption": captions})
        write_table(table, root / "hub" / "coco" / "data", split)
    write_json({"dataset": "coco", "images": images}, root / "data" / "coco" / "dataset_coco.json")


def make_refcoco(root: Path) -> None:
    """Boxes by hand: image 1 is tall (16 x 24), image 3 wide (24 x 16)."""
    splits = {"train": REF_TRAIN, "testA": REF_TEST_A, "testB": REF_TEST_B}
    refs, annotations, images, hub = [], [], [], {}
    for split, numbers in splits.items():
        for number in numbers:
            image, colour, box = picture(number)
            _, name = coco_file(number)
            width, height = image.size
            images.append({"id": number, "file_name": name, "width": width, "height": height})
            annotation = {"id": 900 + number, "image_id": number, "category_id": 1 + number % 2}
            annotations.append({**annotation, "bbox": list(box), "segmentation": [[0, 0, 1, 1]]})
            phrases = [f"the {colour} box", "box"]
            refs.append(
                {
                    "ref_id": 40 + number,
                    "ann_id": 900 + number,
                    "image_id": number,
                    "split": split,
                    "file_name": name.replace(".jpg", f"_{number}.jpg"),
                    "sentences": [{"sent": phrase, "raw": phrase} for phrase in phrases],
                }
            )
            hub.setdefault(split, []).append(
                {
                    "question_id": str(number),
                    "image": encoded(image, name),
                    "bbox": [float(side) for side in box],
                    "answer": phrases,
                    "file_name": name.replace(".jpg", f"_{number}.jpg"),
                }
            )
    folder = root / "data" / "refcoco"
    folder.mkdir(parents=True)
    (folder / "refs(unc).p").write_bytes(pickle.dumps(refs, protocol=0))
    categories = [{"id": 1, "name": "crate"}, {"id": 2, "name": "parcel"}]
    instances = {"images": images, "annotations": annotations, "categories": categories}
    write_json(instances, folder / "instances.json")
    for split, rows in hub.items():
        write_table(rows, root / "hub" / "refcoco" / "data", split)


def make_scienceqa(root: Path) -> None:
    """Every fourth problem is about text only."""
    counts = {"train": range(1, 17), "val": range(21, 23), "test": range(31, 39)}
    problems, hub = {}, {split: [] for split in counts}
    for split, numbers in counts.items():
        for number in numbers:
            image, colour, _ = picture(number)
            choices = [*COLOURS, "grey"][: 2 + number % 3]
            choices = choices if colour in choices else [*choices[:-1], colour]
            problem = {
                "question": "Which colour is the box?",
                "choices": choices,
                "answer": choices.index(colour),
                "hint": "Look at the box." if number % 2 else "",
                "task": "closed choice",
                "grade": "grade2",
                "subject": "natural science" if number % 3 else "social science",
                "topic": ("physics", "biology", "geography")[number % 3],
                "category": "Colours",
                "skill": "Name a colour",
                "lecture": "",
                "solution": "",
            }
            seen = number % 4 != 0
            problems[str(number)] = {
                **problem,
                "image": "image.png" if seen else None,
                "split": split,
            }
            if seen:
                folder = root / "data" / "scienceqa" / "images" / split / str(number)
                save(image, folder / "image.png")
            stored = encoded(image, "image.png") if seen else None
            hub[split].append({"image": stored, **problem})
    folder = root / "data" / "scienceqa"
    write_json(problems, folder / "problems.json")
    pids = {split: [str(n) for n in numbers] for split, numbers in counts.items()}
    write_json(pids, folder / "pid_splits.json")
    for split, rows in hub.items():
        name = "validation" if split == "val" else split
        write_table(rows, root / "hub" / "scienceqa" / "data", name)


def make_ocrvqa(root: Path) -> None:
    """The Hub layout here is an image folder, which `datasets` reads as it does Parquet."""
    covers = {}
    for code, numbers in ((1, range(301, 313)), (2, range(321, 322)), (3, range(331, 337))):
        split = ("train", "validation", "test")[code - 1]
        lines = []
        for number in numbers:
            image, colour, _ = picture(number)
            name = f"{number}.gif" if number == 301 else f"{number}.jpg"
            cover = {
                "questions": ["What is the title of this book?", "Is the box grey?"],
                "answers": [f"The {colour} Box", "No"],
                "genre": ("Travel", "Cookbooks", "Law")[number % 3],
                "title": f"The {colour} Box",
                "authorName": "A. Nonymous",
            }
            url = f"http://example.org/covers/{name}"
            covers[str(number)] = {"imageURL": url, "split": code, **cover}
            save(image, root / "data" / "ocrvqa" / "images" / name)
            save(image, root / "hub" / "ocrvqa" / split / f"{number}.png")
            lines.append({"file_name": f"{number}.png", "image_id": str(number), **cover})
        table = root / "hub" / "ocrvqa" / split / "metadata.jsonl"
        table.write_text("".join(json.dumps(line) + "\n" for line in lines))
    write_json(covers, root / "data" / "ocrvqa" / "dataset.json")


def encoded(image: Pillow.Image, name: str) -> dict[str, Any]:
    """An image as a Hub table stores it: the bytes of the official file, and its name."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG" if name.endswith(".png") else "JPEG", quality=95)
    return {"bytes": buffer.getvalue(), "path": name}


def write_table(rows: list[dict[str, Any]], folder: Path, split: str) -> None:
    """One Parquet file for a split, under the name that the Hub gives it."""
    folder.mkdir(parents=True, exist_ok=True)
    features = None
    if "image" in rows[0]:
        plain = Dataset.from_list([{k: v for k, v in r.items() if k != "image"} for r in rows])
        features = Features({**plain.features, "image": Image()})
    table = Dataset.from_list(rows, features=features)
    table.to_parquet(str(folder / f"{split}-00000-of-00001.parquet"))


MAKERS: tuple[Callable[[Path], None], ...] = (
    make_gqa,
    make_coco,
    make_refcoco,
    make_scienceqa,
    make_ocrvqa,
)


def make_all(root: Path) -> None:
    """Write all datasets below `root`, in both layouts."""
    for make in MAKERS:
        make(root)


if __name__ == "__main__":
    make_all(Path(sys.argv[1]))
