"""The folder of a run: what it is called, what lies in it, and how it survives a kill.

    config.yaml      the resolved configuration; it repeats the run (with another --out)
    roster.json      the clients' public identities
    escrow.json      every party's secrets, of a run with `insecure_escrow` only
    summary.json     status, scores, costs (`pilot_secure.summary.Summary`)
    ledger.json      releases and their noise, from which epsilon follows (`pilot_secure.privacy`)
    history.jsonl    losses, scores, selections as they come
    transcript.jsonl, heads.jsonl, payloads/, parameters/   messages (`pilot_secure.transcript`)
    adapters/client-NN/              adapters (`pilot_secure.adapter_files`)
    state/           while it goes on, what survives a kill of it (`pilot_secure.run_state`)

A run never writes into a folder that holds something. Secrecy: a simulation's run folder holds
what every party holds.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from pilot_secure.config_file import dump_config
from pilot_secure.errors import RunFolderError, os_sentence
from pilot_secure.files import LineReader, LineWriter, told_in_a_sentence, write_atomically
from pilot_secure.summary import HistoryRecord, Status, Summary, parse_history_record, parse_summary

DEFAULT_PARENT = Path("runs")
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")


class RunFolder:
    """Paths and files of one run. `create` makes a new one, `open` reads one that is there."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._history: LineWriter | None = None

    @classmethod
    def create(cls, out: Path | None, name: str, *, now: datetime | None = None) -> RunFolder:
        """Make the folder `out`, or `runs/<UTC time>-<name>` with a number where that exists.

        Raises: RunFolderError if `out` is a file or a folder that holds something.
        """
        if out is None:
            return cls(_new_default_folder(name, now or datetime.now(UTC)))
        try:
            out.mkdir(parents=True, exist_ok=True)
            entries = sum(1 for _ in out.iterdir())
        except (FileExistsError, NotADirectoryError):
            raise RunFolderError(f"--out is {out}: expected a folder, it is a file.") from None
        except OSError as error:
            raise RunFolderError(f"--out is {os_sentence(error, out)}") from error
        if entries:
            raise RunFolderError(
                f"--out is {out}: expected a new or empty folder, it holds {entries} "
                f"{'entry' if entries == 1 else 'entries'}; a run is never overwritten."
            )
        return cls(out)

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """An existing run folder. Raises: RunFolderError if it has no summary."""
        if not (path / "summary.json").is_file():
            raise RunFolderError(f"{path}: expected a run folder, it has no summary.json.")
        return cls(path)

    @property
    def config_path(self) -> Path:
        """The resolved configuration."""
        return self.path / "config.yaml"

    def adapter_folder(self, client: str) -> Path:
        """Where a client's adapters lie."""
        return self.path / "adapters" / client

    def state_folder(self, client: str) -> Path:
        """Where a client keeps what it must not forget; whoever writes there makes it, 0700."""
        return self.path / "state" / client

    def write_config(self, config: BaseModel, *, command: str) -> None:
        """Write the resolved configuration under a comment with the command of the run."""
        comment = f"The configuration of this run, defaults included; made by\n{command}"
        write_atomically(self.config_path, dump_config(config, comment).encode())

    def write_json(self, name: str, content: Any) -> None:
        """Write a JSON file such as `roster.json`: a pydantic model or plain values."""
        plain = content.model_dump(mode="json") if isinstance(content, BaseModel) else content
        text = json.dumps(plain, indent=2, ensure_ascii=False) + "\n"
        write_atomically(self.path / name, text.encode())

    def write_secret(self, name: str, content: BaseModel) -> None:
        """Write a JSON file that its owner alone may read."""
        write_atomically(self.path / name, content.model_dump_json(indent=2).encode(), mode=0o600)

    def write_summary(self, summary: Summary) -> None:
        """Replace `summary.json`."""
        write_atomically(self.path / "summary.json", summary.to_json())

    def read_summary(self) -> Summary:
        """The summary. Raises: RunFolderError if it is missing or malformed."""
        path = self.path / "summary.json"
        with told_in_a_sentence(path):
            content = path.read_bytes()
        try:
            return parse_summary(content)
        except ValueError as error:
            reason = " ".join(str(error).split())
            raise RunFolderError(f"{path}: no valid summary ({reason}).") from None

    def append_history(self, record: HistoryRecord) -> None:
        """Add a line to `history.jsonl`."""
        if self._history is None:
            path = self.path / "history.jsonl"
            self._history = LineWriter(path, go_on=path.exists())
        self._history.append(record.model_dump_json())

    def history(self) -> LineReader[HistoryRecord]:
        """The history's records; `.note` says afterwards whether a last line was cut."""
        return LineReader(self.path / "history.jsonl", parse_history_record)

    def history_so_far(self) -> Iterator[HistoryRecord]:
        """The records of a run that was killed; none in a new folder."""
        return iter(self.history() if (self.path / "history.jsonl").exists() else ())

    @contextlib.contextmanager
    def recording(self, current: Callable[[], Summary]) -> Iterator[None]:
        """Keep `summary.json` true around a run: running, then how it ended and why.

        `current` builds the summary of what is known so far; its status and reason are
        replaced. Errors pass through; where the last summary cannot be written either, the
        first error is the one raised.
        """
        self.write_summary(_with_status(current(), "running"))
        try:
            yield
        except KeyboardInterrupt:
            self._write_last(_with_status(current(), "interrupted", "interrupted by the user"))
            raise
        except Exception as error:
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            self._write_last(_with_status(current(), "failed", reason))
            raise
        self.close()
        self.write_summary(_with_status(current(), "finished"))

    def _write_last(self, summary: Summary) -> None:
        with contextlib.suppress(RunFolderError):
            self.write_summary(summary)
        with contextlib.suppress(RunFolderError):
            self.close()

    def close(self) -> None:
        """Close what is open; later reads still work."""
        history, self._history = self._history, None
        if history is not None:
            history.close()


def _with_status(summary: Summary, status: Status, reason: str | None = None) -> Summary:
    return summary.model_copy(update={"status": status, "reason": reason})


def _new_default_folder(name: str, now: datetime) -> Path:
    stem = f"{now.astimezone(UTC):%Y%m%d-%H%M%S}-{_UNSAFE.sub('-', name).strip('-.') or 'run'}"
    number, path = 1, DEFAULT_PARENT / stem
    while True:
        try:
            path.mkdir(parents=True)
            return path
        except FileExistsError:
            number += 1
            path = DEFAULT_PARENT / f"{stem}-{number}"
        except OSError as error:
            raise RunFolderError(os_sentence(error, path)) from error
