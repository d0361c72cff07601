"""Squared distances under key-holder trust: one CKKS key with a party apart from the server.

The holder publishes keys; each client encrypts its blinded sketch with the public key; the server
computes every pair's distance; the holder repeats the computation on the clients' signed uploads,
decrypts only that, where both agree, and gives each client its own row. Contents of the frames::

    keys   = seed (32) ‖ public key body ‖ switching key bodies
    upload = closing hash of keys ‖ for each chunk: both polynomials
    result = closing hashes of both uploads ‖ constant ‖ second polynomial

Uploads use the public key: a seeded symmetric upload would need the decryption key, so uploads
are twice as large per ciphertext as under peer trust. Signatures around all of these have been
checked by the caller.

Secrecy: the holder is handed the uploads and could decrypt them, which is why clients blind their
sketches with a secret of their own (:mod:`protocols.blinding`). Holder and any one client
together open everything; server and holder together see blinded sketches.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from itertools import combinations, permutations
from typing import Any

import numpy.typing as npt

from .blinding import blind, blinded_length
from .ckks import CkksError, Ring, SecretKey
from .ckks_check import ring_for
from .conjugate_products import Prepared, conjugate_product, prepare, squared_distance
from .distance_frames import (
    DIGEST_BYTES,
    FRAME_BYTES,
    SEED_BYTES,
    Kind,
    close_frame,
    closing_hash,
    header,
    open_frame,
)
from .distance_values import (
    PHASE,
    RandomSource,
    checked_sketch,
    released,
    slot_chunks,
    uniform_flood,
)
from .errors import AttemptAborted, BadDistance, LocalProtocolError
from .identity import KEY_HOLDER, SERVER
from .pair_jobs import LEAST_PAIRS, PairJob, PairWorkers, Results, cut_pairs
from .parameter_sets import ParameterSet
from .parameter_sets import parameter_set as lookup
from .residues import ResidueError, pack, unpack
from .seal_streams import expand_seed

Pair = tuple[str, str]


def keys_length(name: str) -> int:
    """Bytes of the holder's public keys under the named set."""
    return FRAME_BYTES + _keys_content(lookup(name, "key_holder"))


def holder_upload_length(name: str, sketch_length: int) -> int:
    """Bytes of a client's upload of ``sketch_length`` numbers under the named set."""
    return FRAME_BYTES + _upload_content(lookup(name, "key_holder"), sketch_length)


def result_length(name: str) -> int:
    """Bytes of one pair's encrypted distance under the named set."""
    return FRAME_BYTES + _result_content(lookup(name, "key_holder"))


def _keys_content(parameters: ParameterSet) -> int:
    all_primes = len(parameters.prime_bits)
    return SEED_BYTES + all_primes * parameters.polynomial_bytes(all_primes)


def _upload_content(parameters: ParameterSet, sketch_length: int) -> int:
    chunk = 2 * parameters.polynomial_bytes(len(parameters.prime_bits) - 1)
    return DIGEST_BYTES + parameters.num_chunks(blinded_length(sketch_length)) * chunk


def _result_content(parameters: ParameterSet) -> int:
    return 2 * DIGEST_BYTES + parameters.residue_bytes(0) + parameters.polynomial_bytes(1)


def _switching_seeds(seed: bytes, ring: Ring) -> list[bytes]:
    return [expand_seed(seed, "switching", index) for index in range(len(ring.data_primes))]


class _PublicKeys:
    """The holder's keys, parsed and loaded.

    Raises:
        BadDistance: naming the key holder, if they are not canonical.
    """

    def __init__(self, ring: Ring, keys: bytes, sketch_length: int) -> None:
        parameters, degree = ring.parameters, ring.degree
        head = header(Kind.HOLDER_KEYS, parameters, sketch_length)
        content = open_frame(keys, head, _keys_content(parameters), KEY_HOLDER)
        seed, body = content[:SEED_BYTES], content[SEED_BYTES:]
        size = parameters.polynomial_bytes(len(ring.primes))
        try:
            rows = [
                unpack(body[start : start + size], degree, ring.primes)
                for start in range(0, len(body), size)
            ]
            self.public = ring.seeded_public_key(rows[0], expand_seed(seed, "public key", 0))
            self.switching = ring.switching_keys(rows[1:], _switching_seeds(seed, ring))
        except (ResidueError, CkksError) as error:
            raise BadDistance(KEY_HOLDER, PHASE, str(error)) from error
        self.digest = closing_hash(keys)


