import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from tiny_models import random_llava

from pilot_secure.data import answer_batch, encode_samples
from pilot_secure.data.prompts import conversation, prompt_text
from pilot_secure.models import (
    TwoAdapterConnector,
    answer_losses,
    attach_text_adapter,
    base_connector,
    connector_in_place,
    generate_answers,
    load_text_adapter_state,
    text_adapter_state,
    vision_features,
)
from pilot_secure.models.features import pixel_values
from pilot_secure.models.tiny import build_processor

INSTRUCTIONS = (
    "What colour is the circle?",
    "Please provide the bounding box coordinate of the region this sentence describes: the star",
    "Is there a red cross?",
)
ANSWERS = ("the circle is red", "[0.10, 0.20, 0.30, 0.40]", "no")


@pytest.fixture(scope="module")
def processor():
    return build_processor()


@pytest.fixture(scope="module")
def images():
    generator = torch.Generator().manual_seed(4)
    pixels = torch.randint(0, 256, (3, 48, 48, 3), generator=generator, dtype=torch.uint8)
    return [Image.fromarray(picture.numpy()) for picture in pixels]


@pytest.fixture(scope="module")
def model():
    """A model whose text adapter and connector both do something."""
    peft = attach_text_adapter(random_llava(), rank=2, alpha=4, dropout=0.0, seed=0)
    generator = torch.Generator().manual_seed(5)
    state = text_adapter_state(peft)
    noise = {k: 0.2 * torch.randn(v.shape, generator=generator) for k, v in state.items()}
    load_text_adapter_state(peft, noise)
    return peft.eval()


@pytest.fixture(scope="module")
def connector(model):
    return TwoAdapterConnector(base_connector(model), init_scale=0.7)


@pytest.fixture(scope="module")
def features(model, processor, images):
    return vision_features(model, pixel_values(processor, images))


def encoded(processor, features):
    return encode_samples(processor.tokenizer, INSTRUCTIONS, ANSWERS, features.shape[1])


def test_cached_features_give_the_losses_of_the_pixel_path(
    model, processor, images, connector, features
):
    batch = answer_batch(encoded(processor, features), processor.tokenizer.pad_token_id)
    texts = [conversation([pair]) for pair in zip(INSTRUCTIONS, ANSWERS, strict=True)]
    inputs = processor(
        text=texts, images=images, return_tensors="pt", padding=True, padding_side="right"
    )
    assert torch.equal(inputs["input_ids"], batch.input_ids)
    with connector_in_place(model, connector), torch.no_grad():
        logits = model(**inputs).logits[:, :-1]
    expected = []
    for row, labels in zip(logits, batch.labels[:, 1:], strict=True):
        expected.append(F.cross_entropy(row[labels >= 0], labels[labels >= 0]))
    cached = answer_losses(model, batch, connector(features))
    torch.testing.assert_close(cached, torch.stack(expected), rtol=1e-5, atol=1e-5)


def test_cached_features_generate_what_pixels_generate(
    model, processor, images, connector, features
):
    inputs = processor(
        text=[prompt_text(asked) for asked in INSTRUCTIONS],
        images=images,
        return_tensors="pt",
        padding=True,
    )
    with connector_in_place(model, connector), torch.no_grad():
        ids = model.generate(**inputs, max_new_tokens=6, do_sample=False)
    expected = processor.tokenizer.batch_decode(
        ids[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True
    )
    answers = generate_answers(
        model, processor, connector, INSTRUCTIONS, features, max_new_tokens=6
    )
    assert answers == [text.strip() for text in expected]


def test_answers_do_not_depend_on_the_batch(model, processor, connector, features):
    def run(batch_size):
        return generate_answers(
            model,
            processor,
            connector,
            INSTRUCTIONS,
            features,
            max_new_tokens=6,
            batch_size=batch_size,
        )

    assert run(1) == run(2) == run(3)


def test_losses_do_not_depend_on_the_other_samples(model, processor, connector, features):
    samples, pad = encoded(processor, features), processor.tokenizer.pad_token_id
    together = answer_losses(model, answer_batch(samples, pad), connector(features))
    for i, sample in enumerate(samples):
        alone = answer_losses(model, answer_batch([sample], pad), connector(features[i : i + 1]))
        torch.testing.assert_close(alone[0], together[i], rtol=1e-4, atol=1e-5)


def test_a_loss_depends_on_its_image(model, processor, connector, features):
    batch = answer_batch(encoded(processor, features), processor.tokenizer.pad_token_id)
    here = answer_losses(model, batch, connector(features))
    elsewhere = answer_losses(model, batch, connector(features.roll(1, 0)))
    assert not torch.isclose(here, elsewhere, atol=1e-4).any()


def test_features_and_instructions_must_match(model, processor, connector, features):
    with pytest.raises(ValueError, match="3 instructions for 2 images"):
        generate_answers(model, processor, connector, INSTRUCTIONS, features[:2], max_new_tokens=2)
