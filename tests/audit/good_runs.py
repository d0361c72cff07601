"""Small good runs of several kinds, recorded from the machines in one process."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from in_process import Federation
from recorded import RecordedRun

from protocols import Entropy
from protocols.escrow import Escrow, escrowed_entropy

NINE = {"sketch_size": 64}
SIX = {"sketch_size": 64, "max_colluders": 0, "min_contributors": 2, "num_neighbours": 3}

MASTER = b"a master secret of thirty-two B."


class EscrowedFederation(Federation):
    """Parties whose clients draw from an escrow, so that an auditor can repeat it."""

    def __post_init__(self) -> None:
        self.entropy = self.escrowed
        super().__post_init__()

    def escrowed(self, label: str) -> Entropy:
        return escrowed_entropy(MASTER, label.rpartition("/")[2], self.parameters)

    def escrow(self) -> Escrow:
        people = [self.server_identity, *self.identities.values()]
        people += [self.holder_identity] if self.holder_identity else []
        return Escrow(
            run_id="run-1",
            master=b64encode(MASTER),
            identities={person.name: b64encode(person.secret()) for person in people},
        )


DropOuts = Mapping[str, set[str]]


def make_good_run(
    folder: Path,
    *,
    count: int = 9,
    rounds: int = 2,
    keep_payloads: bool = True,
    drop_before: DropOuts | None = None,
    late_in: DropOuts | None = None,
    plain: bool = False,
    **options: object,
) -> Path:
    """Record rounds of honest parties; drop-outs happen in the last of them."""
    base = {} if plain else NINE if count == 9 else SIX
    federation = EscrowedFederation(count=count, plain=plain, options={**base, **options})
    run = RecordedRun(folder, keep_payloads=keep_payloads)
    for number in range(1, rounds + 1):
        if number > 1:
            take_home(federation)
            federation.start(round=number)
        last = number == rounds
        drops = drop_before if last else None
        late = late_in if last else None
        run.aggregate(federation, drop_before=drops, late_in=late)
    (folder / "escrow.json").write_text(federation.escrow().model_dump_json())
    return run.finish(federation)


def take_home(federation: Federation) -> None:
    """Give every client the hash of what was accepted, as the next aggregation asks for."""
    results = [c.result for c in federation.clients.values() if c.result is not None]
    for name, inputs in federation.inputs.items():
        federation.inputs[name] = replace(inputs, previous_results=results[0].results_hash)
