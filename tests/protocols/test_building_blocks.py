"""Fixed point, packing, masks, shares, keys, selection: the parts by themselves."""

from __future__ import annotations

import numpy as np
import pytest
from Crypto.Protocol.SecretSharing import Shamir
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols import DeterministicEntropy, InputError
from protocols.keys import SMALL_ORDER_KEYS, Channel, KeyPair, derive
from protocols.masks import MaskKey, MaskStream, mask_scalars
from protocols.ring import (
    CHUNK,
    FixedPoint,
    FlatVector,
    Lanes,
    Packed,
    clip_in_place,
    high_bytes,
    packed_bytes,
)
from protocols.selection import personalise, select, weight
from protocols.shares import combine, invert, multiply, split

BITS = st.sampled_from([16, 20, 24, 32])
secrets = st.binary(min_size=32, max_size=32)


# --- secret sharing -----------------------------------------------------------------------------


@given(secrets, st.integers(2, 9), st.data())
def test_any_threshold_of_shares_gives_the_secret(secret, threshold, data) -> None:
    shares = split(secret, threshold, range(1, 10), DeterministicEntropy(secret))
    chosen = data.draw(
        st.lists(st.sampled_from(range(1, 10)), min_size=threshold, max_size=9, unique=True)
    )
    assert combine({x: shares[x] for x in chosen}) == secret


@given(secrets, st.integers(2, 6))
@settings(max_examples=20)
def test_shares_are_those_of_pycryptodome(secret: bytes, threshold: int) -> None:
    """The library opens our shares, and we open the library's."""
    ours = split(secret, threshold, range(1, 10), DeterministicEntropy(secret))
    for block in (slice(0, 16), slice(16, 32)):
        some = [(x, ours[x][block]) for x in range(3, 3 + threshold)]
        assert Shamir.combine(some) == secret[block]
    halves = [Shamir.split(threshold, 9, secret[block]) for block in (slice(16), slice(16, 32))]
    theirs = {x: low + high for (x, low), (_x, high) in zip(*halves, strict=True)}
    assert combine({x: theirs[x] for x in list(theirs)[:threshold]}) == secret


@given(secrets, secrets)
@settings(max_examples=20)
def test_one_share_too_few_fits_every_secret(secret: bytes, candidate: bytes) -> None:
    """For two of three shares and any candidate there is a third share that makes it true."""
    shares = split(secret, 3, range(1, 4), DeterministicEntropy(secret))
    two = {x: shares[x] for x in (1, 2)}
    with_zero = combine({**two, 3: bytes(32)})
    with_one = combine({**two, 3: (bytes(15) + b"\x01") * 2})
    third = b""
    for block in (slice(0, 16), slice(16, 32)):
        base, step = (int.from_bytes(v[block], "big") for v in (with_zero, with_one))
        difference = int.from_bytes(candidate[block], "big") ^ base
        third += multiply(difference, invert(step ^ base)).to_bytes(16, "big")
    assert combine({**two, 3: third}) == candidate


@given(st.integers(1, 2**128 - 1))
def test_inverse(a: int) -> None:
    assert multiply(a, invert(a)) == 1


# --- the ring -----------------------------------------------------------------------------------


@given(
    BITS,
    st.integers(1, 40),
    st.floats(1e-6, 1e4),
    st.integers(1, 1 << 20),
    st.lists(st.floats(-1, 1, width=32), min_size=1, max_size=20),
    st.booleans(),
)
@settings(max_examples=300)
def test_no_input_leaves_the_ring(bits, contributors, clip, max_weight, shape, extreme) -> None:
    """Every encoded coordinate stays within the levels, so the sum of c of them never wraps."""
    fixed = FixedPoint(bits, contributors, clip, float(max_weight))
    if fixed.levels < 8:
        return
    values = np.array(shape, np.float32) * np.float32(clip)
    if extreme:
        values = np.where(values >= 0, np.float32(clip), -np.float32(clip))
    clip_in_place(values, clip)
    words, floats = np.empty(len(values), np.uint32), np.empty(len(values), np.float32)
    fixed.encode(values, float(max_weight), floats, words)
    signed = words.view(np.int32).astype(np.int64)
    assert np.abs(signed).max() <= fixed.levels
    assert contributors * np.abs(signed).max() <= 2 ** (bits - 1) - 1


