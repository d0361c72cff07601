"""Does the LoRA of a 7B model fit? Time and peak memory of one client and of the server, hidden.

K = 9, three tasks, hidden visibility, 20 bits: text adapters of D = 1.6e8, task adapters of 2.1e7
coordinates. Each client contributes to eight sealed sums and one of a task: 3.3 GB, which go in
parts. Clients and server run in processes of their own, so that the peak of each is its own; the
server's sums lie on the disk, under ``--scratch``. To spare this machine nine results, all clients
but the first vanish before the delivery; its sealed sum is compared with the sum of its neighbours'
vectors. Peak memory is what comes on top of the idle interpreter and a client's own vectors.

    OMP_NUM_THREADS=1 python -m benchmarks.large_vector
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import resource
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

from benchmarks.cohort import CLIP, MAX_SAMPLES, client_names, pilot_sums, update
from pilot_secure.federation.scratch import Scratch
from protocols import (
    SERVER,
    AggregationClient,
    AggregationParameters,
    AggregationServer,
    ClientInputs,
    Entropy,
    Identity,
    MemoryGuard,
    Roster,
    smallest_threshold,
)

K, TASKS, BITS, SAMPLES = 9, 3, 20, 64
TASK_SHARE = 2.1e7 / 1.6e8
BLOCK = 1 << 20


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def client_process(
    pipe: Connection,
    parameters: AggregationParameters,
    secret: tuple[str, bytes],
    roster: Roster,
    out: str | None,
) -> None:
    """Answer requests until none comes; the first client writes its sealed sum to ``out``."""
    name, lengths = secret[0], parameters.vector_lengths
    vectors = {v: {"flat": update(lengths[v], roster.coordinate(name))} for v in lengths}
    client = AggregationClient(
        parameters,
        Identity.from_secret(*secret),
        ClientInputs(vectors=vectors, num_samples=SAMPLES),
        Entropy(),
        roster=roster,
        guard=MemoryGuard(),
    )
    before, seconds, applied = peak_bytes(), {}, {}
    while client.result is None:
        request = pipe.recv_bytes()
        if not request:
            break
        start, state = time.process_time(), client.state
        reply = client.handle(request)
        seconds[state] = seconds.get(state, 0.0) + time.process_time() - start
        del request
        pipe.send_bytes(reply)
        del reply
        if client.contribution is not None:
            applied = dict(client.contribution.weights)
    peak, neighbours = peak_bytes() - before, ()
    if client.result is not None and out is not None:
        neighbours = client.result.neighbours
        np.save(out, client.result.sealed.vector_sum)
    pipe.send((seconds, peak, applied, neighbours))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--length", type=float, default=1.6e8)
    parser.add_argument("--part-bytes", type=int, default=1 << 26)
    parser.add_argument("--scratch", type=Path, default=None)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.scratch) as folder:
        measure(int(options.length), options.part_bytes, Path(folder))


def measure(length: int, part_bytes: int, folder: Path) -> None:
    names, entropy = client_names(K), Entropy()
    server_identity = Identity.generate(SERVER, entropy)
    identities = [Identity.generate(name, entropy) for name in names]
    roster = Roster.of(server_identity, identities)
    lengths = {"task": max(1, int(TASK_SHARE * length)), "text": length}
    parameters = AggregationParameters.build(
        run_id="large",
        round=1,
        stage=1,
        roster=roster.digest(),
        cohort=names,
        sums=pilot_sums(names, TASKS),
        vector_lengths=lengths,
        clip=dict.fromkeys(lengths, CLIP),
        max_samples=MAX_SAMPLES,
        ring_bits=BITS,
        part_bytes=part_bytes,
        threshold=smallest_threshold(K, 1),
        sketch_size=65536,
        distance_norm_bound=0.012 * math.sqrt(length),
    )
    server = AggregationServer(
        parameters,
        server_identity,
        entropy,
        roster=roster,
        allocate=Scratch(str(folder / "sums")),
        uploads_at_once=1,
    )
    spawn, pipes = multiprocessing.get_context("spawn"), {}
    sealed = folder / "sealed.npy"
    for identity in identities:
        ours, theirs = spawn.Pipe()
        out = str(sealed) if identity.name == names[0] else None
        arguments = (theirs, parameters, (identity.name, identity.secret()), roster, out)
        spawn.Process(target=client_process, args=arguments, daemon=True).start()
        pipes[identity.name] = ours
    before, seconds, disk = peak_bytes(), {}, 0
    while not server.done:
        phase, busy = server.phase, 0.0
        for name in server.clients:
            if phase == "deliver" and name != names[0]:
                continue
            start = time.process_time()
            request = server.request(name)
            busy += time.process_time() - start
            pipes[name].send_bytes(request)
            del request
            reply = pipes[name].recv_bytes()
            start = time.process_time()
            server.accept(name, reply)
            busy += time.process_time() - start
            del reply
        disk = max(disk, sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()))
        start = time.process_time()
        server.advance()
        seconds[phase] = seconds.get(phase, 0.0) + busy + time.process_time() - start
    peak = peak_bytes() - before
    assert server.report.aborted is None, server.report.aborted
    for name in names[1:]:
        pipes[name].send_bytes(b"")
    figures = {name: pipe.recv() for name, pipe in pipes.items()}
    spent, client_peak, _applied, neighbours = figures[names[0]]
    print(
        f"K = {K}, D = {length:.1e}, hidden, {BITS} bits, parts of {part_bytes} bytes, one thread"
    )
    print(f"client: {sum(spent.values()):.2f} s", {k: round(v, 2) for k, v in spent.items()})
    own = 4 * sum(lengths.values()) / 1e9
    print(f"client: {client_peak / 1e9:.2f} GB beside its {own:.2f} GB of vectors (aim: 2)")
    print(f"server: {sum(seconds.values()):.2f} s", {k: round(v, 2) for k, v in seconds.items()})
    print(f"server: {peak / 1e9:.2f} GB (aim: 2), {disk / 1e9:.2f} GB on the disk at most")
    upload = server.report.bytes_up["masked_input"] / K / 1e9
    print(f"upload: {upload:.2f} GB a client")
    weights = {name: SAMPLES * figures[name][2][names[0]] for name in neighbours}
    print(f"largest error of the sealed sum: {error_of(sealed, roster, weights):.1e}")


def error_of(sealed: Path, roster: Roster, weights: dict[str, float]) -> float:
    """Largest difference between the sealed sum and that of the weighted vectors."""
    found = np.load(sealed)
    for name, weight in weights.items():
        vector = update(len(found), roster.coordinate(name))
        for start in range(0, len(found), BLOCK):
            part = np.clip(vector[start : start + BLOCK], -CLIP, CLIP)
            found[start : start + BLOCK] -= np.float32(weight) * part
    return float(max(np.abs(found[i : i + BLOCK]).max() for i in range(0, len(found), BLOCK)))


if __name__ == "__main__":
    main()
