"""What needs which libraries: protocols none of the model's, help none of the slow ones."""

from __future__ import annotations

import subprocess
import sys

BLOCKED = ("torch", "transformers", "peft", "accelerate", "datasets", "opacus")
_BLOCK = f"""
import importlib, pkgutil, sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {BLOCKED!r}:
            raise ImportError(f"{{name}} is blocked")
        return None

sys.meta_path.insert(0, Blocked())
"""


def run(code: str) -> str:
    """The standard output of a fresh interpreter in which the model libraries cannot load."""
    command = [sys.executable, "-c", _BLOCK + code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_block_blocks() -> None:
    code = "\ntry:\n    import torch\nexcept ImportError as error:\n    print(error)"
    assert run(code) == "torch is blocked\n"


def test_protocols_need_no_model_library() -> None:
    code = """
import protocols
names = [module.name for module in pkgutil.walk_packages(protocols.__path__, "protocols.")]
for name in names:
    importlib.import_module(name)
print(len(names), *(name for name in sys.modules if name.startswith("pilot_secure")))
"""
    count, *ours = run(code).split()
    assert int(count) > 25
    assert ours == []


def test_a_protocol_runs_without_model_libraries() -> None:
    """Not only importable: shares, masks and distances compute."""
    code = """
import numpy as np
from protocols import SERVER, Identity, Roster, AggregationClient, AggregationParameters
from protocols import AggregationServer, ClientInputs, Entropy, MemoryGuard, SumSpec
names = ("a", "b", "c")
people = {name: Identity.generate(name, Entropy()) for name in (SERVER, *names)}
roster = Roster.of(people[SERVER], [people[name] for name in names])
parameters = AggregationParameters.build(
    run_id="run", round=1, stage=1, roster=roster.digest(), cohort=names,
    sums=(SumSpec(id="all", vector="v", recipient=SERVER, contributors=names),),
    vector_lengths={"v": 2}, clip={"v": 1.0}, max_samples=4, threshold=3,
)
server = AggregationServer(parameters, people[SERVER], Entropy(), roster=roster)
clients = {
    name: AggregationClient(
        parameters, people[name],
        ClientInputs({"v": {"x": np.array([0.25, place / 4], np.float32)}}, num_samples=place + 1),
        Entropy(), roster=roster, guard=MemoryGuard())
    for place, name in enumerate(names)
}
while not server.done:
    server.receive({name: clients[name].handle(r) for name, r in server.requests().items()})
print(*np.round(server.report.means["all"], 3))
"""
    assert run(code).split() == ["0.25", "0.333"]  # (1·0 + 2·1/4 + 3·2/4) / 6


def test_a_client_takes_part_in_an_aggregation_without_model_libraries() -> None:
    """What a client does between trainings, and what it keeps of it on disk."""
    code = """
import tempfile, pathlib
import numpy as np
from pilot_secure.engines import PhaseKey
from pilot_secure.federation import checkpoint
from pilot_secure.federation.guard import DiskGuard
from pilot_secure.federation.journal import RelayedJournal
from pilot_secure.federation.participant import Briefing, Participant
from protocols import SERVER, Identity, Roster, AggregationParameters
from protocols import AggregationServer, ClientInputs, Entropy, SumSpec
names = ("a", "b", "c")
people = {name: Identity.generate(name, Entropy()) for name in (SERVER, *names)}
roster = Roster.of(people[SERVER], [people[name] for name in names])
parameters = AggregationParameters.build(
    run_id="run", round=1, stage=1, roster=roster.digest(), cohort=names,
    sums=tuple(
        SumSpec(id=f"text.{name}", vector="v", recipient=name, contributors="selected")
        for name in names
    ),
    vector_lengths={"v": 2}, clip={"v": 1.0}, max_samples=4, threshold=3, num_neighbours=2,
)
folder = pathlib.Path(tempfile.mkdtemp())
server = AggregationServer(parameters, people[SERVER], Entropy(), roster=roster)
notes, results = [], {}

def answer(name, request):
    vectors = {"v": {"x": np.array([0.25, names.index(name) / 4], np.float32)}}
    briefing = Briefing(parameters, ClientInputs(vectors, num_samples=1))
    guard = DiskGuard(folder / name)
    party = Participant(people[name], roster, guard, RelayedJournal(notes.append), max_attempts=2)
    same = {"identity": people[name], "roster": roster, "inputs": briefing.inputs, "guard": guard}
    kept = folder / f"state-{name}"
    if kept.exists():
        checkpoint.recall(party, checkpoint.load(kept, same))
    phase = PhaseKey(server.phase, 1, 1)
    reply = party.handle(phase, request, briefing.of_attempt)
    checkpoint.save(kept, checkpoint.memory_of(party), same)
    results[name] = party.result
    return reply

while not server.done:
    server.receive({name: answer(name, request) for name, request in server.requests().items()})
print(*np.round(results["a"].sealed.vector_sum / results["a"].sealed.sum_nu, 2))
print(len(notes) > 0, "torch" in sys.modules)
"""
    (first, second), (noted, torch) = (line.split() for line in run(code).splitlines())
    assert first == "0.25" and 0.25 < float(second) < 0.5  # b and c, the nearer weighing more
    assert (noted, torch) == ("True", "False")


def test_a_party_with_a_process_for_each_message_loads_model_libraries_for_training_alone() -> None:
    code = """
import pilot_secure.flower.party
import pilot_secure.flower.terms  # at its enrolment
print(sorted(name for name in ("torch", "flwr", "datasets") if name in sys.modules))
"""
    assert run(code) == "[]\n"


def test_a_ledger_is_recomputed_without_model_libraries() -> None:
    code = """
from pilot_secure.privacy import ClientLedger, DpSgd, Ledger, recompute
release = DpSgd(
    round=1, stage=1, sampling="poisson", sampling_rate=0.125, noise_multiplier=2.0,
    clipping_norm=1.0, steps=8,
)
entry = ClientLedger(client="a", task="t", num_examples=64, releases=(release,))
ledger = Ledger(unit="example", adjacency="zero_out", delta=1e-3, clients=(entry,))
print(round(recompute(ledger)["a"].epsilon, 2))
"""
    assert 0.3 < float(run(code)) < 1.5


def test_help_and_mistakes_come_without_torch() -> None:
    code = """
import contextlib, io
from pilot_secure.simulate import main
try:
    main(["--help"])
except SystemExit as left:
    assert left.code == 0
with contextlib.redirect_stderr(io.StringIO()) as told:
    assert main(["--rounds", "0"]) == 2
print(told.getvalue())
print(sorted(name for name in sys.modules if name in ("torch", "transformers", "tenseal")))
"""
    printed = run(code)
    assert "--secure-agg" in printed
    assert "--num-neighbours" in printed
    assert "error: --rounds is 0" in printed
    assert printed.endswith("[]\n")


def test_the_auditor_needs_no_model_library_and_no_yaml() -> None:
    code = """
sys.modules["yaml"] = None
import pilot_secure.audit
for module in pkgutil.walk_packages(pilot_secure.audit.__path__, "pilot_secure.audit."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
from pilot_secure.audit.__main__ import main
print(main(["verify", "/none"]))
"""
    assert run(code).split() == ["2"]
