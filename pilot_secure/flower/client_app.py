"""The ClientApp: one message in, one reply out; what a client is lies in its party's folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from pilot_secure.engines.flower import pack, unpack, unpack_phase
from pilot_secure.flower.party import Party
from pilot_secure.flower.party_folder import ROSTER, PartyFolder
from protocols import Roster


def party_of(context: Context) -> Party:
    """Return the party of this node.

    A SuperNode's own configuration names its folder (``party``). The simulation engine's nodes
    have numbers, which stand for the roster's order in the run's folder of ``parties``.
    Raises: ValueError if neither is given.
    """
    own = context.node_config.get("party")
    if own:
        return Party(PartyFolder(Path(str(own))))
    partition: Any = context.node_config.get("partition-id")
    if partition is None:
        raise ValueError("this node has no party: expected --node-config 'party=\"FOLDER\"'")
    parties = Path(str(context.run_config["parties"]))
    roster = Roster.model_validate_json((parties / "server" / ROSTER).read_bytes())
    return Party(PartyFolder(parties / node_names(roster)[int(partition)]))


def node_names(roster: Roster) -> list[str]:
    """Return who has a node, in order: the clients."""
    return [entry.name for entry in roster.clients]


def answer(message: Message, context: Context) -> Message:
    """Answer one phase of the run."""
    content = message.content
    reply, metrics = party_of(context).handle(unpack_phase(content), unpack(content))
    return Message(pack(reply, metrics=metrics), reply_to=message)


app = ClientApp()
"""What `pilot_secure/flower/app/pyproject.toml` names."""

for _kind in (app.train(), app.evaluate(), app.query()):
    _kind(answer)
