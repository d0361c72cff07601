"""One client's noise and its list of releases: nothing leaves the client but through here."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from typing import Any

from pilot_secure.privacy.client_level import Vector, noised
from pilot_secure.privacy.ledger import DpSgd, LocalNoise, Release, Unprotected
from pilot_secure.privacy.noise import ProtectiveNoise
from pilot_secure.privacy.planning import ExampleNoise, NoisePlan
from protocols import Entropy

NO_NOISE = "sent without noise"
Place = tuple[int, int]
NoisedUpdate = tuple[Place, dict[str, Vector]]


class Protection:
    """What a client does for its privacy; ``plan`` None: nothing, which the ledger says.

    ``released`` is told of every release (client, release). Secrecy: the noise is the client's.
    """

    def __init__(
        self,
        client: str,
        plan: NoisePlan | None,
        released: Callable[[str, Release], None],
        entropy: Entropy | None = None,
    ) -> None:
        self._client, self._plan, self._released = client, plan, released
        self.noise = ProtectiveNoise(entropy or Entropy())
        self.sent: NoisedUpdate | None = None
        self._noted: set[Place] = set()

    @property
    def example_noise(self) -> ExampleNoise | None:
        """What private training is to do; None: train as usual."""
        plan = self._plan
        if plan is None or plan.unit != "example":
            return None
        return ExampleNoise(
            plan.noise_multipliers[self._client], plan.clipping_norm, plan.batch_size, plan.mode
        )

    @property
    def noises_updates(self) -> bool:
        """Whether updates are noised as a whole."""
        return self._plan is not None and self._plan.unit == "client"

    def trained(self, place: Place, *, steps: int, num_examples: int) -> None:
        """Note ``steps`` of private training on ``num_examples`` at a round and stage."""
        protected = self.example_noise
        if protected is None or not steps:
            return
        self._released(
            self._client,
            DpSgd(
                **_at(place),
                sampling="poisson",
                sampling_rate=protected.batch_size / num_examples,
                noise_multiplier=protected.noise_multiplier,
                clipping_norm=protected.clipping_norm,
                steps=steps,
            ),
        )

    def upload(self, place: Place, update: Mapping[str, Vector]) -> dict[str, Vector]:
        """What may leave the client in place of its update.

        Client-level noise is drawn once for a round and stage: a further attempt sends the same.
        """
        if self._plan is not None and self.noises_updates:
            return self._noised_once(place, update, self._plan)
        if self._plan is None and place not in self._noted:
            self._noted.add(place)
            round_number, stage = place
            self._released(
                self._client,
                Unprotected(round=round_number, stage=stage, reason=NO_NOISE),  # type: ignore[arg-type]
            )
        return dict(update)

    def _noised_once(
        self, place: Place, update: Mapping[str, Vector], plan: NoisePlan
    ) -> dict[str, Vector]:
        if self.sent is None or self.sent[0] != place:
            noise_multiplier = plan.noise_multipliers[self._client]
            sent = noised(
                update,
                clipping_norm=plan.clipping_norm,
                noise_multiplier=noise_multiplier,
                noise=self.noise,
                shared=plan.shared,
            )
            self.sent = (place, sent)
            if not set(update) - set(plan.shared):
                return sent  # the run enters the sums that hold its share of the noise
            self._released(
                self._client,
                LocalNoise(
                    **_at(place),
                    noise_multiplier=noise_multiplier,
                    clipping_norm=plan.clipping_norm,
                    uploads=1,
                    without=tuple(sorted(plan.shared)),
                ),
            )
        return self.sent[1]


def _at(place: Place) -> dict[str, Any]:
    """A release's place, and a name for its draw of noise."""
    return {"round": place[0], "stage": place[1], "draw": secrets.token_hex(8)}