class KeyHolderClient:
    """A client's part: one public-key encryption of its blinded sketch.

    Args:
        vector_sketch: finite, norm at most ``norm_bound``.
        parameter_set: name of a set for key-holder trust.
        norm_bound: public bound B on every client's sketch norm.
        blinding: secret of all clients together, at least 16 bytes, fresh in each aggregation,
            unknown to the server and the key holder.

    Raises:
        ParameterError, InputError, NormBoundExceeded: before anything is encrypted.
    """

    def __init__(
        self, vector_sketch: npt.ArrayLike, parameter_set: str, norm_bound: float, blinding: bytes
    ) -> None:
        self._parameters = lookup(parameter_set, "key_holder")
        sketch = checked_sketch(vector_sketch, norm_bound)
        self._length = sketch.size
        self._norm_bound = float(norm_bound)
        self._vector = blind(sketch, blinding)
        self._ring = ring_for(self._parameters)
        self._committed: tuple[bytes, bytes] | None = None

    def __repr__(self) -> str:
        return f"KeyHolderClient({self._parameters.name}, {self._length} numbers, hidden)"

    def upload(self, keys: bytes) -> bytes:
        """This client's committed upload under the holder's keys.

        Raises:
            BadDistance: keys that are not canonical.
            LocalProtocolError: a second upload under other keys.
        """
        if self._committed is None:
            self._committed = (keys, self._encrypted(_PublicKeys(self._ring, keys, self._length)))
        elif self._committed[0] != keys:
            raise LocalProtocolError("an upload under other keys has been made before")
        return self._committed[1]

    def accept(self, squared: float) -> float:
        """A squared distance that the holder gave, if this client's norm and the bound allow it.

        Raises:
            BadDistance: naming the key holder.
        """
        own_norm = math.sqrt(float(self._vector @ self._vector))
        unit = self._norm_bound**2
        return released(squared / unit, own_norm, self._parameters, KEY_HOLDER) * unit

    def _encrypted(self, keys: _PublicKeys) -> bytes:
        scale = math.ldexp(1.0, self._parameters.upload_scale_bits)
        parts = [keys.digest]
        for slots in slot_chunks(self._vector, self._ring.degree):
            plaintext = self._ring.encode(slots * scale)
            for polynomial in self._ring.public_encrypt(keys.public, plaintext):
                parts.append(pack(polynomial, self._ring.data_primes))
        head = header(Kind.HOLDER_UPLOAD, self._parameters, self._length)
        return close_frame(head, b"".join(parts))


