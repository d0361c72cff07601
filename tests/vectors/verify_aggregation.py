"""Verify the aggregation vectors without the package: numpy, cryptography and the specification.

    python tests/vectors/verify_aggregation.py [FILE]

For each good vector: every frame's signature, the session id, the public keys of the secrets that
were read, every masked upload bit for bit, every opened sum, the means and the sealed sums. Section
numbers refer to ``protocols/SPEC.md``. An assertion that fails names the vector and the check.
"""

import hashlib
import json
import struct
import sys
from pathlib import Path

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

PROTOCOL = "pilot-secure aggregation"


def cbor(value):
    """Section 1: deterministic CBOR."""
    if value is None:
        return b"\xf6"
    if isinstance(value, int):
        return head(0, value)
    if isinstance(value, float):
        for layout, first in ((">e", 0xF9), (">f", 0xFA), (">d", 0xFB)):
            try:
                raw = struct.pack(layout, value)
            except OverflowError:
                continue
            if struct.unpack(layout, raw)[0] == value:
                return bytes([first]) + raw
    if isinstance(value, bytes):
        return head(2, len(value)) + value
    if isinstance(value, str):
        return head(3, len(value.encode())) + value.encode()
    if isinstance(value, list):
        return head(4, len(value)) + b"".join(map(cbor, value))
    pairs = sorted((cbor(key), cbor(item)) for key, item in value.items())
    return head(5, len(pairs)) + b"".join(key + item for key, item in pairs)


def head(major, number):
    if number < 24:
        return bytes([major << 5 | number])
    size = next(size for size in (1, 2, 4, 8) if number < 1 << 8 * size)
    return bytes([major << 5 | 23 + size.bit_length()]) + number.to_bytes(size, "big")


def read(data, place=0):
    """Return (value, next place) of one CBOR item."""
    major, info = data[place] >> 5, data[place] & 31
    if major == 7:
        size = {25: 2, 26: 4, 27: 8}.get(info, 0)
        raw = data[place + 1 : place + 1 + size]
        value = struct.unpack({2: ">e", 4: ">f", 8: ">d"}[size], raw)[0] if size else None
        return value, place + 1 + size
    size = 1 << info - 24 if info > 23 else 0
    number = int.from_bytes(data[place + 1 : place + 1 + size], "big") if size else info
    place += 1 + size
    if major == 0:
        return number, place
    if major in (2, 3):
        raw = data[place : place + number]
        return (raw if major == 2 else raw.decode()), place + number
    items = []
    for _ in range(number * (2 if major == 5 else 1)):
        item, place = read(data, place)
        items.append(item)
    return (dict(zip(items[::2], items[1::2], strict=True)) if major == 5 else items), place


def h(*parts):
    return hashlib.sha256(b"".join(parts)).digest()


def kdf(secret, session, usage, *context):
    """Section 3."""
    info = cbor([PROTOCOL, 1, session, usage, list(context)])
    return HKDF(algorithm=SHA256(), length=32, salt=None, info=info).derive(secret)


def exchange(secret, public):
    private = X25519PrivateKey.from_private_bytes(secret)
    return private.exchange(X25519PublicKey.from_public_bytes(public))


def public_key(secret):
    return X25519PrivateKey.from_private_bytes(secret).public_key().public_bytes_raw()


def keystream(key, length):
    """Section 6: eight 64-bit words for scalars, then 32-bit words."""
    raw = (
        Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor().update(bytes(64 + 4 * length))
    )
    scalars = [int(word) for word in np.frombuffer(raw[:24], "<u8")]
    return scalars, np.frombuffer(raw[64:], "<u4").astype(np.int64)


def unpack(bits, length, data):
    low = np.frombuffer(data[: 2 * length], "<u2").astype(np.int64)
    rest = data[2 * length :]
    if bits == 16:
        return low
    if bits == 20:
        pairs = np.frombuffer(rest, np.uint8).astype(np.int64)
        return low | np.stack([pairs & 15, pairs >> 4], 1).reshape(-1)[:length] << 16
    return low | np.frombuffer(rest, np.uint8 if bits == 24 else "<u2").astype(np.int64) << 16


