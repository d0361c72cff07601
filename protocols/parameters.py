"""The public parameters of one aggregation attempt, and which of them are safe together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from protocols.codec import CodecError, decode, encode
from protocols.discrete_gaussian import MAX_DEVIATION
from protocols.errors import ParameterError
from protocols.identity import SERVER, Name, sha256
from protocols.parameter_sets import parameter_set
from protocols.ring import ALIGNMENT, FixedPoint, packed_bytes
from protocols.sketch import MAX_SIZE, sketch_length

MAX_CLIENTS = 4096
MAX_LENGTH = 1 << 31
MAX_SAMPLES = 1 << 24
MAX_PARTS = 1 << 16
PART_BYTES = 1 << 26
MIN_LEVELS = 8
_LABEL = "pilot-secure parameters"
MIN_BOUND, MAX_BOUND = 1e-12, 1e12  # of clip and norm: all scales stay normal float32

Digest = Annotated[bytes, Field(min_length=32, max_length=32)]
RingBits = Literal[16, 20, 24, 32]


def smallest_threshold(num_clients: int, max_colluders: int) -> int:
    """Return the smallest t with 2t > n + c_max: no two disjoint openings can both succeed."""
    return (num_clients + max_colluders) // 2 + 1


class SumSpec(BaseModel):
    """One secure sum: which vector, of whom, for whom.

    ``recipient`` is the server or one client (a sealed sum, which that client alone can open).
    ``contributors`` are named, or "selected": the clients that the recipient's distances select.
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    id: Name
    vector: Name
    recipient: Name
    contributors: tuple[Name, ...] | Literal["selected"]

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.contributors == "selected":
            if self.recipient == SERVER:
                raise ValueError(f"sum {self.id}: the server's sums name their contributors")
        elif list(self.contributors) != sorted(set(self.contributors)):
            raise ValueError(f"sum {self.id}: contributors must be in order and distinct")
        elif self.recipient in self.contributors:
            raise ValueError(f"sum {self.id}: the recipient adds its own term itself")
        return self

    @property
    def sealed(self) -> bool:
        """Whether only one client can open the sum."""
        return self.recipient != SERVER


