"""What do encrypted distances cost at scale, and does the cost grow as predicted?

Tables, one thread, CPU seconds:

1. K = 9 clients with 1.6e8 numbers each (a 7B model's LoRA): one client's whole work with the
   default sketch, measured, for each sketch size.
2. K = 100: measured unit costs times their number, for both trust models.
3. Growth with D (numbers encrypted) and with K against the law: a + b * chunks for one reply and
   one pair, K (K - 1) replies of all clients, K (K - 1) / 2 pairs of a server. The law is fitted to
   all points but the largest, which it then predicts.
4. Where parallelism helps: a server's pairs, by threads and by the worker processes that a run
   uses, for cohorts of several sizes; wall seconds, and CPU seconds of all processes.

    python -m benchmarks.distance_cost
    python -m benchmarks.distance_cost --length 1000000 --plot growth.png
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar
from unittest import mock

import numpy as np
import numpy.typing as npt

from pilot_secure.federation.pair_pool import PairPool
from protocols import key_holder
from protocols.distance_frames import DIGEST_BYTES
from protocols.distances import DistanceParty, reply_length, upload_length
from protocols.entropy import Entropy
from protocols.key_holder import (
    DistanceServer,
    KeyHolder,
    KeyHolderClient,
    holder_upload_length,
    keys_length,
)
from protocols.pair_jobs import PairJob, Results
from protocols.sketch import sketch

_Result = TypeVar("_Result")
PEER, HOLDER = "peer-4096", "holder-8192"
SKETCH_SIZES = (4096, 16384, 65536, 131072)
DEFAULT_SKETCH = 65536
NORM_BOUND = 2.0
PARALLEL_CLIENTS = (9, 33, 46, 100)
BLOCK = 1 << 22
REPEATS = 5
GROWTH_LENGTHS = (4096, 16384, 32768, 65536, 131072)
GROWTH_CLIENTS = (3, 6, 9, 12, 18)


def main() -> None:
    options = _options()
    _one_client(options.length, options.clients)
    _hundred(options.sketch)
    growth = _growth()
    for clients in PARALLEL_CLIENTS:
        _parallel(clients, options.sketch, options.workers)
    if options.plot is not None:
        _plot(growth, options.plot)


def _cpu(call: Callable[[], _Result]) -> tuple[_Result, float]:
    start = time.process_time()
    result = call()
    return result, time.process_time() - start


def _median_cpu(call: Callable[[], object], repeats: int = REPEATS) -> float:
    return statistics.median(_cpu(call)[1] for _ in range(repeats))


def _unit(length: int, seed: int) -> npt.NDArray[np.float64]:
    vector = np.random.default_rng(seed).standard_normal(length)
    return vector / np.linalg.norm(vector)


def _chunks(length: int, block: npt.NDArray[np.float32]) -> Iterator[npt.NDArray[np.float32]]:
    """A vector of any length from one block, so that no memory is needed for it."""
    for start in range(0, length, block.size):
        yield block[: min(block.size, length - start)]


def _one_client(length: int, clients: int) -> None:
    block = np.random.default_rng(0).standard_normal(BLOCK).astype(np.float32)
    block /= np.float32(np.sqrt(length))
    peers = clients - 1
    print(f"1. one of {clients} clients, {length:.1e} numbers, peer trust ({PEER}), CPU seconds")
    print(
        f"{'sketch':>8}{'sketch s':>10}{'encrypt s':>11}{'replies s':>11}{'open s':>8}"
        f"{'all s':>8}{'up MB':>8}{'down MB':>9}{'error %':>9}"
    )
    for size in SKETCH_SIZES:
        seed = Entropy().read(32)
        own, sketching = _cpu(lambda m=size, s=seed: sketch(_chunks(length, block), s, m))
        party = DistanceParty(own, PEER, NORM_BOUND, Entropy())
        upload, encrypting = _cpu(party.upload)
        others = [DistanceParty(_unit(size, i), PEER, NORM_BOUND, Entropy()) for i in range(peers)]
        uploads = [other.upload() for other in others]
        answers, replying = _cpu(lambda p=party, us=uploads: [p.reply(u) for u in us])
        incoming = [other.reply(upload) for other in others]
        _, opening = _cpu(lambda p=party, rs=incoming: [p.open(r) for r in rs])
        together = sketching + encrypting + replying + opening
        up = (len(upload) + sum(map(len, answers))) / 1e6
        error = 100 * np.sqrt(2 / size)
        print(
            f"{size:>8}{sketching:>10.3f}{encrypting:>11.3f}{replying:>11.3f}{opening:>8.3f}"
            f"{together:>8.3f}{up:>8.3f}{_down(size, peers):>9.3f}"
            f"{error:>9.2f}"
        )


def _down(size: int, peers: int) -> float:
    """MB that a client receives: its peers' uploads and their replies."""
    return peers * (upload_length(PEER, size) + reply_length(PEER)) / 1e6


