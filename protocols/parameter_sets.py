"""Named CKKS parameter sets for encrypted distances: security, ranges, error and leakage.

Nothing here computes on ciphertexts; it is the arithmetic that an auditor redoes by hand. All
lengths of vectors are in units of the public norm bound B: what is encrypted is x / B, so every
encrypted vector has norm at most 1 and every squared distance is at most 4.

Notation: N the ring degree, q the data modulus (product of the data primes), p the special
prime that only public keys live under, Δx the scale of an upload, Δy that of a plaintext operand.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from .errors import ParameterError

ERROR_SIGMA = 3.2
"""Standard deviation of a fresh encryption error, in units of one coefficient."""

TAIL = 8.0
"""Standard deviations that a noise bound allows: exceeded with probability below 2^-49."""

MAX_MODULUS_BITS_128 = {1024: 27, 2048: 54, 4096: 109, 8192: 218, 16384: 438, 32768: 881}
"""Largest log2(q p) for 128-bit classical security with ternary secrets.

Source: Albrecht et al., Homomorphic Encryption Standard (2018), Table 1.
"""

MIN_FLOOD_BITS = 30
"""Least flooding above the noise bound: a release tells noises apart with advantage 2^-30."""

ENCODING_ERROR = 2.0**-40
"""Allowance for double precision in SEAL's encoder and in sums of squares."""

Trust = Literal["peer", "key_holder"]


