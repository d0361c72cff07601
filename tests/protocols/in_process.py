"""A cohort in one process for the tests: real parties, real bytes, a driver that can interfere."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from protocols import (
    KEY_HOLDER,
    SERVER,
    AggregationClient,
    AggregationKeyHolder,
    AggregationParameters,
    AggregationServer,
    ClientInputs,
    DeterministicEntropy,
    Entropy,
    Identity,
    MemoryGuard,
    ProtocolError,
    Roster,
    SumSpec,
    smallest_threshold,
)

KEY_HOLDER_TRUST = {"distance_trust": "key_holder", "distance_parameter_set": "holder-8192"}

Interfere = Callable[[str, str, bytes], bytes | None]


def names(count: int) -> tuple[str, ...]:
    width = max(2, len(str(count)))
    return tuple(f"client-{place:0{width}d}" for place in range(1, count + 1))


def entropy_for(label: str) -> Entropy:
    return DeterministicEntropy(label.encode())


def pilot_sums(cohort: tuple[str, ...], num_tasks: int) -> tuple[SumSpec, ...]:
    """One sum to the server per task (clients in turn), one sealed sum per client."""
    tasks = [
        SumSpec(
            id=f"task-{task}",
            vector="task_adapter",
            recipient=SERVER,
            contributors=tuple(cohort[task::num_tasks]),
        )
        for task in range(num_tasks)
    ]
    sealed = [
        SumSpec(id=f"text-{name}", vector="text_adapter", recipient=name, contributors="selected")
        for name in cohort
    ]
    return tuple(sorted([*tasks, *sealed], key=lambda spec: spec.id))


def plain_sum(cohort: tuple[str, ...]) -> tuple[SumSpec, ...]:
    return (SumSpec(id="all", vector="task_adapter", recipient=SERVER, contributors=cohort),)


@dataclass
class Federation:
    """Identities, roster, parameters, inputs and machines of one attempt."""

    count: int = 9
    num_tasks: int = 3
    lengths: Mapping[str, int] = field(
        default_factory=lambda: {"task_adapter": 301, "text_adapter": 202}
    )
    plain: bool = False
    options: Mapping[str, object] = field(default_factory=dict)
    seed: str = "test"
    entropy: Callable[[str], Entropy] = entropy_for

    def __post_init__(self) -> None:
        self.cohort = names(self.count)
        self.server_identity = Identity.generate(SERVER, entropy_for("identity server"))
        self.identities = {
            name: Identity.generate(name, entropy_for(f"identity {name}")) for name in self.cohort
        }
        self.holder_identity = (
            Identity.generate(KEY_HOLDER, entropy_for("identity key holder"))
            if self.options.get("distance_trust") == "key_holder"
            else None
        )
        people = list(self.identities.values())
        self.roster = Roster.of(self.server_identity, people, self.holder_identity)
        self.guards = {name: MemoryGuard() for name in (*self.cohort, KEY_HOLDER)}
        self.inputs = {name: self.make_inputs(name) for name in self.cohort}
        self.start()

    def make_inputs(self, name: str) -> ClientInputs:
        rng = np.random.default_rng(self.roster.coordinate(name))
        vectors = {}
        for vector, length in self.lengths.items():
            flat = (rng.standard_normal(length) * 0.02).astype(np.float32)
            half = length // 2
            vectors[vector] = {"first": flat[:half], "second": flat[half:]}
        return ClientInputs(vectors=vectors, num_samples=int(rng.integers(50, 128)))

    def parameters_for(self, **changes: object) -> AggregationParameters:
        sums = plain_sum(self.cohort) if self.plain else pilot_sums(self.cohort, self.num_tasks)
        colluders = int(self.options.get("max_colluders", 1))
        fields: dict[str, object] = {
            "run_id": "run-1",
            "round": 1,
            "stage": 1,
            "attempt": 0,
            "roster": self.roster.digest(),
            "cohort": self.cohort,
            "sums": sums,
            "vector_lengths": dict(self.lengths),
            "clip": dict.fromkeys(self.lengths, 0.1),
            "max_samples": 128,
            "threshold": smallest_threshold(self.count, colluders),
            "num_neighbours": min(6, self.count - 1),
            "distance_norm_bound": 1.0,
            **self.options,
            **changes,
        }
        return AggregationParameters.build(**fields)

    def start(self, **changes: object) -> None:
        """Begin a fresh attempt with the same people, data and guards."""
        self.parameters = self.parameters_for(**changes)
        label = f"{self.seed}/{self.parameters.attempt_label}/{self.parameters.attempt}"
        self.server = AggregationServer(
            self.parameters,
            self.server_identity,
            self.entropy(f"{label}/{SERVER}"),
            roster=self.roster,
        )
        self.clients = {
            name: AggregationClient(
                self.parameters,
                self.identities[name],
                self.inputs[name],
                self.entropy(f"{label}/{name}"),
                roster=self.roster,
                guard=self.guards[name],
            )
            for name in self.cohort
        }
        self.holder = None
        if self.parameters.distances == "key_holder":
            self.holder = AggregationKeyHolder(
                self.parameters,
                self.holder_identity,
                self.entropy(f"{label}/{KEY_HOLDER}"),
                roster=self.roster,
                guard=self.guards[KEY_HOLDER],
                max_releases=2,
            )
        self.errors: dict[str, ProtocolError] = {}
        self.gone: set[str] = set()

    def restart(self) -> None:
        """Begin again as if nothing had happened: the guards forget."""
        self.guards = {name: MemoryGuard() for name in (*self.cohort, KEY_HOLDER)}
        self.start()

    def exchange(
        self,
        drop_before: Mapping[str, set[str]] | None = None,
        on_request: Interfere | None = None,
        on_reply: Interfere | None = None,
    ) -> None:
        """Run one phase. Interference may change a frame, or withhold it by returning None."""
        phase, replies = self.server.phase, {}
        self.gone |= (drop_before or {}).get(phase, set())
        for name, request in self.server.requests().items():
            reply: bytes | None = None
            sent: bytes | None = request
            if on_request is not None:
                sent = on_request(phase, name, request)
            if name not in self.gone and sent is not None:
                try:
                    reply = self.party(name).handle(sent)
                except ProtocolError as error:
                    self.errors[name] = error
            if reply is not None and on_reply is not None:
                reply = on_reply(phase, name, reply)
            replies[name] = reply
        self.server.receive(replies)

    def run(
        self,
        until: str | None = None,
        drop_before: Mapping[str, set[str]] | None = None,
        on_request: Interfere | None = None,
        on_reply: Interfere | None = None,
    ) -> Federation:
        """Run to the end, or until the named phase is about to begin."""
        while not self.server.done and self.server.phase != until:
            self.exchange(drop_before, on_request, on_reply)
        return self

    def party(self, name: str) -> AggregationClient | AggregationKeyHolder:
        return self.holder if name == KEY_HOLDER else self.clients[name]

    def identity(self, name: str) -> Identity:
        """Whoever signs under this name."""
        other = {SERVER: self.server_identity, KEY_HOLDER: self.holder_identity}
        return other[name] if name in other else self.identities[name]

    def flat(self, name: str, vector: str) -> np.ndarray:
        return np.concatenate([part.ravel() for part in self.inputs[name].vectors[vector].values()])
