import pytest
import torch

from pilot_secure.data import (
    IGNORED,
    answer_batch,
    bare_prompts,
    encode_samples,
    prompt_batch,
    prompt_lengths,
)
from pilot_secure.data.conversations import with_earlier_turns
from pilot_secure.data.prompts import conversation, prompt_text
from pilot_secure.models.tiny import build_tokenizer

INSTRUCTIONS = ["What colour is the circle?", "Is there a red star?"]
ANSWERS = ["the circle is red", "no"]


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer()


def test_labels_are_the_answer_and_the_end_mark_alone(tokenizer):
    samples = encode_samples(tokenizer, INSTRUCTIONS, ANSWERS, 4)
    batch = answer_batch(samples, tokenizer.pad_token_id)
    for labels, answer in zip(batch.labels, ANSWERS, strict=True):
        assert tokenizer.decode(labels[labels != IGNORED]) == f"{answer} </s>"
    lengths = [len(sample.input_ids) for sample in samples]
    assert batch.attention_mask.sum(1).tolist() == lengths
    assert batch.input_ids[1, lengths[1] :].tolist() == [tokenizer.pad_token_id] * 3


def test_the_image_takes_one_token_per_feature(tokenizer):
    image = tokenizer.convert_tokens_to_ids("<image>")
    (sample,) = encode_samples(tokenizer, INSTRUCTIONS[:1], ANSWERS[:1], 7)
    assert sample.input_ids.count(image) == 7


def test_training_prompts_are_evaluation_prompts(tokenizer):
    samples = encode_samples(tokenizer, INSTRUCTIONS, ANSWERS, 4)
    prompts = prompt_batch(tokenizer, INSTRUCTIONS, 4)
    for sample, ids, mask in zip(
        samples, prompts["input_ids"], prompts["attention_mask"], strict=True
    ):
        assert list(sample.input_ids[: sample.prompt_length]) == ids[mask.bool()].tolist()
    assert prompts["attention_mask"][:, -1].all()  # padded on the left


def test_too_long_samples_are_cut_or_refused(tokenizer):
    (whole,) = encode_samples(tokenizer, INSTRUCTIONS[:1], ANSWERS[:1], 4)
    start = whole.prompt_length
    (cut,) = encode_samples(tokenizer, INSTRUCTIONS[:1], ANSWERS[:1], 4, max_length=start + 2)
    assert cut.input_ids == whole.input_ids[: start + 2]
    with pytest.raises(ValueError, match="no room"):
        encode_samples(tokenizer, INSTRUCTIONS[:1], ANSWERS[:1], 4, max_length=start)


def test_every_answer_ends_with_the_tokenizers_own_end_mark():
    """Those of earlier turns too, which the instruction holds in the template's words."""
    tokenizer = build_tokenizer()
    tokenizer.add_special_tokens({"eos_token": "<stop>"})
    stop = tokenizer.convert_tokens_to_ids("<stop>")
    assert stop == tokenizer.eos_token_id != tokenizer.convert_tokens_to_ids("</s>")
    second = with_earlier_turns([("Is it red?", "no")], "Is it blue?")
    (sample,) = encode_samples(tokenizer, [second], ["yes"], 4)
    assert sample.input_ids.count(stop) == 2 and sample.input_ids[-1] == stop
    assert tokenizer.convert_tokens_to_ids("</s>") not in sample.input_ids
    asked = prompt_batch(tokenizer, [second], 4)["input_ids"]
    assert asked[0].tolist() == list(sample.input_ids[: sample.prompt_length])


def test_prompt_lengths_are_those_of_the_prompts(tokenizer):
    lengths = prompt_lengths(tokenizer, INSTRUCTIONS, 4)
    assert lengths == prompt_batch(tokenizer, INSTRUCTIONS, 4)["attention_mask"].sum(1).tolist()
    assert prompt_lengths(tokenizer, [], 4) == []


class JoiningTokenizer:
    """Joins the last letter of the prompt to the answer's first, as subword tokenizers may."""

    eos_token = "</s>"

    def __call__(self, texts):
        return {
            "input_ids": [
                [ord(c) for c in text[:-1]]
                + [0] * text.endswith(":")
                + [ord(text[-1])] * (not text.endswith(":"))
                for text in texts
            ]
        }


def test_a_prompt_that_tokenises_differently_alone_loses_only_what_differs():
    (sample,) = encode_samples(JoiningTokenizer(), ["Why?"], ["so"], 1)
    assert sample.prompt_length == len(prompt_text("Why?")) - 1
    whole = conversation([("Why?", "so")])
    assert sample.input_ids == tuple(map(ord, whole))


def test_batches_move_as_one(tokenizer):
    batch = answer_batch(encode_samples(tokenizer, INSTRUCTIONS, ANSWERS, 4), 0)
    assert all(tensor.device == torch.device("meta") for tensor in batch.to("meta"))


def test_nothing_encodes_to_nothing(tokenizer):
    assert encode_samples(tokenizer, [], [], 4) == []


def test_bare_prompts_are_those_of_prompt_batch(tokenizer):
    asked = ["What is it?", "What colour is the red circle left of the blue square?"]
    samples = encode_samples(tokenizer, asked, ["red", "yes"], 4)
    bare, batch = bare_prompts(samples, tokenizer.pad_token_id), prompt_batch(tokenizer, asked, 4)
    for name in ("input_ids", "attention_mask"):
        assert torch.equal(bare[name], batch[name])
