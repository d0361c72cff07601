import json
import logging

import pytest
import torch
from datasets import Dataset, Features
from PIL import Image
from tiny_models import random_llava

from pilot_secure.data import COLUMNS, build_scenario
from pilot_secure.data.images import expand_to_square
from pilot_secure.libraries import quieten_libraries
from pilot_secure.models import (
    CheckpointError,
    FeatureCache,
    base_connector,
    connector_in_place,
    load_base,
    new_adapter,
    pixel_values,
    vision_features,
)
from pilot_secure.models.tiny import build_model, build_processor


def test_a_saved_checkpoint_loads_frozen_and_equal(tmp_path):
    model, processor = random_llava(), build_processor()
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    loaded, loaded_processor = load_base(tmp_path)
    state = loaded.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    assert not loaded.training
    text = "What colour is the circle? [0.10, 0.95]"
    same = (p.tokenizer(text)["input_ids"] for p in (processor, loaded_processor))
    assert next(same) == next(same)


@pytest.mark.parametrize("content", [None, "{}"])
def test_what_is_no_llava_is_told_in_a_sentence(tmp_path, content):
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    if content is not None:
        (folder / "config.json").write_text(content)
    with pytest.raises(CheckpointError, match="model.base: expected a LLaVA checkpoint"):
        load_base(folder)


def _without_processor(folder):
    for name in ("processor_config.json", "tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()


def _of_another_width(folder):
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["hidden_size"] *= 2
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "model.safetensors").write_bytes(b"nothing"),
        lambda folder: (folder / "config.json").write_text("[1]"),
        lambda folder: (folder / "tokenizer.json").write_text("{}"),
        lambda folder: (folder / "processor_config.json").write_text("[]"),
        _without_processor,
        _of_another_width,
    ],
)
def test_a_damaged_checkpoint_is_told_in_a_sentence(tmp_path, damage):
    build_model(hidden=16, layers=1, heads=2).save_pretrained(tmp_path)
    build_processor().save_pretrained(tmp_path)
    load_base(tmp_path)
    damage(tmp_path)
    with pytest.raises(CheckpointError, match="model.base: expected a LLaVA") as caught:
        load_base(tmp_path)
    assert str(caught.value).count("\n") == 0 and not str(caught.value).endswith(": ")


def test_vain_tries_to_reach_the_hub_are_not_printed(caplog):
    quieten_libraries()
    logging.getLogger("huggingface_hub.utils._http").warning("Retrying in 1s")
    assert not caplog.records


@pytest.mark.parametrize("layers", [-1, -2, [0, 1]])
@pytest.mark.parametrize("strategy", ["default", "full"])
def test_features_are_what_the_connector_is_given(layers, strategy):
    model = random_llava()
    model.config.vision_feature_layer = layers
    model.config.vision_feature_select_strategy = strategy
    given = []

    class Spy(torch.nn.Module):
        def forward(self, features):
            given.append(features)
            return features

    pixels = torch.randn(2, 3, 48, 48, generator=torch.Generator().manual_seed(0))
    with connector_in_place(model, Spy()):
        model.model.get_image_features(
            pixels, vision_feature_layer=layers, vision_feature_select_strategy=strategy
        )
    torch.testing.assert_close(vision_features(model, pixels), given[0])


def test_a_connector_is_put_back_even_after_an_error():
    model = random_llava()
    before, other = base_connector(model), new_adapter(base_connector(model))
    with pytest.raises(RuntimeError), connector_in_place(model, other):
        assert base_connector(model) is other
        raise RuntimeError
    assert base_connector(model) is before


def test_padding_to_a_square_centres_the_image():
    image = Image.new("RGB", (10, 4), (200, 0, 0))
    square = expand_to_square(image, (1, 2, 3))
    assert square.size == (10, 10)
    assert square.getpixel((5, 2)) == (1, 2, 3)
    assert square.getpixel((0, 3)) == (200, 0, 0) == square.getpixel((9, 6))
    assert square.getpixel((5, 7)) == (1, 2, 3)


def test_a_wide_image_is_not_cropped():
    """The processor alone would cut the sides off; boxes are relative to the padded square."""
    processor = build_processor()
    wide = Image.new("RGB", (96, 48), (0, 0, 0))
    wide.paste((255, 255, 255), (0, 0, 12, 48))
    pixels = pixel_values(processor, [wide])
    assert pixels.shape == (1, 3, 48, 48)
    assert pixels[0, :, 24, 1].min() > 1 and pixels[0, :, 24, 20].max() < -1


class CountedFeatures:
    """The vision tower's features, and of how many images they were computed."""

    def __init__(self):
        self.images = 0

    def __call__(self, model, pixels):
        self.images += len(pixels)
        return vision_features(model, pixels)


def test_an_image_is_seen_once():
    counter = CountedFeatures()
    cache = FeatureCache(random_llava(), build_processor(), encode=counter, batch_size=4)
    data = build_scenario("general-vqa", clients_per_task=1, samples_per_client=6, test_samples=3)
    train, test = data[0].train, data[0].test
    seen = []
    features = cache.features(train, progress=lambda done, total: seen.append((done, total)))
    assert features.shape == (6, 36, 32) and seen == [(4, 6), (6, 6)]
    assert cache.features(train) is features and counter.images == 6
    assert cache.features(test).shape == (3, 36, 32) and counter.images == 9
    turned = cache.features(train.select(range(5, -1, -1)))
    assert counter.images == 9
    assert torch.equal(turned[:], features[:].flip(0))


@pytest.mark.parametrize("as_files", [False, True])
def test_several_questions_about_one_image_share_its_features(tmp_path, as_files):
    """As rows of one dataset and of another; each row still has its own image's features."""
    pictures = []
    for shade in (0, 90, 250):
        path = tmp_path / f"{shade}.png"
        Image.new("RGB", (48, 48), (shade, 40, 200 - shade // 2)).save(path)
        content = None if as_files else path.read_bytes()
        pictures.append({"path": str(path) if as_files else None, "bytes": content})
    order = [2, 0, 0, 2, 1, 0, 2]
    only_images = Features({"image": COLUMNS["image"]})
    asked = Dataset.from_dict({"image": [pictures[i] for i in order]}, features=only_images)
    once = Dataset.from_dict({"image": pictures}, features=only_images)
    expected = FeatureCache(random_llava(), build_processor()).features(once)[:]
    assert not torch.isclose(expected[0], expected[1]).all()

    counter = CountedFeatures()
    cache = FeatureCache(random_llava(), build_processor(), encode=counter, batch_size=2)
    seen = []
    features = cache.features(asked, progress=lambda *counts: seen.append(counts))
    assert counter.images == 3 and seen == [(2, 3), (3, 3)]
    assert features.shape == (len(features), 36, 32) == (7, 36, 32)
    torch.testing.assert_close(features[:], expected[order])
    torch.testing.assert_close(features[[4, 3]], expected[[1, 2]])
    assert cache.features(once)[:].shape == (3, 36, 32) and counter.images == 3


def test_an_empty_dataset_is_refused():
    empty = Dataset.from_dict({name: [] for name in COLUMNS}, features=COLUMNS)
    with pytest.raises(ValueError, match="without rows"):
        FeatureCache(random_llava(), build_processor()).features(empty)