class Vector:
    """One good vector and what follows from it."""

    def __init__(self, vector):
        self.vector, self.parameters = vector, unhex(vector["parameters"])
        self.keys = {name: bytes.fromhex(key) for name, key in vector["roster"]}
        self.secrets = {
            name: [bytes.fromhex(item) for item in reads]
            for name, reads in vector["entropy"].items()
            if name != "server"
        }
        self.bits = self.parameters["ring_bits"]
        self.frames, self.sent = {}, {}

    def check(self):
        self.check_signatures()
        self.check_session()
        self.check_keys()
        self.check_uploads()
        self.check_statements()
        self.check_results()

    def expect(self, condition, check):
        assert condition, f"{self.vector['name']}: {check}"

    def check_signatures(self):
        """Section 1, frames."""
        for phase, sender, client, text in self.vector["frames"]:
            frame = bytes.fromhex(text)
            body = frame[64:]
            message = b"pilot-secure frame\x01" + h(body)
            Ed25519PublicKey.from_public_bytes(self.keys[sender]).verify(frame[:64], message)
            value, end = read(body)
            self.expect(end == len(body) and cbor(value) == body, f"{phase}: canonical form")
            self.expect(value["sender"] == sender, f"{phase}: sender")
            place = phase, sender, client  # the last part, where vectors go in parts
            self.frames[place] = frame, value
            self.sent.setdefault(place, []).append((frame, value))

    def check_session(self):
        """Section 3, session id."""
        digest = h(cbor(["pilot-secure parameters", self.parameters]))
        adverts = sorted(
            (sender, h(frame))
            for (phase, sender, _client), (frame, _value) in self.frames.items()
            if phase == "advertise" and sender != "server"
        )
        self.session = h(cbor(["pilot-secure session", digest, [list(a) for a in adverts]]))
        self.expect(self.session.hex() == self.vector["session"], "session id")
        self.members = [name for name, _hash in adverts]

    def check_keys(self):
        """Section 4.1: the advertised keys are those of the secrets that were read first."""
        for name in self.members:
            advert = self.frames["advertise", name, name][1]
            fields = ("share_key", "mask_key", "recipient_key")
            for secret, field in zip(self.secrets[name], fields, strict=False):
                self.expect(public_key(secret) == advert[field], f"{name}: {field}")

    def sums_of(self, name):
        return [s for s in self.parameters["sums"] if name in s["contributors"]]

    def advert(self, name):
        return self.frames["advertise", name, name][1]

    def encoded(self, name, planned):
        """Section 6: clip, weight, scale, round."""
        spec = next(s for s in self.parameters["sums"] if s["id"] == planned["id"])
        clip, most = self.parameters["clip"][spec["vector"]], self.parameters["max_samples"]
        levels = (2 ** (self.bits - 1) - 1) // len(planned["contributors"])
        scale = (levels - 1) * (1 - 2.0**-20) / clip
        n = self.vector["num_samples"][name]
        values = np.array(self.vector["vectors"][name][spec["vector"]], np.float32)
        clipped = np.clip(values, -np.float32(clip), np.float32(clip))
        steps = np.rint(clipped * np.float32(scale * n / most)).astype(np.int64)
        return steps, [n, 1 << 20, n << 20], scale / most

    def check_uploads(self):
        """Sections 4.4 and 6: each masked term, bit for bit."""
        for phase, name, _client in self.frames:
            if phase != "masked_input" or name == "server":
                continue
            *parts, (_frame, last) = self.sent[phase, name, name]
            if last["kind"] == "masked_part":
                self.expect(name not in self.vector["survivors"], f"{name}: an upload without end")
                continue
            self.expect([h(f) for f, _part in parts] == last["parts"], f"{name}: hashes of parts")
            plan = self.plan(name)
            due = [s for s in plan["sums"] if name in s["contributors"]]
            self.check_cuts(name, due, [p["spans"] for _f, p in parts] + [last["inputs"]])
            for planned in due:
                self.check_term(name, planned, *self.whole(planned, parts, last["inputs"]))

    def plan(self, name):
        return self.sent["masked_input", "server", name][0][1]

    def length(self, sum_id):
        spec = next(s for s in self.parameters["sums"] if s["id"] == sum_id)
        return spec["vector"], self.parameters["vector_lengths"][spec["vector"]]

    def check_cuts(self, name, due, sent):
        """Section 4.9: how many bytes of which sum each part holds."""
        expected, part, room = [], {}, self.parameters["part_bytes"]
        for vector in sorted({self.length(s["id"])[0] for s in due}):
            ids = [s["id"] for s in due if self.length(s["id"])[0] == vector]
            left = self.length(ids[0])[1]
            while left:
                fits = min(left, room * 8 // self.bits // len(ids) // 4 * 4)
                if fits:
                    size = 2 * fits + ((self.bits - 16) * fits + 7) // 8
                    part |= dict.fromkeys(ids, size)
                    room, left = room - size * len(ids), left - fits
                else:
                    expected, part, room = [*expected, part], {}, self.parameters["part_bytes"]
        expected.append({s["id"]: part.get(s["id"], 0) for s in due})
        sizes = [{item["sum_id"]: len(item["packed"]) for item in items} for items in sent]
        self.expect(sizes == expected, f"{name}: parts")

    def whole(self, planned, parts, last):
        """The words of a vector from all its parts, and its scalars from the last one."""
        items = [s for _frame, part in parts for s in part["spans"]] + last
        words, own = [], [item for item in items if item["sum_id"] == planned["id"]]
        left = self.length(planned["id"])[1]
        for item in own:
            size = min(left, 8 * len(item["packed"]) // self.bits)
            words.append(unpack(self.bits, size, item["packed"]))
            left -= size
        self.expect(left == 0, f"{planned['id']}: a whole vector")
        return np.concatenate(words), own[-1]["scalars"]

    def check_term(self, name, planned, sent, told):
        words, scalars, _scale = self.encoded(name, planned)
        for key, sign in self.masks(name, planned):
            mask_scalars, mask = keystream(key, len(words))
            words = words + sign * mask
            scalars = [a + sign * b for a, b in zip(scalars, mask_scalars, strict=True)]
        self.expect((words % 2**self.bits == sent).all(), f"{name}, {planned['id']}: masked words")
        wire = [(s % 2**64).to_bytes(8, "little") for s in scalars]
        self.expect(wire == told, f"{name}, {planned['id']}: masked scalars")

    def masks(self, name, planned):
        _share, mask, recipient, *rest = self.secrets[name]
        place = [s["id"] for s in self.sums_of(name)].index(planned["id"])
        sum_id = planned["id"]
        yield kdf(rest[place], self.session, "self-mask", sum_id, name), 1
        for peer in planned["contributors"]:
            if peer != name:
                secret = exchange(mask, self.advert(peer)["mask_key"])
                pair = sorted((name, peer))
                sign = 1 if name < peer else -1
                yield kdf(secret, self.session, "pairwise-mask", sum_id, *pair), sign
        if planned["recipient"] != "server":
            yield self.recipient_mask(name, planned), 1

    def recipient_mask(self, name, planned):
        theirs = self.advert(planned["recipient"])["recipient_key"]
        secret = exchange(self.secrets[name][2], theirs)
        return kdf(
            secret, self.session, "recipient-mask", planned["id"], name, planned["recipient"]
        )

    def check_statements(self):
        """Section 4.5: every client signs the plan, the survivors and the upload frames."""
        lists = h(cbor(["pilot-secure neighbour lists", []]))
        for (phase, name, _client), (_frame, message) in self.frames.items():
            if phase != "consistency" or name == "server":
                continue
            plan = self.plan(name)
            sums = [[s["id"], s["recipient"], s["contributors"]] for s in plan["sums"]]
            plan_hash = h(cbor(["pilot-secure plan", plan["participants"], sums]))
            uploads = [
                [survivor, h(self.frames["masked_input", survivor, survivor][0])]
                for survivor in self.vector["survivors"]
            ]
            said = cbor(["pilot-secure consistency", self.session, plan_hash, lists, uploads])
            self.expect(message["lists"] == lists, f"{name}: neighbour lists")
            key = Ed25519PublicKey.from_public_bytes(self.keys[name])
            key.verify(message["signature"], said)

    def check_results(self):
        """Section 4.7: opened sums are the sums of the survivors' encodings."""
        survivors = self.vector["survivors"]
        for (phase, sender, client), (_frame, message) in self.frames.items():
            if phase != "deliver" or sender != "server":
                continue
            parts = self.sent[phase, sender, client][:-1]
            sealed = [] if message["sealed"] is None else [message["sealed"]]
            for planned in self.plan(client)["sums"]:
                told = [*message["opened"], *sealed]
                if planned["id"] in [item["sum_id"] for item in told]:
                    self.check_opened(planned, self.whole(planned, parts, told)[0], survivors)

    def check_opened(self, planned, sent, survivors):
        total, samples, scale, length = 0, 0, 1.0, 0
        sealed = planned["recipient"] != "server"
        clear = 0
        for name in planned["contributors"]:
            if name not in survivors:
                continue
            words, scalars, scale = self.encoded(name, planned)
            length, samples, clear = len(words), samples + scalars[0], clear + words
            if sealed:
                words = words + keystream(self.recipient_mask(name, planned), length)[1]
            total = total + words
        self.expect((total % 2**self.bits == sent).all(), f"{planned['id']}: opened sum")
        if sealed:
            told = np.array(self.vector["sealed"][planned["recipient"]])
            self.expect(np.allclose(clear / scale, told, rtol=1e-6), f"{planned['id']}: sealed sum")
        else:
            told = np.array(self.vector["means"][planned["id"]])
            close = np.allclose(clear / scale / samples, told, rtol=1e-6)
            self.expect(close, f"{planned['id']}: mean")


def unhex(parameters):
    return {**parameters, "roster": bytes.fromhex(parameters["roster"])}


def main():
    default = Path(__file__).with_name("aggregation.json")
    document = json.loads(Path(sys.argv[1] if len(sys.argv) > 1 else default).read_text())
    for vector in document["good"]:
        Vector(vector).check()
        print(f"{vector['name']}: {len(vector['frames'])} frames verified")


if __name__ == "__main__":
    main()
