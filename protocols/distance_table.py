"""Rows of one matrix: the key holder's commitments to all distances, and each client's own row.

A row is, for each other measured client in ascending order, the squared distance as a little-endian
double and the 16 bytes of salt that open its commitment. The two ends of a pair get equal entries,
so that a holder that tells them different distances has committed to one of them only.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Mapping, Sequence
from itertools import combinations

from protocols.codec import encode
from protocols.entropy import Entropy
from protocols.identity import sha256

SALT_BYTES = 16
ROW_USAGE = "distance-row"
_SQUARED = struct.Struct("<d")
_ENTRY_BYTES = _SQUARED.size + SALT_BYTES

Pair = tuple[str, str]
Entries = Mapping[Pair, bytes]


def make_entries(squared: Mapping[Pair, float], entropy: Entropy) -> dict[Pair, bytes]:
    """Return each pair's entry, with a fresh salt. Secrecy: the two clients of the pair."""
    return {
        pair: _SQUARED.pack(squared[pair]) + entropy.read(SALT_BYTES) for pair in sorted(squared)
    }


def commitment(session: bytes, pair: Pair, entry: bytes) -> bytes:
    """Return the commitment to one pair's entry; the salt hides a distance that can be guessed."""
    return sha256(encode(["distance commitment", session, *pair, entry]))


def pack_row(entries: Entries, name: str, names: Collection[str]) -> bytes:
    """Return the row of ``name``."""
    return b"".join(entries[_pair(name, peer)] for peer in sorted(names) if peer != name)


def open_row(
    session: bytes, name: str, names: Collection[str], row: bytes, commitments: Sequence[bytes]
) -> dict[str, float]:
    """Return {peer: squared distance} of a row that opens the commitments to its pairs.

    ``commitments`` are those of all pairs of ``names``, in ascending order.

    Raises:
        ValueError: another length, or an entry that its pair's commitment is not to.
    """
    ordered = sorted(names)
    peers = [peer for peer in ordered if peer != name]
    if len(row) != _ENTRY_BYTES * len(peers):
        raise ValueError(f"a row of {len(row)} bytes for {len(peers)} peers")
    due = dict(zip(combinations(ordered, 2), commitments, strict=True))
    squared = {}
    for place, peer in enumerate(peers):
        entry = row[place * _ENTRY_BYTES : (place + 1) * _ENTRY_BYTES]
        pair = _pair(name, peer)
        if commitment(session, pair, entry) != due[pair]:
            raise ValueError(f"the distance to {peer} is not the one that was committed to")
        squared[peer] = float(_SQUARED.unpack_from(entry)[0])
    return squared


def row_bytes(count: int) -> int:
    """Return the length of a row among ``count`` measured clients."""
    return _ENTRY_BYTES * (count - 1)


def num_pairs(count: int) -> int:
    """Return the number of pairs of ``count`` clients."""
    return count * (count - 1) // 2


def _pair(one: str, other: str) -> Pair:
    return (one, other) if one < other else (other, one)
