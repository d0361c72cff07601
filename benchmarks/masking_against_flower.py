"""How fast are masking and unmasking, against raw AES-256-CTR and against Flower's SecAgg+?

Both sides run in this process, on one thread, with the same vector: K = 9, all pairs. Flower's side
calls its own functions (quantise, generate masks, add, reduce, combine shares) in the order in
which its client and server do, without its (de)serialisation. Ours is the client's whole step:
check, clip, encode, nine masks, pack; and the server's: unpack, add, reconstruct, unmask, pack,
decode. Flower needs an environment of its own:

    make build/flower/.installed
    OMP_NUM_THREADS=1 build/flower/bin/python -m benchmarks.masking_against_flower
"""

from __future__ import annotations

import argparse
import os
import statistics
from collections.abc import Callable, Sequence

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from benchmarks.cohort import CLIP, MAX_SAMPLES, median_seconds, update
from protocols import Entropy, shares
from protocols.accumulators import Accumulator
from protocols.client_states import MaskedTerm
from protocols.client_upload import mask_one_vector
from protocols.masks import MaskKey, MaskStream
from protocols.results import decode_span
from protocols.ring import CHUNK, FixedPoint, FlatVector, Packed
from protocols.storage import allocate_in_memory

K, THRESHOLD, BITS = 9, 6, 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--length", type=float, default=1e7)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    length, repeats = int(options.length), options.repeats
    print(f"K = {K}, D = {length:.0e}, {BITS} bits, one thread, medians of {repeats}")
    compare_masks(length, repeats)
    compare_clients(length, repeats)
    compare_servers(length, repeats)


def mask_keys(count: int) -> list[MaskKey]:
    return [MaskKey(os.urandom(32), 1 if place % 2 else -1) for place in range(count)]


def compare_masks(length: int, repeats: int) -> None:
    """Mask expansion and addition against the bare keystream of as many bytes."""
    words = np.zeros(length, np.uint32)
    zeros = memoryview(bytes(4 * CHUNK))
    buffer = memoryview(bytearray(4 * CHUNK))

    def raw() -> None:
        for _ in range(K):
            stream = Cipher(algorithms.AES(os.urandom(32)), modes.CTR(bytes(16))).encryptor()
            for start in range(0, length, CHUNK):
                size = 4 * min(CHUNK, length - start)
                stream.update_into(zeros[:size], buffer[:size])

    def masked() -> None:
        stream = MaskStream(mask_keys(K))
        for start in range(0, length, CHUNK):
            stream.mask_chunk(words[start : start + CHUNK])

    keystream, expansion = median_seconds(raw, repeats), median_seconds(masked, repeats)
    rate = K * 4 * length / 1e9
    print(f"raw AES-256-CTR          {keystream:8.3f} s  {rate / keystream:6.2f} GB/s")
    print(
        f"nine masks added         {expansion:8.3f} s  {rate / expansion:6.2f} GB/s  "
        f"= {keystream / expansion:.0%} of raw (aim: 65 %)"
    )


def client_step(vector: np.ndarray, keys: list[MaskKey]) -> Packed:
    """Check, clip, encode, mask and pack: what a client does for one sum."""
    term = MaskedTerm(
        sum_id="all",
        vector="vector",
        fixed_point=FixedPoint(BITS, K, CLIP, float(MAX_SAMPLES)),
        weight=64.0,
        masks=tuple(keys),
        scalars=(64, 1, 64),
    )
    half = len(vector) // 2
    tensors = {"first": vector[:half], "second": vector[half:]}
    flat = FlatVector(tensors, "benchmark")
    (packed,), _clipped = mask_one_vector(flat, CLIP, [term], 0, len(vector), {})
    packed.to_bytes()
    return packed


def compare_clients(length: int, repeats: int) -> None:
    """One client's masked input, ours and Flower's."""
    vector, keys = update(length, 1), mask_keys(K)
    flower = flower_functions()
    seeds = [os.urandom(32) for _ in range(K)]
    sides = [lambda: client_step(vector, keys)]
    if flower is not None:
        sides.append(lambda: flower.client_step(vector, seeds))
    ours, *others = interleaved(sides, repeats)
    print(f"client step, ours        {ours:8.3f} s")
    for theirs in others:
        print(f"client step, Flower's    {theirs:8.3f} s  = {theirs / ours:.1f} x ours (aim: 8)")


def interleaved(sides: Sequence[Callable[[], object]], repeats: int) -> list[float]:
    """Median CPU seconds of each side: as many repeats for all, in turn, after one to warm up."""
    spent: list[list[float]] = [[] for _ in sides]
    for turn in range(repeats + 1):
        for seconds, side in zip(spent, sides, strict=True):
            taken = median_seconds(side, 1)
            if turn:
                seconds.append(taken)
    return [statistics.median(seconds) for seconds in spent]