@given(BITS, st.integers(2, 12), st.integers(0, 2**32 - 1))
@settings(max_examples=60)
def test_the_mean_is_within_the_stated_bound(bits: int, contributors: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    clip, max_weight = 0.1, 128.0
    fixed = FixedPoint(bits, contributors, clip, max_weight)
    values = (rng.standard_normal((contributors, 50)) * 0.05).astype(np.float32)
    weights = rng.integers(1, 129, contributors)
    total, floats = np.zeros(50, np.uint32), np.empty(50, np.float32)
    for row, w in zip(values, weights, strict=True):
        clip_in_place(row, clip)
        words = np.empty(50, np.uint32)
        fixed.encode(row, float(w), floats, words)
        total += words
    mask = np.uint32(2**bits - 1) if bits < 32 else np.uint32(0xFFFFFFFF)
    decoded = np.empty(50, np.float32)
    fixed.decode(total & mask, decoded)
    exact = (weights[:, None] * values.astype(float)).sum(0) / weights.sum()
    error = np.abs(decoded / weights.sum() - exact).max()
    assert error <= fixed.error_bound(float(weights.sum()))


@given(BITS, st.integers(1, 300), st.integers(0, 2**32 - 1))
def test_packing_is_lossless_and_as_long_as_stated(bits: int, length: int, seed: int) -> None:
    words = np.random.default_rng(seed).integers(0, 2**bits, length, np.uint64).astype(np.uint32)
    packed = Packed(bits, length)
    packed.write(0, words)
    data = packed.to_bytes()
    assert len(data) == packed_bytes(bits, length)
    unpacked = np.zeros(length, np.uint32)
    again = Packed(bits, length, data)
    again.add_to(0, unpacked)
    np.testing.assert_array_equal(unpacked, words)
    assert again.padding_is_zero()


@given(BITS, st.integers(1, 40), st.integers(1, 300), st.integers(0, 2**32 - 1))
def test_lanes_add_packed_words_as_the_ring_does(
    bits: int, terms: int, length: int, seed: int
) -> None:
    rows = np.random.default_rng(seed).integers(0, 2**bits, (terms, length), np.uint64)
    start = seed % 7
    total = start + length
    low, high = np.zeros(2 * total, np.uint8), np.zeros(high_bytes(bits) * total, np.uint8)
    lanes = Lanes(low, high, bits)
    for row in rows:
        packed = Packed(bits, length)
        packed.write(0, row.astype(np.uint32))
        half = length // 4 * 2  # in two pieces, as chunks are
        lanes.add(start, packed, 0, half)
        lanes.add(start + half, packed, half, length - half)
    found = np.empty(length, np.uint32)
    lanes.read_into(start, found)
    np.testing.assert_array_equal(found.astype(np.uint64) % 2**bits, rows.sum(0) % 2**bits)
    assert not low[: 2 * start].any() and not high[: high_bytes(bits) * start].any()


def test_packing_across_chunks() -> None:
    length = 2 * CHUNK + 7
    words = np.random.default_rng(0).integers(0, 2**20, length).astype(np.uint32)
    packed, out = Packed(20, length), np.zeros(length, np.uint32)
    for start in range(0, length, CHUNK):
        packed.write(start, words[start : start + CHUNK])
    for start in range(0, length, CHUNK):
        packed.add_to(start, out[start : start + CHUNK])
    np.testing.assert_array_equal(out, words)


def test_padding_that_is_not_zero_is_seen() -> None:
    data = bytearray(Packed(20, 3).to_bytes())
    data[-1] |= 0x10
    assert not Packed(20, 3, bytes(data)).padding_is_zero()


def test_twenty_bits_cost_two_and_a_half_bytes() -> None:
    assert packed_bytes(20, 10**7) == 25_000_000


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_names_its_tensor(bad: float) -> None:
    first, second = np.zeros((3, 4), np.float32), np.zeros(5, np.float32)
    second[2] = bad
    vector = FlatVector({"layers.0.lora_A": first, "layers.0.lora_B": second}, "client-01, text")
    expected = r"tensor layers\.0\.lora_B holds -?(nan|inf) at flat index 2"
    with pytest.raises(InputError, match=expected):
        vector.read_checked(0, np.empty(17, np.float32))


def test_large_finite_values_are_no_error() -> None:
    huge = np.full(4, 3e38, np.float32)
    out = np.empty(4, np.float32)
    FlatVector({"w": huge}, "here").read_checked(0, out)
    assert clip_in_place(out, 0.1) == 4
    assert out.max() == np.float32(0.1)


def test_float64_tensors_are_refused() -> None:
    with pytest.raises(InputError, match="tensor w is float64"):
        FlatVector({"w": np.zeros(3)}, "here")


# --- masks and keys -----------------------------------------------------------------------------


@given(st.lists(secrets, min_size=1, max_size=6, unique=True), st.integers(1, 3 * CHUNK // 2))
@settings(max_examples=15, deadline=None)
def test_masks_cancel(keys: list[bytes], length: int) -> None:
    words = np.arange(length, dtype=np.uint32)
    scalars: tuple[int, ...] = (1, 2, 3)
    for sign in (1, -1):
        masks = [MaskKey(key, sign) for key in keys]
        stream, scalars = MaskStream(masks), mask_scalars(masks, scalars)
        for start in range(0, length, CHUNK):
            stream.mask_chunk(words[start : start + CHUNK])
        if sign == 1:
            assert scalars != (1, 2, 3)
    np.testing.assert_array_equal(words, np.arange(length, dtype=np.uint32))
    assert scalars == (1, 2, 3)


def test_a_mask_is_the_aes_ctr_keystream_after_64_bytes() -> None:
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

    key = bytes(range(32))
    raw = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor().update(bytes(64 + 40))
    words = np.zeros(10, np.uint32)
    stream = MaskStream([MaskKey(key, 1)])
    stream.mask_chunk(words)
    assert words.astype("<u4").tobytes() == raw[64:]
    assert mask_scalars([MaskKey(key, 1)], (0, 0, 0)) == tuple(
        int.from_bytes(raw[8 * i : 8 * i + 8], "little") for i in range(3)
    )


@given(st.lists(secrets, min_size=1, max_size=3, unique=True), st.integers(0, 300))
@settings(max_examples=25, deadline=None)
def test_a_mask_can_be_read_from_any_block_on(keys: list[bytes], block: int) -> None:
    masks = [MaskKey(key, (-1) ** place) for place, key in enumerate(keys)]
    whole, rest = np.zeros(1300, np.uint32), np.zeros(1300 - 4 * block, np.uint32)
    MaskStream(masks).mask_chunk(whole)
    MaskStream(masks, 4 * block).mask_chunk(rest)
    np.testing.assert_array_equal(whole[4 * block :], rest)


def test_each_use_has_its_own_key() -> None:
    secret = bytes(32)
    keys = {
        derive(secret, session, usage, *context)
        for session in (bytes(32), b"\x01" * 32)
        for usage in ("self-mask", "pairwise-mask", "recipient-mask")
        for context in (("a",), ("b",), ("a", "b"), ("ab",), ("a", "b", ""))
    }
    assert len(keys) == 30


def test_a_channel_opens_only_what_was_made_for_it() -> None:
    channel = Channel(bytes(32), b"\x01" * 32)
    sealed = channel.seal("shares", "a", "b", b"secret")
    assert channel.open("shares", "a", "b", sealed) == b"secret"
    other = Channel(bytes(32), b"\x02" * 32)
    for opener, labels in (
        (channel, ("shares", "b", "a")),
        (channel, ("selection", "a", "b")),
        (other, ("shares", "a", "b")),
    ):
        with pytest.raises(ValueError, match="does not open"):
            opener.open(*labels, sealed)


def test_small_order_points_really_yield_no_secret() -> None:
    """The list is right: the library itself finds an all-zero secret for each."""
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

    private = X25519PrivateKey.from_private_bytes(b"\x05" * 32)
    for key in SMALL_ORDER_KEYS:
        with pytest.raises(ValueError):
            private.exchange(X25519PublicKey.from_public_bytes(key))
    fine = KeyPair(b"\x06" * 32).public
    assert len(private.exchange(X25519PublicKey.from_public_bytes(fine))) == 32


def test_secrets_are_not_in_reprs() -> None:
    pair = KeyPair(b"\x07" * 32)
    assert "07070707" not in repr(pair) and "\\x07" not in repr(pair)
    assert "\\x07" not in repr(MaskKey(b"\x07" * 32, 1))
    assert "\\x07" not in repr(Channel(b"\x07" * 32, bytes(32)))


# --- selection ----------------------------------------------------------------------------------


rows = st.dictionaries(st.sampled_from("abcdefgh"), st.floats(0, 10), min_size=1)


@given(rows, st.integers(1, 8))
def test_the_nearest_are_selected(row: dict[str, float], count: int) -> None:
    chosen = select(row, count)
    assert len(chosen.neighbours) == min(count, len(row))
    assert chosen.scale == min(row.values())
    outside = [row[p] for p in row if p not in chosen.neighbours]
    assert all(row[p] <= d for p in chosen.neighbours for d in outside)


@given(st.floats(0, 1e6), st.floats(0, 1e6))
def test_weights_are_bounded_and_on_the_grid(scale: float, distance: float) -> None:
    u = weight(scale, distance)
    assert 0.25 <= u <= 1.0
    assert (u * 2**20).is_integer()


def test_equation_twelve_by_hand() -> None:
    """Two neighbours, u = (1, 1/2), n = (10, 20), own n = 10; w = (2/3, 1/3)."""
    own, a, b = (np.array([v], np.float32) for v in (1.0, 4.0, 7.0))
    weighted = 10 * 1.0 * a + 20 * 0.5 * b
    normalised = personalise(own, 10, weighted, 20.0, 1.5, 30, "normalised")
    literal = personalise(own, 10, weighted, 20.0, 1.5, 30, "literal")
    numerator = 10 * 1.0 + 10 * (2 / 3) * 4.0 + 20 * (1 / 3) * 7.0
    assert normalised[0] == pytest.approx(numerator / (10 + 10 * 2 / 3 + 20 / 3), rel=1e-6)
    assert literal[0] == pytest.approx(numerator / (10 + 30), rel=1e-6)


def test_the_literal_form_shrinks_as_the_facts_say() -> None:
    """Equal vectors, equal n, six neighbours: the coefficients sum to 2/7."""
    own = np.ones(1, np.float32)
    result = personalise(own, 5, np.full(1, 30.0, np.float32), 30.0, 6.0, 30, "literal")
    assert result[0] == pytest.approx(2 / 7, rel=1e-6)


def test_no_message_or_state_prints_a_secret() -> None:
    """Every share, ciphertext, vector, seed and key stays out of what gets logged."""
    from cheating import read
    from in_process import Federation

    shown: list[str] = []
    secret: list[bytes] = []

    def look(phase: str, name: str, frame: bytes) -> bytes:
        message = read(federation, name, frame)
        state = federation.clients[name]._state
        shown.extend([repr(message), str(message), repr(state), repr(federation.clients[name])])
        if phase == "unmask":
            secret.extend(item.share for item in message.seed_shares)
        if phase == "masked_input":
            secret.extend(item.packed for item in message.inputs)
        if phase == "share":
            secret.extend(box.ciphertext for box in message.boxes)
            session = state.session
            secret.extend([*session.seeds.values(), *session.own_shares])
            pairs = (session.keys.mask, session.keys.share, session.keys.recipient)
            secret.extend(pair.secret for pair in pairs)
        return frame

    federation = Federation(count=4, plain=True)
    federation.run(on_reply=look)
    text = "".join(shown)
    assert len(secret) > 40
    for value in secret:
        assert repr(value)[2:40] not in text and value[:12].hex() not in text


def test_a_client_whose_update_holds_a_nan_drops_out_and_says_why() -> None:
    from in_process import Federation

    federation = Federation(count=5, plain=True)
    federation.inputs["client-03"].vectors["task_adapter"]["second"][7] = np.nan
    federation.run()
    error = federation.errors["client-03"]
    assert isinstance(error, InputError)
    assert "task_adapter: tensor second holds nan at flat index 7" in str(error)
    assert "client-03" not in federation.server.report.opened["all"]


def test_samples_above_the_public_cap_are_refused_before_anything_is_sent() -> None:
    from in_process import Federation

    from protocols import ClientInputs

    federation = Federation(count=4, plain=True)
    vectors = federation.inputs["client-01"].vectors
    for wrong in (True, np.int64(5), 5.0):
        federation.inputs["client-01"] = ClientInputs(vectors=vectors, num_samples=wrong)
        with pytest.raises(InputError, match="num_samples must be a plain int"):
            federation.start()
    federation.inputs["client-01"] = ClientInputs(vectors=vectors, num_samples=129)
    with pytest.raises(InputError, match="num_samples must be 1 to 128"):
        federation.start()


def test_a_changed_copy_has_a_digest_of_its_own() -> None:
    from in_process import Federation

    from protocols import ParameterError

    federation = Federation(count=4, plain=True)
    before = federation.parameters.digest()
    assert federation.parameters.model_copy(update={"attempt": 1}).digest() != before
    with pytest.raises(ValueError, match="two survivor sets"):
        federation.parameters.model_copy(update={"threshold": 2})
    roster = federation.roster
    fewer = roster.model_copy(update={"clients": roster.clients[:3]})
    assert fewer.digest() != roster.digest()
    with pytest.raises(ParameterError, match="not in the roster"):
        fewer.coordinate("client-04")