class DistanceServer:
    """The server's part, and the holder's repetition of it: all pairs from the uploads.

    Holds no secret. ``keys`` and uploads are public to server and holder. With ``workers`` of a
    count above 1, many pairs are spread over them.
    """

    def __init__(
        self,
        parameter_set: str,
        sketch_length: int,
        keys: bytes,
        workers: PairWorkers | None = None,
    ) -> None:
        self._parameters = lookup(parameter_set, "key_holder")
        self._length = sketch_length
        self._ring = ring_for(self._parameters)
        self._key_bytes, self._keys = keys, _PublicKeys(self._ring, keys, sketch_length)
        self._workers = workers

    def check(self, upload: bytes, sender: str) -> None:
        """Refuse an upload that could not be evaluated.

        Raises:
            BadDistance: naming ``sender``; the upload is not canonical, under other keys, or has no
                encrypted norm.
        """
        self._norm(self._load(upload, sender), sender)

    def evaluate(
        self, uploads: Mapping[str, bytes], pairs: Collection[Pair] | None = None
    ) -> dict[Pair, bytes]:
        """The encrypted distance of every pair of clients whose uploads are here.

        A client without an upload is in no pair. Pairs are (a, b) with a before b; naming some of
        them computes those only. The result is a function of keys and uploads alone, byte for
        byte, whoever works on it.

        Raises:
            BadDistance: naming the client whose upload :meth:`check` would refuse.
            AttemptAborted: two uploads that have no encrypted distance, such as equal ones.
        """
        return dict(self.each(uploads, pairs))

    def digests(self, uploads: Mapping[str, bytes]) -> dict[Pair, bytes]:
        """The closing hash of every pair's encrypted distance, without keeping any of them.

        Raises:
            BadDistance, AttemptAborted: as in :meth:`evaluate`.
        """
        return {pair: closing_hash(result) for pair, result in self.each(uploads)}

    def each(
        self, uploads: Mapping[str, bytes], pairs: Collection[Pair] | None = None
    ) -> Iterator[tuple[Pair, bytes]]:
        """What :meth:`evaluate` returns, one pair after the other, in whatever order."""
        wanted = list(combinations(sorted(uploads), 2)) if pairs is None else sorted(pairs)
        workers = self._workers
        if workers is not None and workers.count > 1 and len(wanted) >= LEAST_PAIRS:
            for results in workers.run(evaluate_job, self._jobs(uploads, wanted, workers.count)):
                yield from results
            return
        names = uploads.keys() if pairs is None else {name for pair in wanted for name in pair}
        yield from self._here(uploads, names, wanted)

    def _jobs(
        self, uploads: Mapping[str, bytes], wanted: Collection[Pair], count: int
    ) -> Iterator[PairJob]:
        """The pairs as jobs, each with its uploads only."""
        name, length, keys = self._parameters.name, self._length, self._key_bytes
        for part in cut_pairs(wanted, count):
            needed = {name: uploads[name] for pair in part for name in pair}
            yield PairJob(name, length, keys, needed, part)

    def _here(
        self, uploads: Mapping[str, bytes], names: Collection[str], wanted: Collection[Pair]
    ) -> Iterator[tuple[Pair, bytes]]:
        """The wanted pairs, evaluated in this process, once the uploads of ``names`` are loaded."""
        ring, keys = self._ring, self._keys
        loaded = {name: self._load(uploads[name], name) for name in sorted(names)}
        norms = {name: self._norm(chunks, name) for name, chunks in loaded.items()}
        for a, b in wanted:
            try:
                product = conjugate_product(ring, loaded[a], loaded[b])
                total = squared_distance(ring, norms[a], norms[b], product, keys.switching)
            except CkksError as error:
                raise AttemptAborted(
                    f"{PHASE}: the uploads of {a} and {b} have no encrypted distance, and whose is "
                    f"at fault cannot be told ({error})"
                ) from error
            inputs = closing_hash(uploads[a]) + closing_hash(uploads[b])
            yield (a, b), self._result(total, inputs)

    def _result(self, total: Any, inputs: bytes) -> bytes:
        self._ring.to_last_level(total)
        constant, second = self._ring.extract_constant(total)
        width = self._parameters.residue_bytes(0)
        body = constant.to_bytes(width, "little") + pack(second, self._ring.primes[:1])
        return close_frame(
            header(Kind.HOLDER_RESULT, self._parameters, self._length), inputs + body
        )

    def _norm(self, chunks: list[Prepared], sender: str) -> tuple[Any, Any]:
        """A client's encrypted squared norm, in the two parts of a conjugate product.

        SEAL refuses products that are visibly zero, which no honest upload has.
        """
        try:
            return conjugate_product(self._ring, chunks, chunks)
        except CkksError as error:
            raise BadDistance(sender, PHASE, str(error)) from error

    def _load(self, upload: bytes, sender: str) -> list[Prepared]:
        """A client's ciphertexts and their conjugates."""
        ring, parameters = self._ring, self._parameters
        head = header(Kind.HOLDER_UPLOAD, parameters, self._length)
        content = open_frame(upload, head, _upload_content(parameters, self._length), sender)
        if content[:DIGEST_BYTES] != self._keys.digest:
            raise BadDistance(sender, PHASE, "the upload is under another key")
        size = parameters.polynomial_bytes(len(ring.data_primes))
        body = content[DIGEST_BYTES:]
        try:
            rows = [
                unpack(body[start : start + size], ring.degree, ring.data_primes)
                for start in range(0, len(body), size)
            ]
            pairs = zip(rows[::2], rows[1::2], strict=True)
            return [prepare(ring, first, second) for first, second in pairs]
        except (ResidueError, CkksError) as error:
            raise BadDistance(sender, PHASE, str(error)) from error


def evaluate_job(job: PairJob) -> Results:
    """The encrypted distances of a job's pairs, in whatever process."""
    server = DistanceServer(job.parameter_set, job.sketch_length, job.keys)
    return list(server.each(job.uploads, job.pairs))


