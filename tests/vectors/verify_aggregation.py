"""Verify the aggregation vectors without the package: numpy, cryptography and the specification.

    python tests/vectors/verify_aggregation.py [FILE]

For each good vector: every frame's signature, the session id, the public keys of the secrets that
were read, every share, commitment and box, every masked upload bit for bit, the signed statements,
what was revealed, every opened sum, the means and the sealed sums, and the receipts. Of the bad
ones: that what is signed in them is. Section numbers refer to ``protocols/SPEC.md``. An assertion
that fails names the vector and the check.
"""

import json
import sys
from pathlib import Path

import numpy as np
from from_specification import (
    cbor,
    exchange,
    h,
    kdf,
    keystream,
    public_key,
    read,
    share,
    signs,
    unpack,
    unseal,
    verifies,
)

NO_LISTS = h(cbor(["pilot-secure neighbour lists", []]))


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
        self.check_shares()
        self.check_uploads()
        self.check_statements()
        self.check_unmasking()
        self.check_results()
        self.check_receipts()

    def expect(self, condition, check):
        assert condition, f"{self.vector['name']}: {check}"

    def check_signatures(self):
        """Section 1, frames."""
        for phase, sender, client, text in self.vector["frames"]:
            frame = bytes.fromhex(text)
            body = frame[64:]
            self.expect(signs(self.keys[sender], frame), f"{phase}: signature of {sender}")
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

    def check_shares(self):
        """Sections 3, 4.2 and 7: every share box and every commitment."""
        self.dealt, threshold = {}, self.parameters["threshold"]
        for name in self.members:
            if ("share", name, name) not in self.frames:
                continue
            message, ids = (
                self.frames["share", name, name][1],
                [s["id"] for s in self.sums_of(name)],
            )
            keys, rest = self.secrets[name][:3], self.secrets[name][3:]
            seeds, rest = rest[: len(ids)], rest[len(ids) :]
            names, each = ["mask-key", *ids], 2 * (threshold - 1)
            for place, (what, secret) in enumerate(zip(names, [keys[1], *seeds], strict=True)):
                coefficients = rest[place * each : (place + 1) * each]
                for holder in self.members:
                    x = list(self.keys).index(holder)
                    self.dealt[name, what, holder] = share(secret, coefficients, x)
            for item in message["commitments"]:
                to, said = item["party"], [self.session, name, item["party"]]
                digests = [
                    h(cbor(["share commitment", *said, what, self.dealt[name, what, to]]))
                    for what in names
                ]
                self.expect(item["digests"] == digests, f"{name}: commitments for {to}")
            for digest, what, seed in zip(message["seed_commitments"], ids, seeds, strict=True):
                expected = h(cbor(["secret commitment", self.session, name, what, seed]))
                self.expect(digest == expected, f"{name}: commitment to a seed")
            for box in message["boxes"]:
                theirs, way = self.advert(box["party"])["share_key"], (name, box["party"])
                opened = unseal(keys[0], theirs, self.session, "shares", *way, box["ciphertext"])
                held = b"".join(self.dealt[name, what, box["party"]] for what in names)
                self.expect(opened == held, f"{name}: shares for {box['party']}")

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

    def statement(self, name):
        """Section 4.5: what a client signs of the plan, the survivors and their uploads."""
        plan = self.plan(name)
        sums = [[s["id"], s["recipient"], s["contributors"]] for s in plan["sums"]]
        plan_hash = h(cbor(["pilot-secure plan", plan["participants"], sums]))
        uploads = [
            [survivor, h(self.frames["masked_input", survivor, survivor][0])]
            for survivor in self.vector["survivors"]
        ]
        return cbor(["pilot-secure consistency", self.session, plan_hash, NO_LISTS, uploads])

    def check_statements(self):
        for (phase, name, _client), (_frame, message) in self.frames.items():
            if phase != "consistency" or name == "server":
                continue
            self.expect(message["lists"] == NO_LISTS, f"{name}: neighbour lists")
            signed = verifies(self.keys[name], message["signature"], self.statement(name))
            self.expect(signed, f"{name}: consistency signature")

    def check_unmasking(self):
        """Section 4.6: of survivors seeds, of the dead mask keys, each as it was dealt."""
        for (phase, name, _client), (_frame, message) in self.frames.items():
            if phase != "unmask" or name == "server":
                continue
            for item in message["seed_shares"]:
                self.expect(item["owner"] in self.vector["survivors"], f"{name}: a seed")
                dealt = self.dealt[item["owner"], item["sum_id"], name]
                self.expect(item["share"] == dealt, f"{name}: a seed share of {item['owner']}")
            for item in message["key_shares"]:
                self.expect(item["owner"] not in self.vector["survivors"], f"{name}: a mask key")
                dealt = self.dealt[item["owner"], "mask-key", name]
                self.expect(item["share"] == dealt, f"{name}: a key share of {item['owner']}")

    def check_receipts(self):
        """Section 12: the running hash of all that a client sent and received."""
        running = dict.fromkeys(self.keys, h(b"pilot-secure running hash"))
        for phase, sender, client, text in self.vector["frames"]:
            frame = bytes.fromhex(text)
            value = read(frame[64:])[0]
            if value["kind"] == "receipt":
                self.expect(value["transcript"] == running[client], f"{client}: receipt, {phase}")
            way = b"rcvd" if sender == "server" else b"sent"
            running[client] = h(running[client] + way + h(frame))

    def check_bad(self, bad):
        """A bad frame is signed, and what it relays or claims is, unless its error says not."""
        sender, frame = bad["sender"], bytes.fromhex(bad["frame"])
        signed = signs(self.keys[sender], frame)
        if signed and bad["error"] == "BadSignature":
            message = read(frame[64:])[0]
            for relayed in message.get("advertisements", []):
                signed &= signs(self.keys[read(relayed[64:])[0]["sender"]], relayed)
            if message["kind"] == "consistency":
                claim = self.statement(sender)
                signed &= verifies(self.keys[sender], message["signature"], claim)
        self.expect(signed == (bad["error"] != "BadSignature"), bad["name"])

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
    good = {vector["name"]: Vector(vector) for vector in document["good"]}
    for name, vector in good.items():
        vector.check()
        print(f"{name}: {len(vector.vector['frames'])} frames verified")
    for bad in document["bad"]:
        good[bad["based_on"]].check_bad(bad)
    print(f"{len(document['bad'])} bad frames: signed, or not, as their errors say")


if __name__ == "__main__":
    main()
