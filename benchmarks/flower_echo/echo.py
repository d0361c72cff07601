"""Both ends of a round trip by engine `flower`: see benchmarks/flower_transport.py."""

import json
import time
from pathlib import Path

from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from pilot_secure.engines import PhaseKey
from pilot_secure.engines.flower import FlowerTransport, await_nodes, pack, unpack

TIMEOUT_S = 600.0

client = ClientApp()
server = ServerApp()  # each on its own line: Flower looks for them in the source


@client.query()
def echo(message: Message, context: Context) -> Message:
    """Send a frame back."""
    return Message(pack(unpack(message.content)), reply_to=message)


@server.main()
def main(grid: Grid, context: Context) -> None:
    """Time frames of each size to all nodes and back."""
    settings = context.run_config
    nodes = await_nodes(grid, int(settings["nodes"]), TIMEOUT_S)
    transport = FlowerTransport(grid, {str(node): node for node in nodes})
    seconds: dict[str, list[float]] = {}
    for size in str(settings["sizes"]).split():
        for repeat in range(int(settings["repeats"]) + 1):
            requests = {str(node): node.to_bytes(8, "big") * (int(size) // 8) for node in nodes}
            start = time.perf_counter()
            replies = transport.exchange(PhaseKey("echo", repeat, 1), requests, TIMEOUT_S)
            if replies != requests:
                raise RuntimeError("a frame came back changed, or not at all")
            if repeat:  # the first warms caches up
                seconds.setdefault(size, []).append(time.perf_counter() - start)
    Path(str(settings["out"])).write_text(json.dumps({"nodes": len(nodes), "seconds": seconds}))
