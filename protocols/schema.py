"""What the specification shows, generated: ``python -m protocols.schema [--diagrams]``.

Without an option: JSON Schema of everything that is sent or recorded. With ``--diagrams``: the
state diagrams drawn from the transition tables.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from typing import Literal, get_args

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from protocols.any_message import Kinds
from protocols.identity import Roster
from protocols.leakage import LeakageReport
from protocols.messages import Message
from protocols.parameters import AggregationParameters
from protocols.states import CLIENT, HOLDER, SERVER_PHASES, diagram
from protocols.transcript import TranscriptHead, TranscriptRecord

_ABOUT = "Print the JSON Schema of everything that is sent or recorded."


def message_models() -> list[type[Message]]:
    """Return the models of all messages, in the order in which they are first sent."""
    return list(get_args(Kinds))


def schema() -> dict[str, object]:
    """Return one JSON Schema document with a definition per message and record.

    Byte strings are CBOR byte strings on the wire; in JSON Schema they appear as ``binary``.
    """
    models: list[type[BaseModel]] = [
        *message_models(),
        AggregationParameters,
        Roster,
        TranscriptRecord,
        TranscriptHead,
        LeakageReport,
    ]
    inputs: list[tuple[type[BaseModel], Literal["validation", "serialization"]]] = [
        (model, "validation") for model in models
    ]
    _keys, document = models_json_schema(inputs, title="pilot-secure aggregation, version 1")
    return document


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return 0. A wrong option ends it with 2, after one sentence."""
    parser = argparse.ArgumentParser(prog="python -m protocols.schema", description=_ABOUT)
    parser.add_argument("--diagrams", action="store_true", help="the state diagrams instead")
    if parser.parse_args(arguments).diagrams:
        for table in (CLIENT, SERVER_PHASES, HOLDER):
            sys.stdout.write(diagram(table) + "\n\n")
    else:
        sys.stdout.write(json.dumps(schema(), indent=2, sort_keys=True) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
