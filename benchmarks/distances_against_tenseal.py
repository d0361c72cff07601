"""How do encrypted distances compare with the plain TenSEAL way? Both sides in one run.

All 36 squared distances of nine vectors of 100 000 numbers, exact (no sketch), one thread, CPU
seconds; of equal calls the least counts. The plain way: CKKSVector subtract, square, sum at
N = 8192, [60, 40, 40, 60]. Printed are seconds and bytes of each side, ratios, and relative errors
before and after flooding.

    python -m benchmarks.distances_against_tenseal
    python -m benchmarks.distances_against_tenseal --clients 4 --length 20000
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import combinations
from typing import TypeVar
from unittest import mock

import numpy as np
import tenseal

from protocols.distances import DistanceParty
from protocols.entropy import Entropy
from protocols.key_holder import DistanceServer, KeyHolder, KeyHolderClient

_Result = TypeVar("_Result")
NAIVE_SLOTS = 4096
NORM, NORM_BOUND = 3.2, 4.0
REPEATED = {"server: all pairs": 9}


@dataclass
class Side:
    """CPU seconds by step (one entry per call), bytes of one upload, worst relative errors."""

    name: str
    upload_bytes: int = 0
    error: float = 0.0
    error_before_flooding: float | None = None
    seconds: dict[str, list[float]] = field(default_factory=dict)

    def timed(self, step: str, call: Callable[[], _Result]) -> _Result:
        """Run a call and note its CPU seconds under ``step``."""
        start = time.process_time()
        result = call()
        self.seconds.setdefault(step, []).append(time.process_time() - start)
        return result

    def total(self, step: str) -> float:
        """Least times count: what all calls of a step cost; other load only adds to one."""
        calls = 1 if step in REPEATED else len(self.seconds[step])
        return min(self.seconds[step]) * calls


def main() -> None:
    options = _options()
    random = np.random.default_rng(0)
    vectors = random.standard_normal((options.clients, options.length))
    vectors *= NORM / np.linalg.norm(vectors, axis=1, keepdims=True)
    plain, holder, peer = _plain(vectors), _key_holder(vectors), _peer(vectors)
    pairs = options.clients * (options.clients - 1) // 2
    print(f"{options.clients} clients, {pairs} pairs, {options.length} numbers, CPU seconds\n")
    for side in (plain, holder, peer):
        print(side.name)
        for step, values in side.seconds.items():
            print(f"  {step:<38}{side.total(step):9.3f} s  ({len(values)} calls)")
        print(f"  {'upload of one client':<38}{side.upload_bytes / 1e6:9.3f} MB")
        if side.error_before_flooding is not None:
            print(
                f"  {'relative error before flooding, worst':<38}{side.error_before_flooding:9.1e}"
            )
        print(f"  {'relative error as released, worst':<38}{side.error:9.1e}")
    _ratios(plain, holder, peer)


def _ratios(plain: Side, holder: Side, peer: Side) -> None:
    server = plain.total("server: load") + plain.total("server: pair")
    evaluation = holder.total("server: load keys") + holder.total("server: all pairs")
    print("\nratios, plain way over ours")
    print(f"  key holder, server part        {server / evaluation:6.1f}x faster (wanted 40)")
    smaller = plain.upload_bytes / holder.upload_bytes
    print(f"  key holder, upload             {smaller:6.2f}x smaller (wanted 1.5)")
    replies = peer.total("client: reply")
    print(f"  peer, all replies              {server / replies:6.1f}x faster (wanted 7)")
    smaller = plain.upload_bytes / peer.upload_bytes
    print(f"  peer, upload                   {smaller:6.2f}x smaller (wanted 3.5)")


def _plain(vectors: np.ndarray) -> Side:
    """Subtract, square and sum CKKSVectors, chunk by chunk."""
    side = Side("plain TenSEAL")
    context = tenseal.context(tenseal.SCHEME_TYPE.CKKS, 8192, -1, [60, 40, 40, 60])
    context.global_scale = 2**40
    context.generate_galois_keys()

    def encrypt(vector: np.ndarray) -> list[bytes]:
        starts = range(0, vector.size, NAIVE_SLOTS)
        chunks = [tenseal.ckks_vector(context, vector[i : i + NAIVE_SLOTS]) for i in starts]
        return [chunk.serialize() for chunk in chunks]

    def load(upload: list[bytes]) -> list[tenseal.CKKSVector]:
        return [tenseal.ckks_vector_from(context, blob) for blob in upload]

    def distance(pair: tuple[int, int]) -> tenseal.CKKSVector:
        chunks = zip(loaded[pair[0]], loaded[pair[1]], strict=True)
        terms = [(a - b).square().sum() for a, b in chunks]
        total = terms[0]
        for term in terms[1:]:
            total += term
        return total

    uploads = [side.timed("client: upload", lambda v=v: encrypt(v)) for v in vectors]
    loaded = [side.timed("server: load", lambda u=u: load(u)) for u in uploads]
    side.upload_bytes = sum(map(len, uploads[0]))
    for a, b in combinations(range(len(vectors)), 2):
        result = side.timed("server: pair", lambda p=(a, b): distance(p))
        value = side.timed("key: decrypt", lambda r=result: r.decrypt()[0])
        true = float(np.sum((vectors[a] - vectors[b]) ** 2))
        side.error = max(side.error, abs(value - true) / true)
    return side


def _key_holder(vectors: np.ndarray) -> Side:
    side = Side("ours, key holder (holder-8192)")
    side.error_before_flooding = _key_holder_once(vectors, Side(""), flooded=False)
    side.error = _key_holder_once(vectors, side, flooded=True)
    return side


def _key_holder_once(vectors: np.ndarray, side: Side, *, flooded: bool) -> float:
    name, length = "holder-8192", vectors.shape[1]
    holder = side.timed("holder: keys", lambda: KeyHolder(name, length, NORM_BOUND, Entropy()))
    blinding = Entropy().read(16)

    def upload(vector: np.ndarray) -> bytes:
        return KeyHolderClient(vector, name, NORM_BOUND, blinding).upload(holder.keys())

    uploads = {
        f"{index:03}": side.timed("client: upload", lambda v=v: upload(v))
        for index, v in enumerate(vectors)
    }
    side.upload_bytes = len(uploads["000"])
    server = side.timed("server: load keys", lambda: DistanceServer(name, length, holder.keys()))
    for _ in range(REPEATED["server: all pairs"]):
        digests = side.timed("server: all pairs", lambda: server.digests(uploads))
    with _flooding("protocols.key_holder", flooded):
        step = "holder: repeat, open, release"
        rows = side.timed(step, lambda: holder.release(uploads, digests))
    return _worst(vectors, {(int(a), int(b)): d for a, row in rows.items() for b, d in row.items()})


def _peer(vectors: np.ndarray) -> Side:
    side = Side("ours, peer (peer-4096)")
    side.error_before_flooding = _peer_once(vectors[:3], Side(""), flooded=False)
    side.error = _peer_once(vectors, side, flooded=True)
    return side


def _peer_once(vectors: np.ndarray, side: Side, *, flooded: bool) -> float:
    parties = [DistanceParty(v, "peer-4096", NORM_BOUND, Entropy()) for v in vectors]
    uploads = [side.timed("client: upload", p.upload) for p in parties]
    side.upload_bytes = len(uploads[0])
    opened = {}
    with _flooding("protocols.distances", flooded):
        for k, upload in enumerate(uploads):
            for j, party in enumerate(parties):
                if j != k:
                    reply = side.timed("client: reply", lambda p=party, u=upload: p.reply(u))
                    value = side.timed("client: open", lambda p=parties[k], r=reply: p.open(r))
                    opened[k, j] = value
    return _worst(vectors, opened)


@contextmanager
def _flooding(module: str, wanted: bool) -> Iterator[None]:
    """Leave flooding and rounding as they are, or take both out to see the arithmetic's error."""
    if wanted:
        yield
        return
    with (
        mock.patch(f"{module}.uniform_flood", lambda *_: 0),
        mock.patch(f"{module}.released", lambda squared, *_: squared),
    ):
        yield


def _worst(vectors: np.ndarray, opened: dict[tuple[int, int], float]) -> float:
    errors = []
    for (a, b), value in opened.items():
        true = float(np.sum((vectors[a] - vectors[b]) ** 2))
        errors.append(abs(value - true) / true)
    return max(errors)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clients", type=int, default=9)
    parser.add_argument("--length", type=int, default=100_000)
    return parser.parse_args()


if __name__ == "__main__":
    main()
