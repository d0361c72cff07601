"""H01, H02: encrypted distances are under a safe ring, hold no secret key, and are releases."""

from __future__ import annotations

import re

from pydantic import ValidationError

from pilot_secure.audit.attempts import Attempt
from pilot_secure.audit.entries import Entry
from pilot_secure.audit.rule import Rule
from protocols.codec import CodecError, decode
from protocols.distance_lengths import distance_reply_bytes, measured_length
from protocols.distance_messages import BlindedUpload, DistanceReplies, HolderKeys, ReleaseRequest
from protocols.errors import ParameterError, ProtocolError
from protocols.identity import SIGNATURE_BYTES
from protocols.keys import TAG_BYTES
from protocols.parameter_sets import MAX_MODULUS_BITS_128, PARAMETER_SETS

# SEAL's stream header: magic, header size 16, major version 4, any minor, compression 0–2, zeros.
SEAL_STREAM = re.compile(rb"\x5e\xa1\x10\x04[\x00-\x0f][\x00-\x02]\x00\x00")


class H01Ckks(Rule):
    """The CKKS set is within the 128-bit bound; no message holds a SEAL object, so no key."""

    id = "H01"
    title = "CKKS modulus within the 128-bit bound, no secret key in any message"

    def see(self, entry: Entry, attempt: Attempt | None) -> None:
        """Search a frame for what SEAL would write: this protocol sends residues only."""
        if attempt is None or entry.frame is None:
            return
        self.checked += 1
        found = SEAL_STREAM.search(entry.frame)
        if found is not None:
            what = f"a SEAL object at byte {found.start()}, as a saved context with its keys is"
            self.fail_at(entry, attempt, what, "residues only")

    def conclude(self, attempt: Attempt) -> None:
        """Look at the named parameter set."""
        p = attempt.parameters
        if p is None or not p.selects:
            return
        self.checked += 1
        known = PARAMETER_SETS.get(p.distance_parameter_set)
        if known is None:
            found = f"the CKKS set {p.distance_parameter_set}"
            expected = f"one of {', '.join(PARAMETER_SETS)}"
            self.fail(attempt.label, attempt.first_seq, found, expected)
            return
        limit = MAX_MODULUS_BITS_128.get(known.degree, 0)
        if known.total_bits > limit:
            found = f"{known.total_bits} bits at degree {known.degree}"
            self.fail(attempt.label, attempt.first_seq, found, f"{limit} at most")
        try:
            known.check()
        except ParameterError as error:
            self.fail(attempt.label, attempt.first_seq, str(error), "a set that passes its checks")


class H02Release(Rule):
    """What is opened is an evaluation of signed inputs, and one number only.

    Under key-holder trust the hashes of results are computed again from the uploads beside them;
    under peer trust a reply has the public length of one extracted result.
    """

    id = "H02"
    title = "released distances are evaluations of signed inputs, flooded (escrow: recomputed)"

    def see(self, entry: Entry, attempt: Attempt | None) -> None:
        """Look at replies to uploads, and at what the key holder is asked to release."""
        if attempt is None or attempt.parameters is None:
            return
        match entry.message:
            case DistanceReplies() as message:
                self._check_lengths(entry, attempt, message)
            case HolderKeys() as message:
                self._keys = message.keys
            case ReleaseRequest() as message:
                self._evaluate(entry, attempt, message)

    def _check_lengths(self, entry: Entry, attempt: Attempt, message: DistanceReplies) -> None:
        assert attempt.parameters is not None
        try:
            due = distance_reply_bytes(attempt.parameters) + TAG_BYTES
        except ParameterError:
            return
        for box in message.boxes:
            self.checked += 1
            if len(box.ciphertext) != due:
                found = f"{len(box.ciphertext)} bytes to {box.party}"
                self.fail_at(entry, attempt, found, f"{due}: one number, not a whole ciphertext")
        self.note(
            "replies are sealed for their recipients: their form is checked here, their values by "
            "`audit replay`"
        )

    def _evaluate(self, entry: Entry, attempt: Attempt, message: ReleaseRequest) -> None:
        """Compute every pair again under the holder's keys: evaluation is deterministic."""
        from protocols.key_holder import DistanceServer

        p = attempt.parameters
        assert p is not None
        if self._keys is None:
            self.lack(f"{attempt.label}: the key holder's keys")
            return
        uploads = {}
        for frame in message.uploads:
            try:
                upload = BlindedUpload.model_validate(decode(frame[SIGNATURE_BYTES:]))
            except (CodecError, ValidationError):
                continue  # T02 tells
            uploads[upload.sender] = upload.upload
        self.checked += 1
        try:
            server = DistanceServer(p.distance_parameter_set, measured_length(p), self._keys)
            due = server.digests(uploads)
        except ProtocolError as error:
            self.fail_at(entry, attempt, f"uploads that do not evaluate: {error}", "signed uploads")
            return
        asked = {(item.one, item.other): item.digest for item in message.results}
        for one, other in sorted(due.keys() | asked.keys()):
            if due.get((one, other)) == asked.get((one, other)):
                continue
            found = f"the result for {one} and {other}"
            self.fail_at(entry, attempt, found, "the evaluation of their signed uploads")

    def conclude(self, attempt: Attempt) -> None:
        """Note where no distances are measured."""
        self._keys = None
        if attempt.parameters is not None and not attempt.parameters.selects:
            self.moot = "no distances are measured"

    _keys: bytes | None = None
