"""What all parties agreed on before the run: configuration, tasks, identities, vector lengths.

Each party builds the parameters of every aggregation from it by itself, so that a server that
announces other parameters ends up with another session id and is refused.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from pilot_secure.config import SimulationConfig
from pilot_secure.federation.methods import Method
from pilot_secure.federation.shared_noise import clip_of, share_of_noise
from pilot_secure.privacy.planning import NoisePlan
from protocols import AggregationParameters, Roster, smallest_threshold


@dataclass(frozen=True)
class Agreement:
    """The public side of a run.

    Attributes:
        tasks: task of every client, in the order of the roster.
        vector_lengths: coordinates of every vector that is sent.
        max_samples: public upper bound of n_k, V.
        noise: what every client adds; it says which vectors' noise is shared in the ring.
    """

    run_id: str
    config: SimulationConfig
    method: Method
    tasks: Mapping[str, str]
    roster: Roster
    vector_lengths: Mapping[str, int]
    max_samples: int
    noise: NoisePlan | None = None

    def parameters(
        self, round_number: int, stage: int, attempt: int, cohort: Sequence[str]
    ) -> AggregationParameters:
        """Return the parameters of one attempt of one aggregation.

        In the clear there is nothing to protect, so the bounds that keep a sum from being opened
        too early are at their smallest: any M and any cohort can be tried. Only where M is ``auto``
        does the fewest contributors stay, for it bounds M in either.
        Raises: ParameterError if they are unsafe together.
        """
        security, federation = self.config.security, self.config.federation
        neighbours = federation.num_neighbours
        colluders, minimum, threshold = (
            (security.max_colluders, security.min_contributors, security.threshold)
            if security.secure_agg
            else (0, security.min_contributors if neighbours == "auto" else 2, "auto")
        )
        if threshold == "auto":
            threshold = smallest_threshold(len(cohort), colluders)
        sums = self.method.sums(self.tasks, cohort, stage)
        return AggregationParameters.build(
            run_id=self.run_id,
            round=round_number,
            stage=stage,
            attempt=attempt,
            roster=self.roster.digest(),
            cohort=tuple(sorted(cohort)),
            sums=sums,
            vector_lengths=dict(self.vector_lengths),
            clip={name: clip_of(security, self.noise, name) for name in self.vector_lengths},
            noise=self._shares({spec.vector for spec in sums}),
            max_samples=self.max_samples,
            ring_bits=security.ring_bits,
            part_bytes=security.part_bytes,
            threshold=threshold,
            max_colluders=colluders,
            min_contributors=minimum,
            num_neighbours=neighbours
            if neighbours == "auto"
            else max(1, min(neighbours, len(cohort) - 1)),
            neighbour_visibility="visible"
            if security.neighbour_visibility == "visible"
            else "hidden",
            distance_trust=security.distance_trust,
            sketch_size=security.sketch_size,
            distance_parameter_set=security.ckks_set,
            distance_norm_bound=security.distance_norm_bound,
            eq12=federation.eq12,
        )

    def _shares(self, vectors: Collection[str]) -> dict[str, float]:
        """Each contributor's share of noise on the vectors that have any in the ring."""
        noise = self.noise
        if noise is None:
            return {}
        return {
            name: share_of_noise(self.config.security, noise, name, self.vector_lengths[name])
            for name in sorted(vectors)
            if name in noise.shared
        }
