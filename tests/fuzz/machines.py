"""Drive the machines with coverage-guided bytes: clients, server, key holder, and the decoder.

The first byte chooses the target. Bytes for a machine are taken as the body of a frame that its
sender properly signed, so that the fuzzer gets past the signature; a machine may refuse with a
typed error and nothing else, and what decodes must re-encode to itself. Needs ``atheris``::

    python tests/fuzz/machines.py -max_total_time=60 CORPUS
    python tests/fuzz/machines.py --seeds CORPUS     # write honest messages to start from

Without atheris, ``--random N`` mutates the honest messages N times without coverage guidance.
"""

from __future__ import annotations

import copy
import random
import sys
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "protocols"))

try:
    import atheris
except ImportError:
    atheris = None


def load() -> None:
    """Import what is fuzzed; instrumented when atheris is there."""
    global Federation, MemoryGuard, SERVER, ProtocolError, CodecError, decode, encode, sha256, LABEL
    global DistanceParty, closing_hash, KEY_HOLDER, KEY_HOLDER_TRUST
    from in_process import KEY_HOLDER_TRUST, Federation

    from protocols import KEY_HOLDER, SERVER, MemoryGuard, ProtocolError
    from protocols.codec import CodecError, decode, encode
    from protocols.distance_frames import closing_hash
    from protocols.distances import DistanceParty
    from protocols.frame import LABEL
    from protocols.identity import sha256


if atheris is not None:
    with atheris.instrument_imports(include=["protocols"]):
        load()
else:
    load()

CLIENT = "client-02"
PEER_TRUST = (
    "advertise",
    "share",
    "distance_upload",
    "distance_reply",
    "select",
    "masked_input",
    "consistency",
    "unmask",
    "deliver",
)
TARGETS = (
    *(("peer", phase, CLIENT) for phase in PEER_TRUST),
    ("key_holder", "share", KEY_HOLDER),
    ("key_holder", "distance_upload", CLIENT),
    ("key_holder", "distance_release", KEY_HOLDER),
    ("key_holder", "select", CLIENT),
    ("parts", "masked_input", CLIENT),
    ("parts", "deliver", CLIENT),
)
"""(trust, phase, party): what the party is asked in the phase, and what it replies."""


def ready(trust: str, phase: str) -> Federation:
    """An attempt with real distances and sealed sums that has come to this phase.

    With ``parts`` one without distances, in the middle of what goes in parts.
    """
    if trust == "parts":
        federation = Federation(count=4, plain=True, options={"part_bytes": 300}).run(until=phase)
        federation.exchange()
        return federation
    options = {"num_neighbours": 3, **(KEY_HOLDER_TRUST if trust == "key_holder" else {})}
    return Federation(count=4, num_tasks=1, options=options).run(until=phase)


READY = {(trust, phase): ready(trust, phase) for trust, phase, _ in TARGETS}


def signed(identity, body: bytes) -> bytes:
    return identity.sign(LABEL + sha256(body)) + body


def fresh(federation: Federation, party: str):
    """A copy of a party with a guard of its own, so that an answer refuses no later input."""
    if party == KEY_HOLDER:
        holder = copy.copy(federation.holder)
        holder._guard = MemoryGuard()
        if holder.state == "keyed":  # its key releases once, and is shared by all copies
            holder._state.distances._spent = False
        return holder
    client = copy.copy(federation.clients[party])
    client._context = replace(client._context, guard=MemoryGuard())
    machine = getattr(client._state, "distances", None)
    if isinstance(machine, DistanceParty):  # answers an upload once, shared by all copies
        machine._answered = {closing_hash(machine.upload())}
    return client


def one_input(data: bytes) -> None:
    """Feed one input to the target that its first byte chooses."""
    if not data:
        return
    choice, body = data[0] % (2 * len(TARGETS) + 1), data[1:]
    if choice == 2 * len(TARGETS):
        check_decoder(body)
        return
    trust, phase, party = TARGETS[choice // 2]
    federation = READY[trust, phase]
    try:
        if choice % 2:
            frame = signed(federation.identity(party), body)
            federation.server._heard.discard(party)
            federation.server.accept(party, frame)
            READY[trust, phase] = ready(trust, phase)
        else:
            fresh(federation, party).handle(signed(federation.server_identity, body))
    except ProtocolError as error:
        assert str(error)


def check_decoder(body: bytes) -> None:
    try:
        value = decode(body)
    except CodecError:
        return
    assert encode(value) == body


def honest_inputs() -> list[bytes]:
    """One input per target and direction, from the honest messages."""
    inputs = []
    for place, (trust, phase, party) in enumerate(TARGETS):
        federation = READY[trust, phase]
        request = federation.server.request(party)
        inputs.append(bytes([2 * place]) + request[64:])
        inputs.append(bytes([2 * place + 1]) + fresh(federation, party).handle(request)[64:])
    return inputs


def mutate(data: bytes, source: random.Random) -> bytes:
    mutable = bytearray(data)
    for _ in range(source.randint(1, 4)):
        place = source.randrange(1, len(mutable))
        match source.randrange(4):
            case 0:
                mutable[place] ^= 1 << source.randrange(8)
            case 1:
                del mutable[place : place + source.randint(1, 40)]
            case 2:
                mutable[place:place] = mutable[place : place + source.randint(1, 40)]
            case 3:
                mutable[place] = source.randrange(256)
        if len(mutable) < 2:
            break
    return bytes(mutable)


def main() -> None:
    if sys.argv[1:2] == ["--seeds"]:
        folder = Path(sys.argv[2])
        folder.mkdir(parents=True, exist_ok=True)
        for place, data in enumerate(honest_inputs()):
            (folder / f"honest-{place:02d}").write_bytes(data)
    elif sys.argv[1:2] == ["--random"]:
        source, seeds = random.Random(0), honest_inputs()
        for _ in range(int(sys.argv[2])):
            one_input(mutate(source.choice(seeds), source))
        print(f"{sys.argv[2]} inputs, no crash")
    elif atheris is None:
        raise SystemExit("atheris is not installed: pip install atheris, or use --random N")
    else:
        atheris.Setup(sys.argv, one_input)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