def compare_servers(length: int, repeats: int) -> None:
    """Sum and unmasking, without and with two drop-outs."""
    secrets = [os.urandom(32) for _ in range(K)]
    dealt = [shares.split(secret, THRESHOLD, range(1, K + 1), Entropy()) for secret in secrets]
    upload = client_step(update(length, 1), mask_keys(1)).to_bytes()
    fixed = FixedPoint(BITS, K, CLIP, float(MAX_SAMPLES))
    flower = flower_functions()
    for dropped in (0, 2):
        left = K - dropped
        accumulator = Accumulator("all", BITS, length, allocate_in_memory)

        def add(accumulator: Accumulator = accumulator, left: int = left) -> None:
            for _ in range(left):
                accumulator.add(0, Packed(BITS, length, upload))

        def unmask(accumulator: Accumulator = accumulator, dropped: int = dropped) -> None:
            for deal in dealt:
                shares.combine({x: deal[x] for x in range(1, THRESHOLD + 1)})
            masks = mask_keys(K - dropped + dropped * (K - dropped))
            opened = accumulator.open(masks, allocate_in_memory)
            decode_span(fixed, opened.span(0, length), MaskStream([]), np.empty(length, np.float32))

        sides: list[Callable[[], object]] = [add, unmask]
        if flower is not None:
            vectors = [flower.encoded(length) for _ in range(2)]
            sides.append(lambda v=vectors, n=left: flower.add(v, n))
            sides.append(lambda v=vectors[0], n=dropped: flower.unmask(v, n))
        add_s, open_s, *others = interleaved(sides, repeats)
        print(f"{dropped} drop-outs, ours:     sum {add_s:7.3f} s  unmasking {open_s:7.3f} s")
        if flower is None:
            continue
        theirs_add, theirs_open = others
        print(
            f"{dropped} drop-outs, Flower's: sum {theirs_add:7.3f} s  unmasking {theirs_open:7.3f}"
            f" s = {theirs_open / open_s:.1f} x ours (aim: 8); both together "
            f"{(theirs_add + theirs_open) / (add_s + open_s):.1f} x (aim: 5)"
        )
    print(
        f"Each drop-out costs Flower's server {K - 1} pairwise masks (its unmask_stage takes all "
        f"neighbours, the other drop-out too), ours {K - 2} (the survivors)."
    )


class FlowerFunctions:
    """Flower's SecAgg+ arithmetic, by its own functions, as its client and server call them."""

    def __init__(self) -> None:
        from flwr.common.secure_aggregation import ndarrays_arithmetic, quantization
        from flwr.common.secure_aggregation.crypto import shamir
        from flwr.common.secure_aggregation.secaggplus_utils import pseudo_rand_gen

        self.arithmetic, self.quantization, self.shamir = ndarrays_arithmetic, quantization, shamir
        self.pseudo_rand_gen = pseudo_rand_gen
        self.mod_range, self.target_range = 1 << 32, 1 << 22
        self.dealt = [shamir.create_shares(os.urandom(32), THRESHOLD, K) for _ in range(K)]

    def client_step(self, vector: np.ndarray, seeds: list[bytes]) -> None:
        """The arithmetic of ``_collect_masked_vectors``: its private mask and K - 1 pairwise."""
        ratio = round(0.5 * self.target_range)
        scaled = self.arithmetic.parameters_multiply([vector], ratio / self.target_range)
        quantised = self.quantization.quantize(scaled, CLIP, self.target_range)
        combined = self.arithmetic.factor_combine(ratio, quantised)
        shapes = [a.shape for a in combined]
        for place, seed in enumerate(seeds):
            mask = self.pseudo_rand_gen(seed, self.mod_range, shapes)
            change = (
                self.arithmetic.parameters_addition
                if place % 2
                else self.arithmetic.parameters_subtraction
            )
            combined = change(combined, mask)
        self.arithmetic.parameters_mod(combined, self.mod_range)

    def encoded(self, length: int) -> list[np.ndarray]:
        """An upload as it comes: the factor and 64-bit integers."""
        generator = np.random.default_rng(0)
        return [np.array([5]), generator.integers(0, self.mod_range, length)]

    def add(self, vectors: list[list[np.ndarray]], count: int) -> None:
        """The sum of ``count`` uploads as its server adds them up."""
        total = vectors[0]
        for _ in range(count - 1):
            total = self.arithmetic.parameters_addition(total, vectors[1])
        self.arithmetic.parameters_mod(total, self.mod_range)

    def unmask(self, vector: list[np.ndarray], dropped: int) -> None:
        """The arithmetic of its ``unmask_stage``: K - 1 neighbours per drop-out, as there."""
        shapes = self.arithmetic.get_parameters_shape(vector)
        for place, dealt in enumerate(self.dealt):
            secret = self.shamir.combine_shares(dealt[:THRESHOLD])
            for _ in range(K - 1 if place < dropped else 1):
                mask = self.pseudo_rand_gen(secret, self.mod_range, shapes)
                vector = self.arithmetic.parameters_subtraction(vector, mask)
        reduced = self.arithmetic.parameters_mod(vector, self.mod_range)
        _factor, rest = self.arithmetic.factor_extract(reduced)
        for result in self.quantization.dequantize(rest, CLIP, self.target_range):
            result += -(K - 1) * CLIP
            result *= 0.1


def flower_functions() -> FlowerFunctions | None:
    try:
        return FlowerFunctions()
    except ImportError:
        print("Flower is not installed here: its side is left out (see the top of this file)")
        return None


if __name__ == "__main__":
    main()
