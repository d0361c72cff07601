"""Create identities and pin them: ``python -m protocols.identity_command``.

::

    umask 077
    python -m protocols.identity_command new server > server.json
    python -m protocols.identity_command new client-01 > client-01.json
    cat server.json client-*.json | python -m protocols.identity_command roster > roster.json

``new`` prints one line of JSON with the secret key; only the party itself may read it. ``roster``
reads such lines (the secret may be removed first) and prints the public roster: the server, the
clients in the order given, which fixes their coordinates in secret sharing, and the party named
``key-holder`` if there is one (needed by ``distance_trust: key_holder`` only).
"""

from __future__ import annotations

import argparse
import base64
import json
import sys
from collections.abc import Iterable, Sequence

from pydantic import ValidationError

from protocols.entropy import Entropy
from protocols.errors import ParameterError
from protocols.identity import KEY_HOLDER, SERVER, Identity, Roster, RosterEntry

EXPECTED = "expected a line of JSON with a name and keys, as `new` prints it"
_NAMES = "lower-case letters, digits, `_`, `.` and `-`, at most 64, a letter or digit first"
_FORMS = {"name": _NAMES, "public_key": "32 bytes in base64"}


def identity_line(identity: Identity) -> str:
    """Return an identity as one line of JSON. Secrecy: the party alone."""
    return json.dumps(
        {
            "name": identity.name,
            "public_key": base64.b64encode(identity.public_key()).decode(),
            "secret_key": base64.b64encode(identity.secret()).decode(),
        }
    )


def identity_from_line(line: str) -> Identity:
    """Return the identity that :func:`identity_line` wrote.

    Raises:
        ParameterError: the line is no identity, or its keys do not belong together.
    """
    try:
        fields = json.loads(line)
        secret = base64.b64decode(fields["secret_key"], validate=True)
        identity = Identity.from_secret(fields["name"], secret)
        public = base64.b64decode(fields["public_key"], validate=True)
    except (ValueError, KeyError, TypeError, RecursionError):
        raise ParameterError(f"not an identity: {EXPECTED}") from None
    if identity.public_key() != public:
        raise ParameterError(f"identity {identity.name}: the keys do not belong together")
    return identity


def roster_from_lines(lines: Iterable[str]) -> Roster:
    """Return the roster of identity lines, of which only name and public key are read.

    Raises:
        ParameterError: a line that is no identity (its number is told), no server or no client, or
            names or keys that repeat.
    """
    entries = [_entry(number, line) for number, line in enumerate(lines, start=1) if line.strip()]
    servers = [entry for entry in entries if entry.name == SERVER]
    holders = [entry for entry in entries if entry.name == KEY_HOLDER]
    clients = tuple(entry for entry in entries if entry.name not in (SERVER, KEY_HOLDER))
    if len(servers) != 1:
        raise ParameterError(f"a roster has one party named {SERVER!r}, not {len(servers)}")
    if len(holders) > 1:
        raise ParameterError(f"a roster has at most one party named {KEY_HOLDER!r}")
    if not clients:
        raise ParameterError("a roster has at least one client")
    try:
        holder = holders[0] if holders else None
        return Roster(server=servers[0], clients=clients, key_holder=holder)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        raise ParameterError(f"roster: {first['msg'].removeprefix('Value error, ')}") from None


def _entry(number: int, line: str) -> RosterEntry:
    """Return the party of one line. Raises: ParameterError."""
    try:
        fields = json.loads(line)
        return RosterEntry(name=fields["name"], public_key=fields["public_key"])
    except ValidationError as error:
        wrong = "name" if error.errors()[0]["loc"] == ("name",) else "public_key"
        told = f"{wrong} is {json.dumps(fields[wrong])[:100]}: expected {_FORMS[wrong]}"
        raise ParameterError(f"roster, line {number}: {told}") from None
    except (ValueError, KeyError, TypeError, RecursionError):
        raise ParameterError(f"roster, line {number}: not an identity: {EXPECTED}") from None


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return 0, or 2 after one sentence about what was wrong."""
    parser = argparse.ArgumentParser(prog="python -m protocols.identity_command")
    commands = parser.add_subparsers(dest="command", required=True)
    new = commands.add_parser("new", help="print a new identity, secret key included")
    new.add_argument("name")
    commands.add_parser("roster", help="read identities from stdin, print the public roster")
    options = parser.parse_args(arguments)
    try:
        if options.command == "new":
            RosterEntry.model_validate({"name": options.name, "public_key": b"A" * 43 + b"="})
            sys.stdout.write(identity_line(Identity.generate(options.name, Entropy())) + "\n")
        else:
            roster = roster_from_lines(sys.stdin)
            sys.stdout.write(roster.model_dump_json(indent=2) + "\n")
    except ValidationError:
        sys.stderr.write(f"name is {options.name!r}: expected {_NAMES}\n")
        return 2
    except UnicodeDecodeError:
        sys.stderr.write("roster: expected identities on stdin, in UTF-8\n")
        return 2
    except ParameterError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
