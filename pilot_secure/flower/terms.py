"""What the parties of a deployment agree on before a run, and how each makes sure that all did."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from pilot_secure.config import SimulationConfig
from pilot_secure.config_checks import validate
from pilot_secure.config_file import read_config_file
from pilot_secure.errors import RunFolderError
from pilot_secure.flower.party_folder import CONFIG, TERMS, PartyFolder
from pilot_secure.privacy.planning import NoisePlan
from protocols.identity import Name

OWN_SECTIONS = {"run", "data"}
"""What each party may set for itself: where its files are."""

_NOISE: TypeAdapter[NoisePlan] = TypeAdapter(NoisePlan)


class Terms(BaseModel):
    """The public side of a run that no configuration file holds.

    ``tasks`` are the clients' in the roster's order; ``vector_lengths`` the coordinates of what is
    sent, and ``base_sha256`` the base model, that every client finds again when it loads its own.
    ``noise`` is what every client adds, if any.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    tasks: dict[Name, str]
    max_samples: int = Field(ge=1)
    vector_lengths: dict[Name, int]
    base_sha256: str
    noise: dict[str, Any] | None = None

    @property
    def noise_plan(self) -> NoisePlan | None:
        """The noise, as clients use it."""
        return None if self.noise is None else _NOISE.validate_python(self.noise)


def read_terms(party: PartyFolder) -> Terms:
    """Return a party's terms. Raises: RunFolderError if they are malformed."""
    try:
        return Terms.model_validate_json(party.read(TERMS))
    except ValidationError as error:
        reason = error.errors(include_input=False, include_url=False)[0]["msg"]
        raise RunFolderError(f"{party.path / TERMS}: no terms of a run ({reason}).") from None


def read_config(party: PartyFolder) -> SimulationConfig:
    """Return a party's configuration. Raises: ConfigError if it is wrong."""
    path = party.path / CONFIG
    return validate(SimulationConfig, read_config_file(path), file=str(path))


def agreed_digest(party: PartyFolder) -> bytes:
    """Hash what must be equal for all parties: configuration, terms, roster; 32 bytes."""
    content = {
        "config": read_config(party).model_dump(mode="json", exclude=OWN_SECTIONS),
        "terms": read_terms(party).model_dump(mode="json"),
        "roster": party.roster.digest().hex(),
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).digest()