def _hundred(size: int, clients: int = 100) -> None:
    peers, pairs = clients - 1, clients * (clients - 1) // 2
    upload_s, reply_s, open_s = _peer_units(size)
    print(f"\n2. {clients} clients, sketch {size}, unit costs times their number, CPU seconds")
    print(f"{'':<44}{'seconds':>10}{'MB':>10}")

    def row(what: str, seconds: float | None, num_bytes: float) -> None:
        told = "" if seconds is None else f"{seconds:.2f}"
        print(f"{what:<44}{told:>10}{num_bytes / 1e6:>10.2f}")

    up = upload_length(PEER, size) + peers * reply_length(PEER)
    row("peer: client, all its work and upload", upload_s + peers * (reply_s + open_s), up)
    down = 1e6 * _down(size, peers)
    row("peer: client, download", None, down)
    row("peer: server, everything in and out", None, clients * (up + down))
    units = _holder_units(size)
    row("key holder: client", units["upload"], holder_upload_length(HOLDER, size))
    row("key holder: client, download (keys)", None, keys_length(HOLDER))
    server = units["keys"] + clients * units["load"] + pairs * units["pair"]
    handed = clients * holder_upload_length(HOLDER, size) + pairs * DIGEST_BYTES
    row("key holder: server, uploads it hands over", server, handed)
    row("key holder: holder", server + pairs * units["open"], handed)


def _peer_units(size: int) -> tuple[float, float, float]:
    """Median CPU seconds of an upload, a reply and an opening."""
    holders = [DistanceParty(_unit(size, i), PEER, NORM_BOUND, Entropy()) for i in range(REPEATS)]
    responder = DistanceParty(_unit(size, 99), PEER, NORM_BOUND, Entropy())
    responder._own_operands()
    times: dict[str, list[float]] = {"upload": [], "reply": [], "open": []}
    for holder in holders:
        upload, seconds = _cpu(holder.upload)
        times["upload"].append(seconds)
        reply, seconds = _cpu(lambda u=upload: responder.reply(u))
        times["reply"].append(seconds)
        times["open"].append(_cpu(lambda h=holder, r=reply: h.open(r))[1])
    medians = [statistics.median(times[step]) for step in ("upload", "reply", "open")]
    return medians[0], medians[1], medians[2]


def _holder_units(size: int, clients: int = 5) -> dict[str, float]:
    """Median CPU seconds of each party's repeated steps under key-holder trust."""
    holder = KeyHolder(HOLDER, size, NORM_BOUND, Entropy())
    blinding, keys = Entropy().read(16), holder.keys()
    makers = [KeyHolderClient(_unit(size, i), HOLDER, NORM_BOUND, blinding) for i in range(clients)]
    timed = [_cpu(lambda m=maker: m.upload(keys)) for maker in makers]
    uploads = {f"{i:03}": upload for i, (upload, _) in enumerate(timed)}
    server, keys_s = _cpu(lambda: DistanceServer(HOLDER, size, keys))
    alone = {"000": uploads["000"]}
    load = _median_cpu(lambda: server.evaluate(alone))
    whole = _median_cpu(lambda: server.evaluate(uploads))
    digests = server.digests(uploads)
    pair = (whole - clients * load) / len(digests)
    _, release = _cpu(lambda: holder.release(uploads, digests))
    return {
        "upload": statistics.median(seconds for _, seconds in timed),
        "keys": keys_s,
        "load": load,
        "pair": pair,
        "open": max(0.0, (release - whole - keys_s) / len(digests)),
    }


