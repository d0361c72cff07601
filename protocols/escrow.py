"""Escrow of a simulated run: one secret from which an auditor repeats every client's randomness.

For audits of test runs only. Whoever holds the escrow holds what every party holds: it opens every
upload. A client draws from its escrowed entropy, in one attempt, exactly what it would draw from
the operating system; what SEAL draws for encryption is its own and not escrowed.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Base64Bytes, BaseModel, ConfigDict, Field

from protocols.codec import encode
from protocols.entropy import DeterministicEntropy, Entropy
from protocols.identity import Name, sha256
from protocols.keys import EphemeralKeys
from protocols.parameters import AggregationParameters
from protocols.shares import SECRET_BYTES

MASTER_BYTES = 32
Secret = Annotated[Base64Bytes, Field(min_length=MASTER_BYTES, max_length=64)]


class Escrow(BaseModel):
    """The secrets of a run: its master, and every party's identity key. Secrecy: total."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal[1] = 1
    run_id: Name
    master: Annotated[Secret, Field(repr=False)]
    identities: Annotated[dict[Name, Secret], Field(repr=False)]


def escrowed_entropy(
    master: bytes, client: str, parameters: AggregationParameters
) -> DeterministicEntropy:
    """Return the entropy of one client in one attempt of an escrowed run."""
    label = ["pilot-secure escrow", master, client, parameters.digest()]
    return DeterministicEntropy(sha256(encode(label)))


def draw_secrets(
    entropy: Entropy, parameters: AggregationParameters, client: str
) -> tuple[EphemeralKeys, dict[str, bytes]]:
    """Return the keys, and the self-mask seeds by sum, that a client draws first in an attempt."""
    keys = EphemeralKeys.generate(entropy)
    seeds = {spec.id: entropy.read(SECRET_BYTES) for spec in parameters.sums_of(client)}
    return keys, seeds
