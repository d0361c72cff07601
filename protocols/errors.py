"""Errors of the protocols.

::

    ProtocolError
    ├── ParameterError      the caller's configuration cannot be run safely
    ├── InputError          the caller's own data: NaN, infinity, wrong length, above the cap
    ├── LocalProtocolError  the caller used a machine wrongly (after its end, out of turn)
    ├── AttemptRefused      this party answered an unmasking of the same updates before
    ├── PeerError           a message of another party is at fault
    │   ├── MalformedMessage     not the canonical bytes of a known message
    │   ├── BadSignature         not signed by the key pinned for its sender
    │   ├── WrongSession         signed, but for another aggregation or attempt
    │   ├── UnexpectedMessage    a message that the present state does not take
    │   ├── BadKey               a reused, small-order or substituted key
    │   ├── BadShare             a share that does not open or does not match its commitment
    │   ├── BadDistance          a distance message that does not open or is out of range
    │   ├── BadSelection         a neighbour list that breaks the rules
    │   ├── BadPlan              contributors or recipient other than the rules give
    │   ├── BadSurvivors         survivor set, dead list or signatures that do not agree
    │   └── BadDelivery          a result other than the one that was agreed on
    └── AttemptAborted      the aggregation cannot go on; nothing was opened

A peer's error names the party at fault and the phase. No message prints a secret.
"""

from __future__ import annotations


class ProtocolError(Exception):
    """Anything that stops a protocol, told in one sentence."""


class ParameterError(ProtocolError):
    """Parameters that contradict each other or are unsafe together."""


class InputError(ProtocolError):
    """Data of this party that cannot be aggregated."""


class LocalProtocolError(ProtocolError):
    """A machine was driven wrongly by its own caller."""


class AttemptRefused(ProtocolError):
    """This party has already helped to open an aggregation of the same updates."""


class AttemptAborted(ProtocolError):
    """The attempt ended without opening anything."""


class PeerError(ProtocolError):
    """A message of another party that breaks the protocol.

    ``party`` is who sent it, ``phase`` where it was found.
    """

    def __init__(self, party: str, phase: str, reason: str) -> None:
        super().__init__(f"{phase}: {party}: {reason}")
        self.party = party
        self.phase = phase
        self.reason = reason

    def __reduce__(self) -> tuple[type[PeerError], tuple[str, str, str]]:
        """Pickle by the three parts: processes tell each other of faults."""
        return type(self), (self.party, self.phase, self.reason)


class MalformedMessage(PeerError):
    """Bytes that are not the canonical form of the message that was due."""


class BadSignature(PeerError):
    """A message that the pinned key of its sender did not sign."""


class WrongSession(PeerError):
    """A message of another run, round, stage, attempt or cohort."""


class UnexpectedMessage(PeerError):
    """A known message that comes at the wrong time."""


class BadKey(PeerError):
    """A public key that is of small order, reused, or not the sender's."""


class BadShare(PeerError):
    """A secret share that does not open or does not match its commitment."""


class BadDistance(PeerError):
    """A distance message that is malformed, does not open, or is out of range."""


class BadSelection(PeerError):
    """A neighbour list that breaks the rules of selection."""


class BadPlan(PeerError):
    """A plan other than the one that the rules give."""


class BadSurvivors(PeerError):
    """Survivors, dead list or consistency signatures that do not agree."""


class BadDelivery(PeerError):
    """A delivered result other than the one agreed on."""