class KeyHolder:
    """The party with the secret key of one aggregation.

    Secrecy: it learns all distances, norms and inner products of sketches; it must not collude
    with any client (nor, for the coordinates of unblinded data, with the server). ``workers``, if
    any, see uploads and encrypted distances, and no key.
    """

    def __init__(
        self,
        parameter_set: str,
        sketch_length: int,
        norm_bound: float,
        entropy: RandomSource,
        workers: PairWorkers | None = None,
    ) -> None:
        self._parameters = lookup(parameter_set, "key_holder")
        self._length = sketch_length
        self._norm_bound = float(norm_bound)
        self._entropy = entropy
        self._ring = ring_for(self._parameters)
        self._secret = SecretKey(self._ring)
        self._keys = self._make_keys()
        self._workers = workers
        self._spent = False

    def __repr__(self) -> str:
        return f"KeyHolder({self._parameters.name}, hidden)"

    def keys(self) -> bytes:
        """The public keys of this aggregation, seed-compressed."""
        return self._keys

    def _make_keys(self) -> bytes:
        seed, secret, primes = self._entropy.read(SEED_BYTES), self._secret, self._ring.primes
        bodies = [secret.public_key_body(expand_seed(seed, "public key", 0))]
        bodies += secret.switching_key_bodies(_switching_seeds(seed, self._ring))
        content = seed + b"".join(pack(body, primes) for body in bodies)
        return close_frame(header(Kind.HOLDER_KEYS, self._parameters, self._length), content)

    def release(
        self, uploads: Mapping[str, bytes], digests: Mapping[Pair, bytes]
    ) -> dict[str, dict[str, float]]:
        """Each client's row of squared distances, for that client alone.

        Nothing but this holder's own evaluation of the signed ``uploads`` is decrypted, and that
        only where its hash is the server's; it is flooded, range-checked, checked against the
        triangle inequality and rounded. Once per key, since a second release would average the
        flooding away.

        Raises:
            BadDistance: naming the server for a result that is missing, unasked for or not the
                evaluation of the uploads; a client for its upload, also if every impossible
                distance is one of its own.
            AttemptAborted: distances are impossible, and which client's upload is at fault cannot
                be told.
            LocalProtocolError: this key has been used.
        """
        if self._spent:
            raise LocalProtocolError("this key has released its distances")
        self._spent = True
        if set(digests) != set(combinations(sorted(uploads), 2)):
            raise BadDistance(SERVER, PHASE, "results for other pairs than the uploads give")
        own = DistanceServer(self._parameters.name, self._length, self._keys, self._workers)
        rows: dict[str, dict[str, float]] = {name: {} for name in sorted(uploads)}
        impossible: list[tuple[str, ...]] = []
        for pair, result in own.each(uploads):
            if digests[pair] != closing_hash(result):
                reason = f"the result for {pair} is not the evaluation of the signed uploads"
                raise BadDistance(SERVER, PHASE, reason)
            a, b = pair
            try:
                rows[a][b] = rows[b][a] = self._opened(result)
            except BadDistance:
                impossible.append(pair)
        _refuse_impossible(impossible or self._contradictions(rows))
        return {
            name: {peer: value * self._norm_bound**2 for peer, value in row.items()}
            for name, row in rows.items()
        }

    def _opened(self, result: bytes) -> float:
        """One released squared distance in units of the norm bound."""
        body = result[-_result_content(self._parameters) - DIGEST_BYTES : -DIGEST_BYTES]
        width = self._parameters.residue_bytes(0)
        extraction = body[2 * DIGEST_BYTES :]
        constant = int.from_bytes(extraction[:width], "little")
        second = unpack(extraction[width:], self._ring.degree, self._ring.primes[:1])
        coefficient = self._secret.decrypt_constant(constant, second)
        value = coefficient * math.prod(self._ring.data_primes[1:])
        value += uniform_flood(self._entropy, self._parameters.flood_width_bits)
        squared = value / math.exp2(self._parameters.result_scale_bits)
        return released(squared, 1.0, self._parameters, KEY_HOLDER)

    def _contradictions(self, rows: Mapping[str, Mapping[str, float]]) -> list[tuple[str, ...]]:
        """The triples in which a distance is longer than the way round over the third client."""
        bound = self._parameters.error_bound
        found: list[tuple[str, ...]] = []
        for a, b, c in permutations(rows, 3):
            direct = math.sqrt(max(0.0, rows[a][b] - bound))
            around = math.sqrt(rows[a][c] + bound) + math.sqrt(rows[c][b] + bound)
            if a < b and direct > around:
                found.append((a, b, c))
        return found


def _refuse_impossible(groups: list[tuple[str, ...]]) -> None:
    """Refuse distances that no uploads within the norm bound have, naming the one in all of them.

    The server is not at fault: its results were those of the signed uploads.

    Raises:
        BadDistance, AttemptAborted: see :meth:`KeyHolder.release`.
    """
    if not groups:
        return
    common = set(groups[0]).intersection(*groups[1:])
    if len(common) == 1:
        reason = "its distances are impossible under the norm bound"
        raise BadDistance(common.pop(), PHASE, reason)
    raise AttemptAborted(
        f"{PHASE}: the distances of {', '.join(groups[0])} are impossible under the norm bound, "
        "and whose upload is at fault cannot be told"
    )
