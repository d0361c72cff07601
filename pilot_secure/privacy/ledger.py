"""`ledger.json`: every release of a run that noise protects, and the privacy claimed for it.

The file holds what a third party needs to compute every epsilon again
(`pilot_secure.privacy.recompute`): the unit of privacy, the adjacency, and per client the
releases in order. A release says what happened, not what it costs; accountants say that.

Units of privacy: one training example of a client, or a client with its whole update. Adjacent
are two inputs that differ in one unit: by a null that contributes nothing (``zero_out``; n_k stays
public), or by any other unit (``replace_one``).
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

Unit = Literal["example", "client"]
Adjacency = Literal["zero_out", "replace_one"]
Distribution = Literal["floating_point_gaussian", "discrete_gaussian", "both"]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]


class LedgerError(ValueError):
    """A file that is no ledger."""


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)


class _Release(_Record):
    """``draw`` is a random name: two releases alike in all else are still two."""

    round: Count
    stage: Literal[1, 2]
    draw: str = ""


class DpSgd(_Release):
    """Steps of DP-SGD: clipped per-sample gradients, summed, plus noise.

    ``noise_multiplier`` is the noise's standard deviation divided by ``clipping_norm``. Only
    ``poisson`` sampling amplifies; with ``shuffled`` batches each step counts in full.
    """

    kind: Literal["dp_sgd"] = "dp_sgd"
    sampling: Literal["poisson", "shuffled"]
    sampling_rate: Annotated[float, Field(gt=0, le=1)]
    noise_multiplier: Annotated[float, Field(ge=0)]
    clipping_norm: Positive
    steps: Count


class LocalNoise(_Release):
    """A client's whole update, clipped once and noised by the client itself.

    ``uploads`` counts draws of fresh noise on that update: what is computed from one noised
    update (sketch, distances, sums, further attempts) is post-processing. ``without`` names the
    vectors of the update that are not in it, since their noise is shared (`SharedNoise`).
    """

    kind: Literal["local_noise"] = "local_noise"
    noise_multiplier: Annotated[float, Field(ge=0)]
    clipping_norm: Positive
    uploads: Count
    without: tuple[str, ...] = ()


class SharedNoise(_Release):
    """A sum of clipped updates in the ring, each with a share of discrete Gaussian noise.

    What is seen of the ``vector`` is the ``sum`` only. The update is clipped with all its vectors
    together: those of one round and stage are parts of one. A survivor's term has at most the norm
    ``clipping_norm`` times its weight (``weights``: n_k over the public maximum), in a unit of
    ``steps_per_unit`` steps, and is rounded in each of ``coordinates``; ``noise_steps`` is the
    deviation of each survivor's noise. Colluders (the ledger's bound) know theirs.
    """

    kind: Literal["shared_noise"] = "shared_noise"
    sum: str
    vector: str
    noise_steps: Annotated[int, Field(ge=0)]
    steps_per_unit: Positive
    clipping_norm: Positive
    coordinates: Count
    weights: dict[str, Annotated[float, Field(gt=0, le=1)]]


class Unprotected(_Release):
    """A release without noise, or one that no accountant covers; ``reason`` is a sentence."""

    kind: Literal["unprotected"] = "unprotected"
    reason: str


Release = Annotated[DpSgd | LocalNoise | SharedNoise | Unprotected, Field(discriminator="kind")]


class ClientLedger(_Record):
    """One client's releases, and the epsilon claimed; null is infinity, with its reason."""

    client: str
    task: str
    num_examples: Count
    releases: tuple[Release, ...] = ()
    epsilon: Annotated[float, Field(ge=0)] | None = None
    reason: str | None = None

    @property
    def claimed_epsilon(self) -> float:
        """The claim as a number."""
        return math.inf if self.epsilon is None else self.epsilon


class Ledger(_Record):
    """The whole of `ledger.json`. ``epsilon`` of each client holds at ``delta``.

    ``max_colluders`` is c_max: how many survivors of a sum may give their noise away.
    ``accountant`` names the method behind the claims; ``caveats`` are sentences on what epsilon
    does not cover.
    """

    schema_version: Literal[1] = 1
    unit: Unit
    adjacency: Adjacency
    delta: Annotated[float, Field(gt=0, lt=1)]
    max_colluders: Annotated[int, Field(ge=0)] = 0
    accountant: Literal["pld", "zcdp"] = "pld"
    noise: Distribution = "floating_point_gaussian"
    clients: Annotated[tuple[ClientLedger, ...], Field(min_length=1)]
    caveats: tuple[str, ...] = ()

    @field_validator("clients")
    @classmethod
    def _each_once(cls, clients: tuple[ClientLedger, ...]) -> tuple[ClientLedger, ...]:
        names = [entry.client for entry in clients]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"{twice[0]} is there twice: expected every client once")
        return clients

    def to_json(self) -> bytes:
        """UTF-8 JSON, indented, ending in a line break."""
        return self.model_dump_json(indent=2).encode() + b"\n"


def parse_ledger(content: bytes) -> Ledger:
    """The ledger in a `ledger.json`. Raises: LedgerError naming the first field that is wrong."""
    try:
        return Ledger.model_validate_json(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise LedgerError(f"no valid ledger: {where}: {first['msg']}") from None