def _growth() -> dict[str, list[tuple[float, float, float]]]:
    """{what: [(x, measured, predicted)]}, the largest x last."""
    print("\n3. growth: measured CPU seconds, and the law fitted to all points but the last")
    curves = {}
    reply_points = [(length, _peer_units(length)[1]) for length in GROWTH_LENGTHS]
    pair_points = [(length, _holder_units(length)["pair"]) for length in GROWTH_LENGTHS]
    curves["one reply, by D"] = _fitted(reply_points, lambda d: -(-d // 4096))
    curves["one pair, by D"] = _fitted(pair_points, lambda d: -(-d // 8192))
    rounds = [(k, _round(k)) for k in GROWTH_CLIENTS]
    curves["all replies and openings, by K"] = _fitted(rounds, lambda k: k * (k - 1))
    servers = [(k, _server(k)) for k in GROWTH_CLIENTS]
    curves["a server's pairs, by K"] = _fitted(servers, lambda k: k * (k - 1) // 2)
    for name, points in curves.items():
        print(f"{name:<34}{'measured':>10}{'law':>10}{'ratio':>8}")
        for x, measured, predicted in points:
            print(f"{x:>34.0f}{measured:>10.4f}{predicted:>10.4f}{measured / predicted:>8.2f}")
    return curves


def _round(clients: int, size: int = 16384) -> float:
    """CPU seconds of all replies and openings of a small cohort."""
    parties = [DistanceParty(_unit(size, i), PEER, NORM_BOUND, Entropy()) for i in range(clients)]
    uploads = [party.upload() for party in parties]

    def exchange() -> None:
        for k, holder in enumerate(parties):
            for j, responder in enumerate(parties):
                if j != k:
                    holder.open(responder.reply(uploads[k]))

    return _cpu(exchange)[1]


def _server(clients: int, size: int = 16384) -> float:
    """CPU seconds of a server's pairs, beside what the uploads take to load."""
    units = _holder_units(size, clients)
    return units["pair"] * clients * (clients - 1) / 2


def _fitted(
    points: list[tuple[int, float]], law: Callable[[int], int]
) -> list[tuple[float, float, float]]:
    """Least squares of a + b * law(x), weighing relative errors, without the last point."""
    xs, ys = zip(*points, strict=True)
    design, seen = np.array([[1.0, law(x)] for x in xs]), np.array(ys)
    relative = design[:-1] / seen[:-1, None]
    coefficients = np.linalg.lstsq(relative, np.ones(len(xs) - 1), rcond=None)[0]
    return list(zip(xs, ys, (design @ coefficients).tolist(), strict=True))


@dataclass(frozen=True)
class _Threads:
    """Threads in the place of processes, to see that they gain nothing."""

    count: int

    def run(
        self, function: Callable[[PairJob], Results], jobs: Iterable[PairJob]
    ) -> Iterator[Results]:
        with ThreadPoolExecutor(self.count) as pool:
            yield from pool.map(function, jobs)


def _parallel(clients: int, size: int, count: int) -> None:
    """A server's pairs by one process, by threads and by processes."""
    holder, blinding = KeyHolder(HOLDER, size, NORM_BOUND, Entropy()), Entropy().read(16)
    keys = holder.keys()
    makers = [KeyHolderClient(_unit(size, i), HOLDER, NORM_BOUND, blinding) for i in range(clients)]
    uploads = {f"{i:03}": maker.upload(keys) for i, maker in enumerate(makers)}
    print(f"\n4. {clients} clients, sketch {size}, {count} workers, all pairs")
    print(f"{'':<12}{'pairs':>8}{'wall s':>9}{'CPU s':>9}")
    for name, workers in (("one", None), ("threads", _Threads(count)), ("pool", PairPool(count))):
        server = DistanceServer(HOLDER, size, keys, workers)
        with mock.patch.object(key_holder, "LEAST_PAIRS", 1):
            before, start = os.times(), time.perf_counter()
            pairs = len(server.digests(uploads))
            seconds, after = time.perf_counter() - start, os.times()
        busy = sum(after[:4]) - sum(before[:4])
        print(f"{name:<12}{pairs:>8}{seconds:>9.2f}{busy:>9.2f}", flush=True)


def _plot(curves: dict[str, list[tuple[float, float, float]]], place: Path) -> None:
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(curves), figsize=(4 * len(curves), 3.2))
    for axis, (name, points) in zip(axes, curves.items(), strict=True):
        xs, measured, predicted = zip(*points, strict=True)
        axis.plot(xs, measured, "o", label="measured")
        axis.plot(xs, predicted, "-", label="law")
        axis.set(title=name, ylabel="CPU seconds", xscale="log", yscale="log")
        axis.set_xticks(xs, [f"{x:.0f}" for x in xs], rotation=45)
        axis.minorticks_off()
        axis.legend()
    figure.tight_layout()
    figure.savefig(place)
    print(f"\nplot written to {place}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--length", type=int, default=160_000_000, help="numbers per client")
    parser.add_argument("--clients", type=int, default=9, help="clients in the first table")
    parser.add_argument("--sketch", type=int, default=DEFAULT_SKETCH, help="sketch of table 2")
    parser.add_argument("--workers", type=int, default=2, help="workers of table 4")
    parser.add_argument("--plot", type=Path, default=None, help="file for a plot of table 3")
    return parser.parse_args()


if __name__ == "__main__":
    main()
