import pytest
import torch
import torch.nn.functional as F

from pilot_secure.data import IGNORED, answer_batch, encode_samples
from pilot_secure.data.tasks import Exchange
from pilot_secure.models import answer_losses, image_outputs
from pilot_secure.models.tiny import build_model, build_tokenizer
from pilot_secure.pretraining.packing import (
    PackedExchange,
    pack,
    prefix_ids,
    tokenise,
    within_budget,
)

EXCHANGES = [
    [
        Exchange("colour", "What colour is the circle?", "the circle is red"),
        Exchange("exist", "Is there a red star?", "no"),
        Exchange("grounding", "Which object is it?", "[0.10, 0.20, 0.30, 0.40]"),
    ],
    [Exchange("exist", "Is there a blue star?", "yes")],
]


def test_packed_exchanges_are_scored_as_if_each_stood_alone():
    tokenizer = build_tokenizer()
    model = build_model(hidden=32, layers=2, heads=2).eval()
    tokens = torch.randn(2, 36, 32, generator=torch.Generator().manual_seed(0))
    batch = pack(prefix_ids(tokenizer, 36), tokenise(tokenizer, EXCHANGES), 0)
    hidden = torch.zeros(batch.attention_mask.shape).masked_fill(~batch.attention_mask, -1e30)
    with torch.no_grad():
        logits = model(
            input_ids=batch.input_ids,
            position_ids=batch.position_ids,
            attention_mask=hidden,
            mm_encoder_outputs=image_outputs(tokens),
        ).logits
    # every answer token is predicted from the position before it, of the same exchange
    packed = F.cross_entropy(
        logits[:, :-1].flatten(0, 1),
        batch.labels[:, 1:].flatten(),
        ignore_index=IGNORED,
        reduction="none",
    )
    answer_lengths = batch.answer_lengths[batch.labels != IGNORED].tolist()
    packed = packed[batch.labels[:, 1:].flatten() != IGNORED]

    flat = [(exchange, image) for image, asked in enumerate(EXCHANGES) for exchange in asked]
    alone = []
    for exchange, image in flat:
        sample = encode_samples(tokenizer, [exchange.instruction], [exchange.answer], 36)
        single = answer_batch(sample, 0)
        count = int((single.labels != IGNORED).sum())
        with torch.no_grad():
            mean = answer_losses(model, single, tokens[image : image + 1])
        alone.append((mean.item(), count))
    assert answer_lengths == [count for _, count in alone for _ in range(count)]
    means = [part.mean().item() for part in packed.split([count for _, count in alone])]
    assert means == pytest.approx([mean for mean, _ in alone], rel=1e-4)


def test_a_budget_goes_round_and_never_leaves_an_image_without_an_exchange():
    exchanges = [PackedExchange([1] * size, [2]) for size in (4, 9, 2)]
    assert within_budget(exchanges, 2, 8) == [exchanges[2], exchanges[0]]
    assert within_budget(exchanges, 1, 14) == [exchanges[1], exchanges[2]]
    assert within_budget(exchanges, 1, 3) == [exchanges[1]]