class SharingGraph(BaseModel):
    """A regular graph instead of a complete one, for large cohorts and a SEMI-HONEST server.

    Each client shares secrets and masks with ``degree`` others (even); ``threshold`` of their
    shares open a secret. :func:`protocols.graph.smallest_graph` computes both.
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    degree: int = Field(ge=2, le=MAX_CLIENTS, multiple_of=2)
    threshold: int = Field(ge=2)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.threshold > self.degree:
            raise ValueError("graph: the threshold is above the degree")
        return self


class AggregationParameters(BaseModel):
    """Everything that all parties must agree on; its digest is bound into the session id.

    ``clip`` bounds the coordinates of each vector, ``max_samples`` each client's sample count.
    ``part_bytes`` bounds the packed words of one frame: longer uploads and deliveries go in parts.
    ``distance_norm_bound`` bounds the 2-norm of the vector whose distances are taken, and
    ``distance_parameter_set`` names the CKKS parameters; both matter only with selected sums.
    ``noise`` maps a vector to the deviation of the discrete Gaussian noise that each contributor
    adds to its term v/V x, in the unit of ``clip``; only vectors that are summed for everybody.
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    version: Literal[1] = 1
    run_id: Name
    round: int = Field(ge=0, lt=1 << 31)
    stage: int = Field(ge=0, lt=256)
    attempt: int = Field(default=0, ge=0, lt=1 << 16)
    roster: Digest
    cohort: tuple[Name, ...] = Field(min_length=1, max_length=MAX_CLIENTS)
    sums: tuple[SumSpec, ...] = Field(min_length=1, max_length=2 * MAX_CLIENTS)
    vector_lengths: dict[Name, Annotated[int, Field(ge=1, le=MAX_LENGTH)]]
    clip: dict[Name, Annotated[float, Field(gt=0, allow_inf_nan=False)]]
    noise: dict[Name, Annotated[float, Field(gt=0, allow_inf_nan=False)]] = {}
    max_samples: int = Field(ge=1, le=MAX_SAMPLES)
    ring_bits: RingBits = 20
    part_bytes: int = Field(default=PART_BYTES, ge=64, le=1 << 31)
    threshold: int = Field(ge=2)
    max_colluders: int = Field(default=1, ge=0)
    min_contributors: int = Field(default=3, ge=2)
    num_neighbours: Annotated[int, Field(ge=1)] | Literal["auto"] = 6
    neighbour_visibility: Literal["hidden", "visible"] = "hidden"
    distance_trust: Literal["peer", "key_holder"] = "peer"
    sketch_size: Annotated[int, Field(ge=64, le=MAX_SIZE, multiple_of=8)] | None = None
    distance_parameter_set: Name = "peer-4096"
    distance_norm_bound: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    eq12: Literal["normalised", "literal"] = "normalised"
    graph: SharingGraph | None = None

    @classmethod
    def build(cls, **fields: object) -> Self:
        """Return checked parameters.

        Raises:
            ParameterError: with every problem that was found.
        """
        try:
            return cls.model_validate(fields)
        except ValidationError as error:
            problems = "; ".join(
                ".".join(map(str, item["loc"])) + ": " + item["msg"] for item in error.errors()
            )
            raise ParameterError(f"aggregation parameters: {problems}") from None

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Return a copy that is checked again, so that no digest of the original stays with it."""
        return self.model_validate({**dict(self), **(update or {})})

    @model_validator(mode="after")
    def _check(self) -> Self:
        problems = [
            *self._cohort_problems(),
            *self._sum_problems(),
            *self._ring_problems(),
            *self._noise_problems(),
            *self._part_problems(),
            *self._distance_problems(),
        ]
        if problems:
            raise ValueError("; ".join(problems))
        return self

    def _cohort_problems(self) -> list[str]:
        size, problems = len(self.cohort), []
        if list(self.cohort) != sorted(set(self.cohort)):
            problems.append("cohort: names must be in order and distinct")
        if 2 * self.threshold <= size + self.max_colluders:
            problems.append(
                f"threshold: {self.threshold} of {size} with {self.max_colluders} colluders lets "
                f"two survivor sets open; at least {smallest_threshold(size, self.max_colluders)}"
            )
        if self.threshold > size:
            problems.append(f"threshold: {self.threshold} is more than the cohort of {size}")
        if self.min_contributors < self.max_colluders + 2:
            problems.append(
                f"min_contributors: {self.min_contributors} leaves an honest client alone among "
                f"{self.max_colluders} colluders; at least {self.max_colluders + 2}"
            )
        return problems

    def _sum_problems(self) -> list[str]:
        problems = []
        ids = [spec.id for spec in self.sums]
        if ids != sorted(set(ids)):
            problems.append("sums: ids must be in order and distinct")
        recipients = [spec.recipient for spec in self.sums if spec.sealed]
        if len(set(recipients)) != len(recipients):
            problems.append("sums: one sealed sum per recipient")
        for spec in self.sums:
            named = () if spec.contributors == "selected" else spec.contributors
            members = {*named, *([spec.recipient] if spec.sealed else [])}
            if not members <= set(self.cohort):
                strangers = sorted(members - set(self.cohort))
                problems.append(f"sum {spec.id}: {strangers} not in the cohort")
            if spec.vector not in self.vector_lengths or spec.vector not in self.clip:
                problems.append(f"sum {spec.id}: vector {spec.vector} needs a length and a clip")
        if self.graph is not None and any(spec.sealed for spec in self.sums):
            problems.append("graph: sealed sums need the complete graph")
        if len({spec.vector for spec in self.sums if spec.contributors == "selected"}) > 1:
            problems.append("sums: all selected sums are of one vector")
        if self.selects and self.most_neighbours >= len(self.cohort):
            problems.append(
                f"num_neighbours: {self.num_neighbours} needs a cohort above it, not "
                f"{len(self.cohort)}"
            )
        if self.selects and self.most_neighbours < self.min_contributors - 1:
            problems.append("num_neighbours: below min_contributors - 1, no sealed sum could open")
        return problems

    def _ring_problems(self) -> list[str]:
        largest = max(len(self.potential_contributors(spec)) for spec in self.sums)
        levels = (2 ** (self.ring_bits - 1) - 1) // max(largest, 1)
        problems = []
        if levels < MIN_LEVELS:
            problems.append(
                f"ring_bits: {self.ring_bits} leaves {levels} levels to {largest} contributors"
            )
        bounds = {f"clip of {vector}": clip for vector, clip in self.clip.items()}
        bounds["distance_norm_bound"] = self.distance_norm_bound
        for what, bound in bounds.items():
            if not MIN_BOUND <= bound <= MAX_BOUND:
                problems.append(f"{what}: {bound:g} is outside {MIN_BOUND:g} to {MAX_BOUND:g}")
        return problems

    def _noise_problems(self) -> list[str]:
        """Noise shared by the contributors hides nothing where one client's vector is seen."""
        problems = []
        for vector in self.noise:
            sums = [spec for spec in self.sums if spec.vector == vector]
            if not sums:
                problems.append(f"noise: no sum of {vector}")
            elif any(spec.sealed for spec in sums):
                problems.append(
                    f"noise: {vector} has sealed sums, for which no noise can be shared"
                )
            elif vector in self.clip:
                problems += self._step_problems(vector, sums)
        return problems

    def _step_problems(self, vector: str, sums: Sequence[SumSpec]) -> list[str]:
        """The ring rounds a vector's noise away, or the sampler cannot draw it."""
        largest = max(len(self.potential_contributors(spec)) for spec in sums)
        fewest = min(self.min_contributors, largest)
        if (2 ** (self.ring_bits - 1) - 1) // largest < MIN_LEVELS:
            return []  # said of the ring already
        least, most = (self.fixed_point(vector, n).noise_steps for n in (largest, fewest))
        if least >= 1 and most <= MAX_DEVIATION:
            return []
        return [
            f"noise of {vector}: {self.noise[vector]:g} is {least} to {most} steps of "
            f"{self.ring_bits} bits, not 1 to {MAX_DEVIATION}"
        ]

    def fixed_point(self, vector: str, contributors: int) -> FixedPoint:
        """Return the encoding of a vector's terms in a sum planned for so many contributors."""
        noise = self.noise.get(vector, 0.0)
        bound = float(self.max_samples)
        return FixedPoint(self.ring_bits, contributors, self.clip[vector], bound, noise)

    def _part_problems(self) -> list[str]:
        least = len(self.sums) * packed_bytes(self.ring_bits, ALIGNMENT)
        if self.part_bytes < least:
            return [f"part_bytes: {self.part_bytes} for {len(self.sums)} sums, at least {least}"]
        lengths = [self.vector_lengths.get(spec.vector, 0) for spec in self.sums]
        total = sum(packed_bytes(self.ring_bits, length) for length in lengths)
        if total // self.part_bytes >= MAX_PARTS // 2:
            least = 2 * total // MAX_PARTS + 1
            return [f"part_bytes: {self.part_bytes} cuts the sums too small, at least {least}"]
        return []

    def _distance_problems(self) -> list[str]:
        if not self.selects:
            return []
        try:
            parameter_set(self.distance_parameter_set, self.distance_trust)
        except ParameterError as error:
            return [f"distance_parameter_set: {error}"]
        length = self.vector_lengths.get(self.distance_vector or "", 0)
        if sketch_length(length, self.sketch_size) > MAX_SIZE:
            return [f"sketch_size: none for a vector of {length} numbers, at most {MAX_SIZE}"]
        return []

    @property
    def selects(self) -> bool:
        """Whether any sum needs distances and a selection."""
        return any(spec.contributors == "selected" for spec in self.sums)

    @property
    def shows_selections(self) -> bool:
        """Whether the server learns which neighbours each client chose."""
        return self.selects and self.neighbour_visibility == "visible"

    @property
    def distances(self) -> Literal["none", "peer", "key_holder"]:
        """How distances are measured: not at all without selected sums."""
        return self.distance_trust if self.selects else "none"

    @property
    def most_neighbours(self) -> int:
        """The longest list of neighbours: M, or everybody else where each client cuts its row."""
        return len(self.cohort) - 1 if self.num_neighbours == "auto" else self.num_neighbours

    @property
    def distance_vector(self) -> str | None:
        """The vector whose distances select the neighbours, or None."""
        for spec in self.sums:
            if spec.contributors == "selected":
                return spec.vector
        return None

    def potential_contributors(self, spec: SumSpec) -> tuple[str, ...]:
        """Return who may contribute to a sum, known before any selection."""
        if spec.contributors == "selected":
            return tuple(name for name in self.cohort if name != spec.recipient)
        return spec.contributors

    def sums_of(self, client: str) -> tuple[SumSpec, ...]:
        """Return the sums that ``client`` may have to contribute to, in order of their ids."""
        return tuple(s for s in self.sums if client in self.potential_contributors(s))

    def sum(self, sum_id: str) -> SumSpec:
        """Return the sum with this id."""
        if sum_id not in self._by_id:
            raise ParameterError(f"no sum {sum_id}")
        return self._by_id[sum_id]

    @cached_property
    def _by_id(self) -> dict[str, SumSpec]:
        return {spec.id: spec for spec in self.sums}

    def encoded(self) -> bytes:
        """Return the canonical encoding, whose hash is :meth:`digest`."""
        return encode([_LABEL, self.model_dump()])

    @classmethod
    def from_encoded(cls, data: bytes) -> Self:
        """Return the parameters that :meth:`encoded` gave.

        Raises:
            ParameterError: not their canonical encoding, or a rule is broken.
        """
        try:
            content = decode(data)
        except CodecError as error:
            raise ParameterError(f"aggregation parameters: {error}") from None
        match content:
            case (str(label), dict(fields)) if label == _LABEL:
                return cls.build(**fields)
        raise ParameterError("aggregation parameters: another kind of record")

    def digest(self) -> bytes:
        """Return SHA-256 of the canonical encoding."""
        return self._digest

    @cached_property
    def _digest(self) -> bytes:
        return sha256(self.encoded())

    @property
    def attempt_label(self) -> str:
        """The updates that an answered unmasking concerns: run, round and stage, any attempt."""
        return f"{self.run_id}/round-{self.round}/stage-{self.stage}"

    def updates_digest(self) -> bytes:
        """Return the hash of all but the attempt: what every attempt on the same updates shares."""
        return sha256(encode(["pilot-secure updates", self.model_dump(exclude={"attempt"})]))