@dataclass(frozen=True)
class ParameterSet:
    """One named choice of ring, modulus and scales.

    ``prime_bits`` lists the data primes first and the special prime last; sizes of whole bytes
    waste nothing in messages. ``flood_bits`` is how far flooding is above the noise bound, which
    itself is :data:`TAIL` standard deviations.
    """

    name: str
    code: int
    trust: Trust
    degree: int
    prime_bits: tuple[int, ...]
    upload_scale_bits: int
    operand_scale_bits: int
    flood_bits: int = 40

    @property
    def depth(self) -> int:
        """Ciphertext-ciphertext multiplications on the way to a result."""
        return 0 if self.trust == "peer" else 1

    @property
    def data_bits(self) -> int:
        """Bits of the modulus q that ciphertexts live under."""
        return sum(self.prime_bits[:-1])

    @property
    def total_bits(self) -> int:
        """Bits of q p: what the security estimate is about."""
        return sum(self.prime_bits)

    @property
    def result_scale_bits(self) -> float:
        """log2 of the result coefficient that stands for an inner product of 1.

        N real numbers are packed as N/2 complex slots; the constant coefficient of a product
        is 2/N times the sum over the slots, times both scales.
        """
        shift = math.log2(self.degree) - 1
        return self.upload_scale_bits + self.operand_scale_bits - shift

    @property
    def noise_bound(self) -> float:
        """Bound on the result coefficient's noise before flooding, honest participants.

        Peer: every upload error meets a plaintext of norm at most Δy sqrt(2/N). Key holder: the
        upload errors meet twice the difference, 2⟨x - y, e - e'⟩, whose norm is at most 2. Both:
        public-key encryptions and modulus switches, each about sqrt(N/18) from rounding against
        a ternary secret.
        """
        rounding = math.sqrt(self.degree / 18 + 1)
        operand = math.ldexp(math.sqrt(2 / self.degree), self.operand_scale_bits)
        if self.trust == "peer":
            return TAIL * (ERROR_SIGMA * operand + 2 * rounding)
        products = 4 * math.sqrt(2) * rounding * operand
        divided = math.ldexp(rounding, self.data_bits - self.prime_bits[0])
        return TAIL * math.hypot(products, self._switching_noise(), divided)

    def _switching_noise(self) -> float:
        """Standard deviation that one relinearisation adds to a coefficient (one special prime).

        Every data prime contributes a digit below its size times an error, divided by p.
        Source: Kim, Polyakov, Zucca (2021), section 3.2, one prime per digit.
        """
        digits = math.fsum(4.0**bits for bits in self.prime_bits[:-1])
        special = 2.0 ** self.prime_bits[-1]
        return ERROR_SIGMA * math.sqrt(self.degree * digits / 12) / special

    @property
    def flood_width_bits(self) -> int:
        """The flooding term is uniform on [-2^w, 2^w) with this w."""
        return math.ceil(math.log2(self.noise_bound)) + self.flood_bits

    @property
    def exact_error_bound(self) -> float:
        """Bound on the error of a squared distance without flooding, in units of B²."""
        noise = self.noise_bound / math.exp2(self.result_scale_bits)
        if self.trust == "key_holder":
            return noise + ENCODING_ERROR
        operand_rounding = math.ldexp(math.sqrt(self.degree / 24), -self.operand_scale_bits)
        return 2 * (noise + TAIL * operand_rounding) + ENCODING_ERROR

    @property
    def resolution(self) -> float:
        """Grid, in units of B², on which released squared distances lie: a power of two."""
        doubling = 1 if self.trust == "peer" else 0
        return 2.0 ** math.ceil(self.flood_width_bits + doubling - self.result_scale_bits)

    @property
    def error_bound(self) -> float:
        """Bound on the error of a released squared distance, in units of B².

        Each flooding is within one step of the grid, rounding within half of one. Under peer trust
        both who answers and who opens flood.
        """
        floods = 2 if self.trust == "peer" else 1
        return self.exact_error_bound + (floods + 0.5) * self.resolution

    @property
    def leakage_bits(self) -> float:
        """The most that the opener of one result learns beyond noise, in bits.

        Peer: a malicious opener may choose its upload freely, so the result is any one linear
        functional modulo q under uniform flooding of 2^(w+1) values: log2(q) - w - 1 bits.
        Key holder: a range-checked number on the grid of the resolution, whatever was uploaded.
        """
        if self.trust == "key_holder":
            return self.released_bits
        return self.data_bits - self.flood_width_bits - 1

    @property
    def released_bits(self) -> float:
        """Bits of one released squared distance: a range-checked number on the grid.

        Peer: a malicious answerer chooses the functional of the opener's sketch and key that its
        reply opens to, and reads it off the scale or weight that the opener publishes.
        """
        return math.log2(4 / self.resolution + 2)

    @property
    def security_bits(self) -> int:
        """128 if the total modulus is within the standard's bound, else an error.

        Raises:
            ParameterError: the modulus is too large for the degree, or the degree unknown.
        """
        limit = MAX_MODULUS_BITS_128.get(self.degree)
        if limit is None or self.total_bits > limit:
            raise ParameterError(
                f"CKKS set {self.name}: {self.total_bits} bits at degree {self.degree} "
                f"are above the 128-bit limit of {limit}"
            )
        return 128

    def check(self) -> None:
        """Verify security, flooding and that no honest result wraps around.

        Raises:
            ParameterError: naming the rule that is broken.
        """
        _ = self.security_bits
        if not MIN_FLOOD_BITS <= self.flood_bits <= self.data_bits:
            raise ParameterError(f"CKKS set {self.name}: {self.flood_bits} bits of flooding")
        largest = 2.0 if self.trust == "peer" else 4.0
        needed = math.log2(largest) + self.result_scale_bits + 1
        if needed > self.data_bits - 2.0**-6:
            raise ParameterError(
                f"CKKS set {self.name}: results need {needed:.1f} bits, q has {self.data_bits}"
            )
        if self.flood_width_bits + 2 >= self.data_bits:
            raise ParameterError(f"CKKS set {self.name}: no room for flooding")

    def residue_bytes(self, prime: int) -> int:
        """Bytes of one residue modulo the prime with this index."""
        return -(-self.prime_bits[prime] // 8)

    def polynomial_bytes(self, num_primes: int) -> int:
        """Bytes of one polynomial over the first ``num_primes`` primes."""
        return self.degree * sum(self.residue_bytes(i) for i in range(num_primes))

    def num_chunks(self, length: int) -> int:
        """Ciphertexts that hold ``length`` real numbers."""
        return -(-length // self.degree)


_ALL = (
    ParameterSet("peer-4096", 1, "peer", 4096, (40, 48, 21), 69, 27),
    ParameterSet("peer-8192", 2, "peer", 8192, (56, 56, 24), 89, 32),
    ParameterSet("holder-8192", 3, "key_holder", 8192, (60, 60, 60), 64, 64, 30),
)

PARAMETER_SETS: dict[str, ParameterSet] = {parameters.name: parameters for parameters in _ALL}


def parameter_set(name: str, trust: Trust) -> ParameterSet:
    """Look up and check a parameter set by name.

    Raises:
        ParameterError: unknown name, a set made for the other trust model, or a rule broken.
    """
    found = PARAMETER_SETS.get(name)
    if found is None:
        known = ", ".join(sorted(PARAMETER_SETS))
        raise ParameterError(f"unknown CKKS parameter set {name!r}; known are {known}")
    if found.trust != trust:
        raise ParameterError(f"CKKS set {name} is for {found.trust} trust, not {trust}")
    found.check()
    return found


@dataclass(frozen=True)
class DistanceLeakage:
    """What encrypted distances of one aggregation can tell at most, for the leakage report.

    ``functionals_per_victim`` numbers of the colluders' choice about one client: under peer trust
    two for each colluder, one that it opens and one that its reply makes the victim publish (as
    scale or weight); under key-holder trust one. ``malicious_bits_each`` is what one colluder
    learns of one victim in one attempt, ``honest_bits_each`` one distance if it follows the rules.
    ``malicious_bits_per_victim`` and ``malicious_bits_in_all`` add up colluders and attempts;
    ``malicious_bits_with_server`` is the first of them if the server helps: under key-holder trust
    it can hand a colluder the victim's upload, to which ciphertexts of its own can be added.
    """

    functionals_per_victim: int
    malicious_bits_each: float
    honest_bits_each: float
    malicious_bits_per_victim: float
    malicious_bits_in_all: float
    malicious_bits_with_server: float


def distance_leakage(
    name: str, num_clients: int, num_colluders: int, max_attempts: int = 1
) -> DistanceLeakage:
    """The most that ``num_colluders`` of ``num_clients`` clients learn in one aggregation.

    Peer trust: each ordered pair is answered once an attempt, so a victim answers each colluder
    once, and opens one reply of each. Key holder: a colluder learns its row of distances, one of
    which is the victim's; if its upload is made of the victim's, all of them depend on it. Guards
    allow ``max_attempts`` of either on the same updates. Repeated aggregations of equal vectors
    add up.

    Raises:
        ParameterError: unknown set, not fewer colluders than clients, or no attempt.
    """
    parameters = PARAMETER_SETS.get(name)
    if parameters is None or not 0 <= num_colluders < num_clients or max_attempts < 1:
        raise ParameterError(
            f"leakage of {num_colluders} among {num_clients} in {max_attempts} attempts "
            f"under {name!r}"
        )
    peer = parameters.trust == "peer"
    each = parameters.leakage_bits + (parameters.released_bits if peer else 0.0)
    per_victim = num_colluders * each * max_attempts
    depending = 1 if peer else num_clients - 1
    return DistanceLeakage(
        functionals_per_victim=num_colluders * (2 if peer else 1),
        malicious_bits_each=each,
        honest_bits_each=math.log2(4 / parameters.resolution),
        malicious_bits_per_victim=per_victim,
        malicious_bits_in_all=per_victim * (num_clients - num_colluders),
        malicious_bits_with_server=per_victim * depending,
    )
