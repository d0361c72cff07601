"""The transition tables of all parties: what is not in them is a typed error.

A client answers one request in each state and moves on; there is no way back, so no request can
be answered twice. What is too long for one frame goes in parts: then a state is kept, and each part
has a number that is due once. Without such vectors the rows of parts are not used. An authenticated
request that breaks a rule ends the attempt (``failed``). A frame that is not the server's, or that
the present state does not take, changes nothing.

``when`` says which attempts a row belongs to: those with selected sums measure distances, under
peer or key-holder trust; the others go from the shares straight to the plan.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

When = Literal["always", "with distances", "without distances", "peer", "key_holder"]
Distances = Literal["none", "peer", "key_holder"]


@dataclass(frozen=True)
class Transition:
    """In ``state``, ``event`` leads to ``next`` and is answered by ``reply``."""

    state: str
    event: str
    next: str
    reply: str
    when: When = "always"


CLIENT: tuple[Transition, ...] = (
    Transition("idle", "advertise_request", "advertised", "advertisement"),
    Transition("advertised", "advertisements", "shared", "encrypted_shares"),
    Transition("shared", "plan", "uploaded", "masked_input", "without distances"),
    Transition("shared", "plan", "uploading", "masked_part", "without distances"),
    Transition("shared", "distance_call", "sketched", "distance_upload", "peer"),
    Transition("sketched", "distance_uploads", "replied", "distance_replies", "peer"),
    Transition("replied", "distance_delivery", "selected", "selection", "peer"),
    Transition("shared", "blinded_call", "blinded", "blinded_upload", "key_holder"),
    Transition("blinded", "row_delivery", "selected", "selection", "key_holder"),
    Transition("selected", "plan", "uploaded", "masked_input", "with distances"),
    Transition("selected", "plan", "uploading", "masked_part", "with distances"),
    Transition("uploading", "part_request", "uploading", "masked_part"),
    Transition("uploading", "part_request", "uploaded", "masked_input"),
    Transition("uploaded", "survivor_set", "confirmed", "consistency"),
    Transition("confirmed", "unmask_request", "answered", "unmask_shares"),
    Transition("answered", "delivery_part", "receiving", "part_taken"),
    Transition("receiving", "delivery_part", "receiving", "part_taken"),
    Transition("answered", "delivery", "finished", "receipt"),
    Transition("receiving", "delivery", "finished", "receipt"),
)

SERVER_PHASES: tuple[Transition, ...] = (
    Transition("advertise", "advertisement", "share", "advertise_request"),
    Transition("share", "encrypted_shares", "masked_input", "advertisements", "without distances"),
    Transition("share", "encrypted_shares", "distance_upload", "advertisements", "with distances"),
    Transition("share", "holder_keys", "distance_upload", "advertisements", "key_holder"),
    Transition("distance_upload", "distance_upload", "distance_reply", "distance_call", "peer"),
    Transition("distance_reply", "distance_replies", "select", "distance_uploads", "peer"),
    Transition("select", "selection", "masked_input", "distance_delivery", "peer"),
    Transition(
        "distance_upload", "blinded_upload", "distance_release", "blinded_call", "key_holder"
    ),
    Transition("distance_release", "distance_release", "select", "release_request", "key_holder"),
    Transition("select", "selection", "masked_input", "row_delivery", "key_holder"),
    Transition("masked_input", "masked_part", "masked_input", "plan"),
    Transition("masked_input", "masked_part", "masked_input", "part_request"),
    Transition("masked_input", "masked_input", "consistency", "part_request"),
    Transition("masked_input", "masked_input", "consistency", "plan"),
    Transition("consistency", "consistency", "unmask", "survivor_set"),
    Transition("unmask", "unmask_shares", "deliver", "unmask_request"),
    Transition("deliver", "part_taken", "deliver", "delivery_part"),
    Transition("deliver", "receipt", "finished", "delivery"),
)

HOLDER: tuple[Transition, ...] = (
    Transition("idle", "advertisements", "keyed", "holder_keys", "key_holder"),
    Transition("keyed", "release_request", "released", "distance_release", "key_holder"),
)


def applies(row: Transition, distances: Distances) -> bool:
    """Return whether a row belongs to attempts that measure distances in this way."""
    match row.when:
        case "always":
            return True
        case "with distances":
            return distances != "none"
        case "without distances":
            return distances == "none"
        case _:
            return row.when == distances


def find(
    table: tuple[Transition, ...], state: str, event: str, distances: Distances
) -> Transition | None:
    """Return the row for an event in a state, or None."""
    for row in table:
        if row.state == state and row.event == event and applies(row, distances):
            return row
    return None


def diagram(table: tuple[Transition, ...]) -> str:
    """Return the table as a Mermaid state diagram, for the specification."""
    lines = ["stateDiagram-v2", f"    [*] --> {table[0].state}"]
    for row in table:
        note = "" if row.when == "always" else f" ({row.when.replace('_', ' ')})"
        lines.append(f"    {row.state} --> {row.next}: {row.event} / {row.reply}{note}")
    final = {row.next for row in table} - {row.state for row in table}
    lines.extend(f"    {state} --> [*]" for state in sorted(final))
    return "\n".join(lines)
