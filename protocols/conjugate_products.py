"""Squared distances of ciphertexts under one key, by products with conjugates.

Conjugating slots is the automorphism X -> 1/X, which on residues in NTT form is their reversal: no
key is needed for it, and one key switch a pair, at the very end, brings s conj(s) back to s.

Everything here is deterministic: equal inputs give equal residues, so that another party can repeat
it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from .ckks import Ring
from .residues import Residues, conjugate


class Prepared(NamedTuple):
    """One chunk of an upload, loaded for conjugate products."""

    ciphertext: Any
    conjugate: Any
    first_conjugate: Any
    second: Any


def prepare(ring: Ring, first: Residues, second: Residues) -> Prepared:
    """Load the ciphertext (first, second), [data primes, N] each, for conjugate products."""
    return Prepared(
        ring.plain_ciphertext(np.stack([first, second])),
        ring.plain_ciphertext(np.stack([conjugate(first), conjugate(second)])),
        ring.plaintext(conjugate(first)),
        ring.plaintext(second),
    )


def conjugate_product(ring: Ring, left: list[Prepared], right: list[Prepared]) -> tuple[Any, Any]:
    """Σ over chunks of left · conj(right), in two parts, without any key.

    With left (c0, c1) under s and the conjugate of right (d0, d1) under conj(s), the product
    is c0 d0 + c1 d0 s + c0 d1 conj(s) + c1 d1 s conj(s). The first part is (c0 d0, c1 d0);
    the second is the conjugate of (c0 d1, c1 d1): only the constant coefficient is wanted,
    which conjugation leaves alone, and conj(s) becomes s.
    """
    straight = ring.inner_product(
        (chunk.ciphertext for chunk in left), (chunk.first_conjugate for chunk in right)
    )
    turned = ring.inner_product(
        (chunk.conjugate for chunk in left), (chunk.second for chunk in right)
    )
    return straight, turned


def squared_distance(
    ring: Ring,
    left_norm: tuple[Any, Any],
    right_norm: tuple[Any, Any],
    product: tuple[Any, Any],
    switching_keys: Any,
) -> Any:
    """‖x‖² + ‖y‖² - 2⟨x, y⟩ from three conjugate products: one relinearisation at the end."""
    parts = []
    for a, b, both in zip(left_norm, right_norm, product, strict=True):
        part = ring.add(a, b)
        ring.subtract(part, both)
        ring.subtract(part, both)
        parts.append(part)
    # parts[0] + parts[1] s, as three polynomials
    total = ring.add(ring.multiply(parts[1], ring.second_unit), parts[0])
    ring.switch_third(total, switching_keys)
    return total
