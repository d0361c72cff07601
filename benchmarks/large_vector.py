"""Does the LoRA of a 7B model fit? Time and peak memory of one client and of the server.

D = 1.6e8, K = 9, one sum, 20 bits. Client and server run in processes of their own, so that the
peak of each is its own. All clients send the same vector under their own masks; the mean is
compared with it. Peak memory is what comes on top of the vector and of the idle interpreter.

    OMP_NUM_THREADS=1 PYTHONPATH=. python benchmarks/large_vector.py
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import time
from multiprocessing.connection import Connection

import numpy as np
from cohort import CLIP, MAX_SAMPLES, client_names, plain_sum, update

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

K, BITS = 9, 20


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def client_process(
    pipe: Connection, parameters: AggregationParameters, secret: tuple[str, bytes], roster: Roster
) -> None:
    """Answer requests until the delivery; then send seconds by phase and the peak."""
    vector = update(parameters.vector_lengths["vector"], 1)
    inputs = ClientInputs(vectors={"vector": {"flat": vector}}, num_samples=64)
    client = AggregationClient(
        parameters,
        Identity.from_secret(*secret),
        inputs,
        Entropy(),
        roster=roster,
        guard=MemoryGuard(),
    )
    before, seconds = peak_bytes(), {}
    while client.result is None:
        request = pipe.recv_bytes()
        start, state = time.process_time(), client.state
        reply = client.handle(request)
        seconds[state] = time.process_time() - start
        del request
        pipe.send_bytes(reply)
        del reply
    mean = client.result.means["all"]
    error = float(
        max(np.abs(mean[i : i + 65536] - vector[i : i + 65536]).max() for i in blocks(mean))
    )
    pipe.send((seconds, peak_bytes() - before, error))


def blocks(vector: np.ndarray) -> range:
    return range(0, len(vector), 65536)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--length", type=float, default=1.6e8)
    length = int(parser.parse_args().length)
    names, entropy = client_names(K), Entropy()
    server_identity = Identity.generate(SERVER, entropy)
    identities = [Identity.generate(name, entropy) for name in names]
    roster = Roster.of(server_identity, identities)
    parameters = AggregationParameters.build(
        run_id="large",
        round=1,
        stage=1,
        roster=roster.digest(),
        cohort=names,
        sums=plain_sum(names),
        vector_lengths={"vector": length},
        clip={"vector": CLIP},
        max_samples=MAX_SAMPLES,
        ring_bits=BITS,
        threshold=smallest_threshold(K, 1),
    )
    server = AggregationServer(parameters, server_identity, entropy, roster=roster)
    spawn = multiprocessing.get_context("spawn")
    before, seconds, figures = peak_bytes(), {}, {}
    pipes = {}
    small = [phase for phase in ("advertise", "share")]
    for identity in identities:
        ours, theirs = spawn.Pipe()
        arguments = (theirs, parameters, (identity.name, identity.secret()), roster)
        spawn.Process(target=client_process, args=arguments, daemon=True).start()
        pipes[identity.name] = ours
        if length > 3e7 and len(pipes) == len(names):
            break
    while not server.done:
        phase, busy = server.phase, 0.0
        for name in server.clients:
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
        start = time.process_time()
        server.advance()
        seconds[phase] = busy + time.process_time() - start
    peak = peak_bytes() - before
    figures = {name: pipe.recv() for name, pipe in pipes.items()}
    assert server.report.aborted is None and small
    report(length, figures, seconds, peak)


def report(
    length: int,
    figures: dict[str, tuple[dict[str, float], int, float]],
    seconds: dict[str, float],
    peak: int,
) -> None:
    spent, client_peak, error = max(figures.values(), key=lambda item: item[1])
    print(f"K = {K}, D = {length:.1e}, {BITS} bits, one thread")
    print(f"client: {sum(spent.values()):.2f} s", {k: round(v, 2) for k, v in spent.items()})
    print(
        f"client: {client_peak / 1e9:.2f} GB beside its {4 * length / 1e9:.2f} GB vector (aim: 2)"
    )
    print(f"server: {sum(seconds.values()):.2f} s", {k: round(v, 2) for k, v in seconds.items()})
    print(f"server: {peak / 1e9:.2f} GB (aim: 2)")
    print(f"largest error of the mean: {error:.1e}")


if __name__ == "__main__":
    main()
