"""The worker: one base model in memory, lent to one client after the other.

A client is its adapters and nothing else, so a process needs the base model once however many
clients it serves. There is one training loop, here, for every method.
"""

from __future__ import annotations

import copy
import hashlib
import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from accelerate import Accelerator, InitProcessGroupKwargs
from datasets import Dataset
from peft import PeftConfig
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler
from transformers import LlavaForConditionalGeneration, get_cosine_schedule_with_warmup

from pilot_secure.config import ModelConfig, TrainingConfig
from pilot_secure.data import (
    ClientData,
    EncodedSample,
    answer_batch,
    bare_prompts,
    encode_samples,
    prompt_batch,
    prompt_lengths,
)
from pilot_secure.errors import DataError
from pilot_secure.federation.plan import ProximalTerm, TrainingPlan
from pilot_secure.federation.ranks import PATIENCE, BatchPart, Ranks, TrainingJob
from pilot_secure.federation.state import ClientState, TensorDict
from pilot_secure.federation.updates import PlainUpdate, Update
from pilot_secure.metrics import MetricScore, score
from pilot_secure.models import (
    PERSONAL,
    SHARED,
    Connector,
    ConnectorOutput,
    ConnectorPath,
    FeatureCache,
    ImageFeatures,
    SingleConnector,
    TowerPath,
    answer_losses,
    attach_text_adapter,
    checkpoint_path,
    generate_answers,
    load_base,
    load_text_adapter_state,
    prompt_states,
    text_adapter_parameters,
    text_adapter_state,
    tower_inputs,
    use_personal_adapter,
    vision_features,
    weighted_adapters,
    weighted_sum,
)
from pilot_secure.privacy.protection import Protection

STEP_SECONDS = 0.12
"""Expected time of a training step on the reference laptop, for the progress bar."""
ANSWER_SECONDS = 0.004
"""Expected time of a generated answer on the reference laptop, for the progress bar."""

ANSWER_BATCH = 64

EpochJournal = Callable[[int, int, dict[str, float]], None]
SecondsDone = Callable[[float], None]
Load = Callable[..., tuple[LlavaForConditionalGeneration, Any]]
"""What gives a base model and its processor, as ``models.load_base`` does."""

ORDINARY = TrainingPlan()

