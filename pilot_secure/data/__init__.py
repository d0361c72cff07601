"""Clients' data: the embedded scenarios, prompts and batches."""

from pilot_secure.data.collate import (
    IGNORED,
    AnswerBatch,
    EncodedSample,
    answer_batch,
    bare_prompts,
    encode_samples,
    prompt_batch,
    prompt_lengths,
)
from pilot_secure.data.scenarios import SCENARIOS, build_scenario
from pilot_secure.data.schema import COLUMNS, ClientData, client_name

__all__ = [
    "COLUMNS",
    "IGNORED",
    "SCENARIOS",
    "AnswerBatch",
    "ClientData",
    "EncodedSample",
    "answer_batch",
    "bare_prompts",
    "build_scenario",
    "client_name",
    "encode_samples",
    "prompt_batch",
    "prompt_lengths",
]
