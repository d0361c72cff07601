"""The echo clients behind a Flower deployment on this machine: its two apps, and who starts it."""

from __future__ import annotations

import io
import json
import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from unittest.mock import patch

from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from rich.console import Console

from benchmarks.echo import Figures, Plan, measure
from pilot_secure.engines.flower import FlowerTransport, pack, unpack
from pilot_secure.flower import loopback
from pilot_secure.flower.credentials import make_credentials

APP = Path(__file__).parent / "echo_app"
PLAN, FIGURES = "plan.json", "figures.json"

client, server = ClientApp(), ServerApp()


@client.query()
def answer(message: Message, context: Context) -> Message:
    """Send the frame back."""
    return Message(pack(unpack(message.content)), reply_to=message)


@server.main()
def main(grid: Grid, context: Context) -> None:
    """Wait for the nodes, measure, and write what was found."""
    out = Path(str(context.run_config["out"]))
    plan = Plan(**json.loads((out / PLAN).read_text()))
    while len(nodes := _nodes(grid)) < plan.clients:
        time.sleep(0.5)
    names = [str(node) for node in nodes]
    found = measure(FlowerTransport(grid, dict(zip(names, nodes, strict=True))), names, plan)
    (out / FIGURES).write_text(json.dumps(asdict(found)))


def _nodes(grid: Grid) -> Sequence[int]:
    return sorted(grid.get_node_ids())


def measured_by_flower(plan: Plan) -> Figures:
    """Deploy a SuperLink and a SuperNode for each client, and return what its server measured."""
    root = str(Path(__file__).parents[1])  # where every node finds this file
    with tempfile.TemporaryDirectory() as folder, patch.dict(os.environ, PYTHONPATH=root):
        place = Path(folder)
        for name in plan.names:
            (place / "parties" / name).mkdir(parents=True)
        make_credentials(place / "credentials", plan.names)
        (place / PLAN).write_text(json.dumps(asdict(plan)))
        begun = time.perf_counter()
        quiet = Console(file=io.StringIO())
        with patch.object(loopback, "APP", APP), loopback.deployed(place, quiet) as deployment:
            started = time.perf_counter() - begun
            deployment.run(place)
            if not (place / FIGURES).exists():
                raise RuntimeError(deployment.log("run").read_text())
        found = json.loads((place / FIGURES).read_text())
    return Figures(found["small_s"], found["bytes_per_s"], started)
