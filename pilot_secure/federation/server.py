"""The server: it drives the rounds, and never holds a client's adapter under secure aggregation."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from pilot_secure.engines import PhaseKey
from pilot_secure.errors import FederationError
from pilot_secure.federation.agreement import Agreement
from pilot_secure.federation.clear import aggregate_in_clear
from pilot_secure.federation.messages import (
    CatchUp,
    ClearCall,
    ClearDelivery,
    ClearUpdate,
    Convene,
    EvaluateRequest,
    FederationMessage,
    FederationMessageError,
    Refusal,
    TrainRequest,
    open_frame,
    seal,
    vector_bytes,
)
from pilot_secure.federation.metering import MeteredTransport
from pilot_secure.federation.pair_pool import PairPool
from pilot_secure.federation.replay import ReplayedSelections
from pilot_secure.federation.scratch import Scratch
from pilot_secure.summary import Moment
from protocols import (
    KEY_HOLDER,
    AggregationParameters,
    AggregationReport,
    AggregationServer,
    Entropy,
    Identity,
)
from protocols.storage import allocate_in_memory

OPENING = ("unmask", "deliver")
"""The phases of an aggregation that no other attempt may follow."""


@dataclass
class RunEvents:
    """What happened to the aggregations of a run, as the server saw it."""

    reports: list[AggregationReport] = field(default_factory=list)
    refusals: list[tuple[PhaseKey, str, str]] = field(default_factory=list)


@dataclass(frozen=True)
class Step:
    """One step of a run; all moments but training and aggregation are scorings."""

    what: Literal["train", "aggregate"] | Moment
    round: int
    stage: int


@dataclass
class Position:
    """Where a run stands: ``step`` is the next to be carried out, counted from 0.

    Attributes:
        attempt: the next number for an attempt of that step's aggregation; none is used twice.
        failed: attempts of it that were aborted; one that a kill interrupted is none of them.
        machine: the attempt that is being opened, which nothing but its own end may follow.
    """

    step: int = 0
    attempt: int = 0
    failed: int = 0
    machine: AggregationServer | None = None


class FederationServer:
    """Trains the clients round by round and aggregates after every stage.

    ``keep`` is called whenever a killed run must not fall behind ``position``.
    """

    remembered: ClassVar[tuple[str, ...]] = ("position", "events", "_missed")

    def __init__(
        self,
        identity: Identity,
        agreement: Agreement,
        transport: MeteredTransport,
        *,
        replayed: ReplayedSelections | None = None,
        announce: Callable[[str], None] = lambda what: None,
        aggregated: Callable[[int, int], None] = lambda round_number, stage: None,
        attempt_begins: Callable[[AggregationParameters], None] = lambda parameters: None,
        attempt_ended: Callable[[AggregationReport], object] = lambda report: None,
        keep: Callable[[], None] = lambda: None,
        scratch: Scratch | None = None,
    ) -> None:
        """``scratch`` is where long sums lie; without one they are in memory."""
        self.identity = identity
        self._agreement = agreement
        self._transport = transport
        self._timeout_s = agreement.config.run.phase_timeout_s
        self._replayed = replayed
        self._announce, self._aggregated = announce, aggregated
        self._attempt_begins, self._attempt_ended = attempt_begins, attempt_ended
        self._keep, self._scratch = keep, scratch
        self.position = Position()
        self.events = RunEvents()
        self._missed: dict[str, list[CatchUp]] = {client: [] for client in agreement.tasks}

    @property
    def ends_with_aggregation(self) -> bool:
        """Whether anything is exchanged after the last stage of the last round."""
        last = self._agreement.method.stages(self._agreement.config.federation.rounds)[-1]
        return self._aggregates(last)

    def _aggregates(self, stage: int) -> bool:
        """Whether anything is exchanged after a stage."""
        tasks = self._agreement.tasks
        return bool(self._agreement.method.sums(tasks, list(tasks), stage))

    @property
    def vectors(self) -> tuple[str, ...]:
        """The names of the vectors that are sent."""
        return tuple(self._agreement.vector_lengths)

    @property
    def done(self) -> bool:
        """Whether every step of the run has been carried out."""
        return self.position.step == sum(1 for _ in self._steps())

    def run(self) -> None:
        """Run all rounds, from where ``position`` says.

        Raises: FederationError if an aggregation fails in every attempt.
        """
        for number, step in enumerate(self._steps()):
            if number < self.position.step:
                continue
            self._keep()
            self._carry_out(step)
            self.position = Position(number + 1)
        self._keep()

    def _steps(self) -> Iterator[Step]:
        federation = self._agreement.config.federation
        if federation.score_base:
            yield Step("before", 0, 0)
        for round_number in range(1, federation.rounds + 1):
            stages = self._agreement.method.stages(round_number)
            for stage in stages:
                last = round_number == federation.rounds and stage == stages[-1]
                scored = last or (federation.evaluate == "every_round" and stage == stages[-1])
                yield Step("train", round_number, stage)
                if scored:
                    yield Step("after_local", round_number, stage)
                if not self._aggregates(stage):
                    continue
                yield Step("aggregate", round_number, stage)
                if scored:
                    yield Step("after_aggregation", round_number, stage)

    def _carry_out(self, step: Step) -> None:
        match step.what:
            case "train":
                self._train(step.round, step.stage, self._cohort(step.round))
            case "aggregate":
                self._aggregate(step.round, step.stage, self._cohort(step.round))
            case moment:
                everybody = list(self._agreement.tasks)
                self._evaluate(moment, step.round, step.stage, everybody)

    def _cohort(self, round_number: int) -> tuple[str, ...]:
        """Draw a round's share of each task's clients; the same seed draws the same clients."""
        config = self._agreement.config
        generator = random.Random(f"cohort/{config.run.seed}/{round_number}")
        members: dict[str, list[str]] = {}
        for client, task in self._agreement.tasks.items():
            members.setdefault(task, []).append(client)
        return tuple(
            sorted(
                client
                for clients in members.values()
                for client in generator.sample(clients, config.federation.taking_part(len(clients)))
            )
        )

    def _header(self, round_number: int, stage: int, client: str) -> dict[str, Any]:
        return {
            "run_id": self._agreement.run_id,
            "round": round_number,
            "stage": stage,
            "sender": self.identity.name,
            "recipient": client,
        }

    def _ask(
        self,
        phase: PhaseKey,
        clients: Sequence[str],
        message: Callable[[str], FederationMessage],
    ) -> dict[str, FederationMessage]:
        """Send one message to each client; return the replies of those that answered."""
        requests = {client: seal(message(client), self.identity) for client in clients}
        replies = self._transport.exchange(phase, requests, self._timeout_s)
        agreement = self._agreement
        opened: dict[str, FederationMessage] = {}
        for client, frame in replies.items():
            if frame is None:
                continue
            try:
                reply = open_frame(frame, agreement.roster, client, agreement.run_id)
            except FederationMessageError as error:
                self.events.refusals.append((phase, client, str(error)))
                continue
            if isinstance(reply, Refusal):
                self.events.refusals.append((phase, client, reply.reason))
                continue
            opened[client] = reply
        return opened

    def _train(self, round_number: int, stage: int, cohort: tuple[str, ...]) -> None:
        self._announce(f"round {round_number}, stage {stage}: local training")
        trained = self._ask(
            PhaseKey("train", round_number, stage),
            self._agreement.method.trainers(cohort),
            lambda client: TrainRequest(
                **self._header(round_number, stage, client),
                cohort=cohort,
                catch_up=tuple(self._missed[client]),
            ),
        )
        for client in trained:
            self._missed[client].clear()

    def _evaluate(
        self, point: Moment, round_number: int, stage: int, clients: Sequence[str]
    ) -> None:
        self._announce(f"scoring {point.replace('_', ' ')}")
        scored = self._ask(
            PhaseKey("evaluate", round_number, stage),
            clients,
            lambda client: EvaluateRequest(
                **self._header(round_number, stage, client),
                point=point,
                catch_up=tuple(self._missed[client]),
            ),
        )
        for client in scored:
            self._missed[client].clear()

    def _aggregate(self, round_number: int, stage: int, cohort: tuple[str, ...]) -> None:
        self._announce(f"round {round_number}, stage {stage}: aggregation")
        if self._agreement.config.security.secure_agg:
            self._aggregate_securely(round_number, stage, cohort)
        else:
            self._aggregate_in_clear(round_number, stage, cohort)
        self._aggregated(round_number, stage)

    def _aggregate_securely(self, round_number: int, stage: int, cohort: tuple[str, ...]) -> None:
        """Try until an attempt is not aborted; every attempt has fresh keys."""
        attempts = self._agreement.config.security.max_attempts
        while self.position.failed < attempts:
            report = self._attempt(round_number, stage, cohort)
            self.events.reports.append(report)
            if report.aborted is not None:
                self._clear()
            else:
                means = {
                    spec.id: vector_bytes(report.means[spec.id])
                    if spec.id in report.means
                    else None
                    for spec in report.parameters.sums
                    if not spec.sealed
                }
                delivered = CatchUp(
                    round=round_number, stage=stage, session=report.session, means=means
                )
                self._remember(delivered, report.receipts)
                report.results = {}  # large, and kept as the means to catch up with
                report.__dict__.pop("means", None)
                self._clear()
                return
            self.position.failed += 1
        raise FederationError(
            f"round {round_number}, stage {stage}: the aggregation was aborted in each of "
            f"{attempts} attempts, the last because of {report.aborted}{self._first_refusal()}"
        )

    def _first_refusal(self) -> str:
        """Return the last attempt's first refusal as the end of a sentence."""
        if not self.events.refusals:
            return "."
        last = self.events.refusals[-1][0]
        refused = [entry for entry in self.events.refusals if entry[0] == last]
        _, client, reason = refused[0]
        more = f" ({len(refused) - 1} more refused)" if len(refused) > 1 else ""
        return f"; {client} refused{more}: {reason.rstrip('.')}."

    def _attempt(self, round_number: int, stage: int, cohort: tuple[str, ...]) -> AggregationReport:
        """Carry out a new attempt, or the end of the one that was being opened.

        Once a client may have answered an unmasking, it answers no other of the same updates: so
        the machine is kept before it asks for one, and before it delivers. A delivery in parts
        that is cut off begins again; who had all of it sends the same receipt.
        """
        position = self.position
        machine = position.machine or self._new_machine(round_number, stage, cohort)
        attempt = machine.report.parameters.attempt
        while not machine.done:
            if machine.phase in OPENING and machine.part == 0:
                position.machine = machine
                self._keep()
            session = machine.report.session
            phase = PhaseKey(machine.phase, round_number, stage, attempt, session, machine.part)
            with self._transport.timed(phase.name):
                requests = machine.requests()
            replies = self._transport.exchange(phase, requests, self._timeout_s)
            present = self._without_refusals(phase, replies)
            with self._transport.timed(phase.name):
                machine.receive(present)
        position.machine = None
        self._attempt_ended(machine.report)
        return machine.report

    def _new_machine(
        self, round_number: int, stage: int, cohort: tuple[str, ...]
    ) -> AggregationServer:
        attempt = self.position.attempt
        self.position.attempt += 1
        self._keep()
        parameters = self._agreement.parameters(round_number, stage, attempt, cohort)
        self._attempt_begins(parameters)
        if parameters.distances == "key_holder":
            self._convene(round_number, stage, attempt, cohort)
        self._clear()
        return AggregationServer(
            parameters,
            self.identity,
            Entropy(),
            roster=self._agreement.roster,
            allocate=self._scratch or allocate_in_memory,
            uploads_at_once=self._agreement.config.processes,
            pair_workers=PairPool.of_this_machine(),
        )

    def _clear(self) -> None:
        """Delete what an attempt that has ended, or was killed, has left on the disk."""
        if self._scratch is not None:
            self._scratch.clear()

    def _convene(
        self, round_number: int, stage: int, attempt: int, cohort: tuple[str, ...]
    ) -> None:
        """Tell the key holder of an attempt; one that is missing will be missed in its phases."""
        self._ask(
            PhaseKey("convene", round_number, stage, attempt),
            (KEY_HOLDER,),
            lambda holder: Convene(
                **self._header(round_number, stage, holder), attempt=attempt, cohort=cohort
            ),
        )

    def _without_refusals(
        self, phase: PhaseKey, replies: dict[str, bytes | None]
    ) -> dict[str, bytes | None]:
        """Replace signed refusals by drop-outs, and remember their reasons."""
        agreement = self._agreement
        for client, frame in replies.items():
            if frame is None:
                continue
            try:
                message = open_frame(frame, agreement.roster, client, agreement.run_id)
            except FederationMessageError:
                continue
            if isinstance(message, Refusal):
                self.events.refusals.append((phase, client, message.reason))
                replies[client] = None
        return replies

    def _aggregate_in_clear(self, round_number: int, stage: int, cohort: tuple[str, ...]) -> None:
        updates = self._ask(
            PhaseKey("clear_update", round_number, stage),
            cohort,
            lambda client: ClearCall(**self._header(round_number, stage, client)),
        )
        with self._transport.timed("clear_deliver"):
            replayed = self._replayed.at(round_number, stage) if self._replayed else None
            results = aggregate_in_clear(
                self._agreement.parameters(round_number, stage, 0, cohort),
                {c: u for c, u in updates.items() if isinstance(u, ClearUpdate)},
                replayed,
                self._agreement.config.security.min_contributors if self._replayed else 1,
            )
        told = self._ask(
            PhaseKey("clear_deliver", round_number, stage),
            sorted(results),
            lambda client: ClearDelivery(
                **self._header(round_number, stage, client), **results[client]
            ),
        )
        means = next(iter(results.values()))["means"] if results else {}
        delivered = CatchUp(round=round_number, stage=stage, session=bytes(32), means=means)
        self._remember(delivered, told)

    def _remember(self, delivered: CatchUp, told: Iterable[str]) -> None:
        """Keep the means for whoever was not there to be told."""
        for client in self._missed.keys() - set(told):
            self._missed[client].append(delivered)
