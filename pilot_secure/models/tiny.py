"""The tiny LLaVA that ships with the package: tokenizer, processor and untrained model.

Real transformers classes at toy size, so that the code above never learns which checkpoint it
drives. The tokenizer is word-level: one token per word, punctuation mark and two-decimal number,
and one per fixed phrase of the prompts.
"""

from __future__ import annotations

import torch
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    pre_tokenizers,
    processors,
)
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from pilot_secure.data.prompts import FIXED_PHRASES, IMAGE_TOKEN
from pilot_secure.data.scenes import COLOURS, COVER_WORDS, IMAGE_SIZE, SHAPES
from pilot_secure.data.tasks import COORDINATE_STEP, NUMBERS, PLURALS

PATCH_SIZE = 8
IMAGE_TOKENS = (IMAGE_SIZE // PATCH_SIZE) ** 2
PIXEL_MEAN, PIXEL_STD = 0.5, 0.25

_SPECIAL = ("<pad>", "<s>", "</s>", "<unk>", IMAGE_TOKEN)
_WORDS = (
    *("[", "]", ",", "?", ".", ":", "A", "B", "C", "Context", "What", "How", "Is", "Which", "It"),
    *("Who", "a", "an", "the", "is", "are", "there", "not", "it", "i", "see", "this", "what"),
    *("colour", "shape", "how", "many", "thing", "things", "object", "of", "left", "right"),
    *("above", "below", "and", "yes", "no", "none", "comes", "first", "in", "image", "title"),
    *("author", "book", "wrote"),
)
_TOKEN_PATTERN = r"\d+\.\d+|\w+|[^\w\s]"


def vocabulary() -> list[str]:
    """All words in the order of their ids; the fixed phrases of the prompts follow after them."""
    steps = round(1 / COORDINATE_STEP)
    numbers = [f"{step / steps:.2f}" for step in range(steps + 1)]
    words = [*_WORDS, *COLOURS, *SHAPES, *PLURALS.values(), *NUMBERS, *COVER_WORDS, *numbers]
    return [*_SPECIAL, *words]


def build_tokenizer() -> PreTrainedTokenizerFast:
    """The word-level tokenizer; decoding restores the spacing of ordinary text and of boxes."""
    tokenizer = Tokenizer(
        models.WordLevel({word: i for i, word in enumerate(vocabulary())}, unk_token="<unk>")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split(Regex(_TOKEN_PATTERN), "isolated")]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", _SPECIAL.index("<s>"))]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.WordPiece(prefix="##", cleanup=True),
            decoders.Fuse(),
            decoders.Replace("[ ", "["),
            decoders.Replace(" ]", "]"),
        ]
    )
    tokenizer.add_tokens([AddedToken(phrase, normalized=False) for phrase in FIXED_PHRASES])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        additional_special_tokens=[IMAGE_TOKEN],
        padding_side="left",
        clean_up_tokenization_spaces=False,
        model_max_length=256,
    )


def build_processor() -> LlavaProcessor:
    """The processor: images to 48 × 48 pixels, ``<image>`` to one token per patch."""
    image_processor = CLIPImageProcessorPil(
        size={"shortest_edge": IMAGE_SIZE},
        crop_size={"height": IMAGE_SIZE, "width": IMAGE_SIZE},
        image_mean=[PIXEL_MEAN] * 3,
        image_std=[PIXEL_STD] * 3,
    )
    return LlavaProcessor(
        image_processor=image_processor,
        tokenizer=build_tokenizer(),
        patch_size=PATCH_SIZE,
        vision_feature_select_strategy="default",
        image_token=IMAGE_TOKEN,
        num_additional_image_tokens=1,
    )


def build_model(
    *, hidden: int = 128, layers: int = 4, heads: int = 4, seed: int = 0
) -> LlavaForConditionalGeneration:
    """An untrained LLaVA with ``layers`` blocks in the vision tower and in the language model.

    Features are taken from the tower's last layer: of four layers the usual last but one would
    waste one.
    """
    vision = CLIPVisionConfig(
        hidden_size=hidden,
        intermediate_size=4 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        image_size=IMAGE_SIZE,
        patch_size=PATCH_SIZE,
        projection_dim=hidden,
    )
    text = LlamaConfig(
        vocab_size=len(vocabulary()) + len(FIXED_PHRASES),
        hidden_size=hidden,
        intermediate_size=11 * hidden // 4,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=256,
        pad_token_id=_SPECIAL.index("<pad>"),
        bos_token_id=_SPECIAL.index("<s>"),
        eos_token_id=_SPECIAL.index("</s>"),
        tie_word_embeddings=False,
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=_SPECIAL.index(IMAGE_TOKEN),
        image_seq_length=IMAGE_TOKENS,
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        tie_word_embeddings=False,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlavaForConditionalGeneration(config)