_DTYPES = {"no": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Samples:
    """A client's training samples: token ids, and the vision features [n, N, C] of their images."""

    encoded: list[EncodedSample]
    features: ImageFeatures

    def __len__(self) -> int:
        return len(self.encoded)

    @staticmethod
    def pooled(parts: Sequence[Samples]) -> Samples:
        """The samples of several clients, one after the other."""
        encoded = [sample for part in parts for sample in part.encoded]
        return Samples(encoded, ImageFeatures.joined([part.features for part in parts]))


class Worker:
    """Trains and scores clients on one base model.

    Raises: CheckpointError if the base model cannot be loaded.
    """

    def __init__(
        self, model: ModelConfig, training: TrainingConfig, *, seed: int, load: Load = load_base
    ) -> None:
        self.accelerator = Accelerator(
            mixed_precision=model.mixed_precision,
            kwargs_handlers=[InitProcessGroupKwargs(timeout=PATIENCE)],
        )
        self.ranks = Ranks(self.accelerator)
        self.base_path = checkpoint_path(model.base)
        self._config, self._training, self._seed = model, training, seed
        base, self.processor = load(
            model.base, dtype=_DTYPES[model.mixed_precision], device=self.accelerator.device
        )
        self._path = TowerPath(base) if model.ct_clip else ConnectorPath(base)
        # clients wait their turn on the CPU; shapes without storage stay what they are
        self._aside = torch.device("meta" if base.device.type == "meta" else "cpu")
        self.base_connector = copy.deepcopy(self._path.places).float().to(self._aside)
        self.model = attach_text_adapter(
            base,
            rank=model.lora_rank,
            alpha=model.lora_alpha,
            dropout=model.lora_dropout,
            seed=seed,
        )
        if training.gradient_checkpointing:
            base.gradient_checkpointing_enable({"use_reentrant": False})
        self._initial = self._text_adapter()
        self._placed: nn.Module | None = None
        encode = tower_inputs if model.ct_clip else vision_features
        self._cache = FeatureCache(self.model, self.processor, encode=encode)

    @property
    def lora_config(self) -> PeftConfig:
        """The text adapter's configuration, as PEFT saves it."""
        return self.model.peft_config["default"]

    @property
    def seed(self) -> int:
        """The run's seed."""
        return self._seed

    def initial_text_adapter(self) -> TensorDict:
        """The text adapter that everybody starts from; it changes nothing yet (B is zero)."""
        return {name: tensor.clone() for name, tensor in self._initial.items()}

    def bare_state(self) -> ClientState:
        """The base model without any adapter."""
        return ClientState(text_adapter=self.initial_text_adapter())

    def encode(self, data: ClientData) -> Samples:
        """Tokenise a client's training set, and compute its vision features once.

        Raises: DataError if a prompt, of training or of test, leaves an answer no room.
        """
        features = self._cache.features(data.train)
        image_tokens = self._path.image_tokens(features[:1])
        self._check_prompts(data, image_tokens)
        encoded = encode_samples(
            self.processor.tokenizer,
            data.train["instruction"],
            data.train["answer"],
            image_tokens,
            max_length=self._config.max_length,
        )
        return Samples(encoded, features)

    def _check_prompts(self, data: ClientData, image_tokens: int) -> None:
        limit = self._config.max_length
        for dataset in (data.train, data.test):
            lengths = prompt_lengths(self.processor.tokenizer, dataset["instruction"], image_tokens)
            too_long = [row for row, length in enumerate(lengths) if length >= limit]
            if too_long:
                row = too_long[0]
                others = f" ({len(too_long) - 1} more are too long)" if too_long[1:] else ""
                raise DataError(
                    f"data of {data.name}: the prompt of sample {dataset['id'][row]} has "
                    f"{lengths[row]} tokens{others}, expected fewer than model.max_length = "
                    f"{limit}, so that an answer fits."
                )

    def train(
        self,
        state: ClientState,
        samples: Samples,
        *,
        stage: int,
        plan: TrainingPlan = ORDINARY,
        label: str,
        journal: EpochJournal,
        progress: SecondsDone,
        protection: Protection | None = None,
    ) -> int:
        """Train the text adapter and the connector's own parts, or what the plan says instead,
        for the configured epochs.

        The loss of a step is the mean over its samples of cross-entropy plus weighted auxiliary
        losses, and the plan's proximal term. The optimiser (AdamW, cosine schedule with warm-up)
        starts afresh: no state is carried from one stage or round to the next. ``label`` fixes the
        order of the samples, and what dropout leaves out. Under a ``protection`` of single examples
        the steps are private (`pilot_secure.privacy.dp_sgd`). Returns the number of steps.
        """
        settings = self._training
        steps = settings.epochs * math.ceil(len(samples) / settings.batch_size)
        job = TrainingJob(state, stage, plan, steps, label)
        if self.ranks.count > 1:
            self.ranks.tell(replace(job, state=self._to_train(state)))
        generator = torch.Generator().manual_seed(_derived_seed(self._seed, label))
        with self._in_training(job, generator, protection) as (connector, update, schedule):
            for epoch in range(settings.epochs):
                before, totals = update.steps, defaultdict[str, list[float]](list)
                for rows in update.batches(len(samples)):
                    losses = self._step(connector, samples, rows, update)
                    schedule.step()
                    for name, value in losses.items():
                        totals[name].append(value)
                    progress(STEP_SECONDS)
                means = {name: sum(values) / len(values) for name, values in totals.items()}
                journal(epoch + 1, update.steps - before, means)
        self.ranks.tell(None)
        if plan.personal_weight is None:
            state.text_adapter = self._text_adapter()
        else:
            assert state.personal is not None
            state.personal.tensors = self._text_adapter(PERSONAL)
        return update.steps

    def train_along(self, job: TrainingJob) -> None:
        """Take this process's part of every batch of a training that rank 0 carries out."""
        with self._in_training(job, torch.Generator(), None) as (connector, update, schedule):
            assert isinstance(update, PlainUpdate)
            while (part := self.ranks.told()) is not None:
                self._add(connector, part, update)
                if part.last:
                    schedule.step()

    def _to_train(self, state: ClientState) -> ClientState:
        """Return what of a client's state is trained, where no GPU holds it."""
        connector = copy.deepcopy(state.connector)
        if connector is not None:
            connector = connector.to(self._aside)
        return ClientState(state.text_adapter, connector, personal=state.personal)

    @contextmanager
    def _in_training(
        self, job: TrainingJob, generator: torch.Generator, protection: Protection | None
    ) -> Iterator[tuple[Connector, Update, LRScheduler]]:
        """Put the model and an optimiser in place, and the model out of training afterwards."""
        settings, plan = self._training, job.plan
        connector = self._put_in_place(job.state, personal=plan.personal_weight is not None)
        text, visual = self._trained_parameters(connector, plan)
        rate = settings.learning_rate_stage1 if job.stage == 1 else settings.learning_rate_stage2
        optimizer = torch.optim.AdamW(
            [
                {"params": text, "lr": rate},
                {"params": visual, "lr": rate * settings.connector_rate_factor},
            ],
            weight_decay=settings.weight_decay,
        )
        schedule = get_cosine_schedule_with_warmup(
            optimizer, round(settings.warmup_share * job.steps), job.steps
        )
        pull = ProximalTerm(plan.proximal_weight, [*text, *visual])
        self.model.train()
        connector.train()
        updating = self._update(connector, optimizer, pull, generator, protection)
        with self._drawing(job.label), self._weighted_by(plan), updating as update:
            yield connector, update, schedule
        self.model.eval()
        connector.eval().requires_grad_(False)

    @contextmanager
    def _drawing(self, label: str) -> Iterator[None]:
        """Fix what dropout leaves out in this process, whatever was drawn before and is after."""
        device = self.accelerator.device
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed(_derived_seed(self._seed, f"{label}/dropout/{self.ranks.rank}"))
            yield

    def _trained_parameters(
        self, connector: Connector, plan: TrainingPlan
    ) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
        """Switch gradients on for what the plan trains, text and visual, and off for the rest."""
        personal = plan.personal_weight is not None
        text = text_adapter_parameters(self.model, PERSONAL if personal else SHARED)
        self.model.requires_grad_(False)
        for parameter in text.values():
            parameter.requires_grad_(True)
        if personal:
            connector.requires_grad_(False)
            return list(text.values()), []
        return list(text.values()), list(connector.train_own_parts().values())

    def _weighted_by(self, plan: TrainingPlan) -> AbstractContextManager[None]:
        """Give both text adapters the plan's weights, where both are used."""
        if plan.personal_weight is None:
            return nullcontext()
        shares = {PERSONAL: plan.personal_weight, SHARED: 1 - plan.personal_weight}
        return weighted_adapters(self.model, shares)

    def _update(
        self,
        connector: Connector,
        optimizer: torch.optim.Optimizer,
        pull: ProximalTerm,
        generator: torch.Generator,
        protection: Protection | None,
    ) -> Update:
        settings = self._training
        if protection is None or protection.example_noise is None:
            return PlainUpdate(
                self.accelerator,
                optimizer,
                pull,
                generator,
                batch_size=settings.batch_size,
                max_grad_norm=settings.max_grad_norm,
            )
        from pilot_secure.privacy.dp_sgd import PrivateUpdate

        return PrivateUpdate(
            [self.model, connector],
            optimizer,
            pull,
            protection.example_noise,
            protection.noise,
        )

    def _step(
        self, connector: Connector, samples: Samples, rows: list[int], update: Update
    ) -> dict[str, float]:
        """Take one step; return the mean of every loss, none for an empty batch."""
        if not rows:
            update.step(None)
            return {}
        if not isinstance(update, PlainUpdate):  # the configuration sees to it that it adds nothing
            losses = self.losses(connector, samples, rows)
            update.step(losses["total"])
            return {name: float(values.detach().mean()) for name, values in losses.items()}
        size = math.ceil(len(rows) / self._training.gradient_accumulation)
        means: dict[str, float] = defaultdict(float)
        for start in range(0, len(rows), size):
            part = rows[start : start + size]
            encoded, features = [samples.encoded[row] for row in part], samples.features[part]
            last = start + size >= len(rows)
            whole = BatchPart(encoded, features, len(part) / len(rows), last)
            self.ranks.tell(whole)
            for name, value in self._add(connector, whole, update).items():
                means[name] += value
        return dict(means)

    def _add(self, connector: Connector, whole: BatchPart, update: PlainUpdate) -> dict[str, float]:
        """Add the gradient of this process's rows, and take the step that is due.

        Returns the mean of every loss over the rows of all processes, times their share.
        """
        own, means = whole.of_rank(self.ranks.rank, self.ranks.count), {}
        if own.encoded:
            losses = self._losses(connector, own.encoded, own.features)
            update.add(losses["total"], own.share)
            means = {name: own.share * float(v.detach().mean()) for name, v in losses.items()}
        if whole.last:
            update.finish()
        return self.ranks.sum_over_all(means)

    def losses(self, connector: Connector, samples: Samples, rows: list[int]) -> dict[str, Tensor]:
        """Return every loss [B] of some samples; ``total`` is the objective.

        It is cross-entropy plus λ0 times the difference loss in stage 1 (Eq. 4), plus
        λ1 times load-balancing and λ2 times the router z-loss in stage 2 (Eq. 9).
        """
        encoded = [samples.encoded[row] for row in rows]
        return self._losses(connector, encoded, samples.features[rows])

    def _losses(
        self, connector: Connector, encoded: Sequence[EncodedSample], features: Tensor
    ) -> dict[str, Tensor]:
        settings, device = self._training, self.accelerator.device
        weights = {
            "difference": settings.difference_weight,
            "load_balancing": settings.load_balancing_weight,
            "router_z": settings.router_z_weight,
        }
        batch = answer_batch(encoded, self.processor.tokenizer.pad_token_id).to(device)
        with self.accelerator.autocast():
            output: ConnectorOutput = self._path(connector, features.to(device), weights)
            answers = answer_losses(self.model, batch, output.image_tokens)
            total = answers + weighted_sum(output.losses, weights)
        return {"total": total, "answer": answers, **output.losses}

    def answer(
        self,
        state: ClientState,
        dataset: Dataset,
        progress: SecondsDone = lambda seconds: None,
    ) -> list[str]:
        """Answer every instruction of a dataset greedily, in order."""
        connector = self._put_in_place(state, personal=state.personal is not None)
        features = self._cache.features(dataset)
        done = 0

        def count(answered: int, _total: int) -> None:
            nonlocal done
            progress((answered - done) * ANSWER_SECONDS)
            done = answered

        with self.accelerator.autocast():
            return generate_answers(
                self.model,
                self.processor,
                lambda given: self._path(connector, given, {}).image_tokens,
                dataset["instruction"],
                features,
                max_new_tokens=self._config.max_new_tokens,
                around=self._mixing(state, connector, dataset["instruction"], features),
                progress=count,
            )

    def _mixing(
        self,
        state: ClientState,
        connector: Connector,
        asked: Sequence[str],
        features: ImageFeatures,
    ) -> Callable[[list[int]], AbstractContextManager[None]]:
        """Return what gives both text adapters their weights for rows of a dataset."""
        personal = state.personal
        if personal is None:
            return lambda rows: nullcontext()
        states = []
        for start in range(0, len(asked), ANSWER_BATCH):
            rows = list(range(start, min(start + ANSWER_BATCH, len(asked))))
            instructions = [asked[row] for row in rows]
            image_tokens = self._path.image_tokens(features[:1])
            prompts = prompt_batch(self.processor.tokenizer, instructions, image_tokens)
            states.append(self._personal_states(connector, prompts, features[rows]))
        shares = personal.shares(torch.cat(states))
        return lambda rows: weighted_adapters(
            self.model, {adapter: weights[rows] for adapter, weights in shares.items()}
        )

    def reference_states(self, state: ClientState, samples: Samples, count: int) -> Tensor:
        """Return the last hidden states [S, D] of S = ``count`` training prompts (all, if fewer).

        They are as the personal adapter sees them, by itself; the seed draws the samples.
        """
        generator = torch.Generator().manual_seed(_derived_seed(self._seed, "references"))
        rows = torch.randperm(len(samples), generator=generator)[:count].tolist()
        connector = self._put_in_place(state, personal=True)
        pad = self.processor.tokenizer.pad_token_id
        prompts = bare_prompts([samples.encoded[row] for row in rows], pad)
        with self.accelerator.autocast():
            return self._personal_states(connector, prompts, samples.features[rows])

    @torch.no_grad()
    def _personal_states(
        self, connector: Connector, prompts: Mapping[str, Tensor], features: Tensor
    ) -> Tensor:
        with weighted_adapters(self.model, {PERSONAL: 1.0, SHARED: 0.0}):
            given = features.to(self.accelerator.device)
            tokens = self._path(connector, given, {}).image_tokens
            return prompt_states(self.model, prompts, tokens).float()

    def score(
        self, state: ClientState, data: ClientData, progress: SecondsDone = lambda seconds: None
    ) -> MetricScore:
        """Score a client's model on its test set by the client's metric."""
        return score(data.metric, self.answer(state, data.test, progress), data.test)

    def _text_adapter(self, adapter: str = SHARED) -> TensorDict:
        state = text_adapter_state(self.model, adapter)
        return {name: tensor.to(self._aside) for name, tensor in state.items()}

    def _put_in_place(self, state: ClientState, *, personal: bool = False) -> Connector:
        """Load a client's text adapters into the model that clients share; return its connector.

        The connector moves to where the model is, the one before it back to the CPU.

        The personal adapter takes no part in forward passes unless ``personal``.
        """
        load_text_adapter_state(self.model, state.text_adapter)
        use_personal_adapter(self.model, personal)
        if personal:
            assert state.personal is not None
            load_text_adapter_state(self.model, state.personal.tensors, PERSONAL)
        connector = state.connector
        if not isinstance(connector, Connector):  # the base model's own, or a saved copy of it
            connector = SingleConnector(connector or self.base_connector)
        if self._placed is not None and self._placed is not connector:
            self._placed.to(self._aside)
        self._placed = connector
        return connector.to(self.accelerator.device)


def _derived_seed(seed: int, label: str) -> int:
    """Return a 63-bit seed for one client, round and stage of a run."""
    digest = hashlib.sha256(f"{seed}/{label}".encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1
