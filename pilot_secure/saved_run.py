"""A run read back from its folder: configuration, summary, selections, adapters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError
from torch import Tensor

from pilot_secure.config import SimulationConfig
from pilot_secure.config_checks import validate
from pilot_secure.config_file import read_config_file
from pilot_secure.data import ClientData
from pilot_secure.errors import RunFolderError
from pilot_secure.files import told_in_a_sentence
from pilot_secure.run_folder import RunFolder
from pilot_secure.summary import SelectionRecord, Summary

TEXT_ADAPTER_TENSORS = "adapter_model.safetensors"
PERSONAL_FOLDER, REFERENCES = "personal", "references.safetensors"

_ENDS = {
    "running": "is still running or was killed",
    "interrupted": "was interrupted",
    "failed": "failed",
    "finished": "is finished",
}


@dataclass(frozen=True)
class SavedRun:
    """A run folder with its configuration and summary, both checked."""

    folder: RunFolder
    config: SimulationConfig
    summary: Summary

    @classmethod
    def open(cls, path: Path) -> SavedRun:
        """Read a run folder.

        Raises: RunFolderError if it is none; ConfigError if its configuration does not fit.
        """
        folder = RunFolder.open(path)
        if not folder.config_path.is_file():
            raise RunFolderError(f"{path}: expected a run folder, it has no config.yaml.")
        content = read_config_file(folder.config_path)
        config = validate(SimulationConfig, content, file=str(folder.config_path))
        return cls(folder, config, folder.read_summary())

    @property
    def clients(self) -> tuple[str, ...]:
        """The clients' names, in the run's order."""
        return tuple(client.client for client in self.summary.clients)

    def require_adapters(self) -> None:
        """Raises: RunFolderError if the run ended before it saved any adapters."""
        if any(self.folder.adapter_folder(client).is_dir() for client in self.clients):
            return
        reason = f" ({self.summary.reason})" if self.summary.status == "failed" else ""
        raise RunFolderError(
            f"{self.folder.path}: the run {_ENDS[self.summary.status]}{reason} and has no saved "
            "adapters, expected a finished run."
        )

    def require_base(self, sha256: str) -> None:
        """Raises: RunFolderError if the base model as loaded has another hash than the run's."""
        if self.summary.base_sha256 not in (None, sha256):
            raise RunFolderError(
                f"{self.folder.path}: {self.config.model.base} is another base model than the "
                f"run's, its weights have SHA-256 {sha256}, expected {self.summary.base_sha256}."
            )

    def require_data(self, data: Sequence[ClientData]) -> None:
        """Raises: RunFolderError if clients have more or fewer samples than when the run began."""
        began = {c.client: (c.samples, c.test_samples) for c in self.summary.clients}
        for client in data:
            now = len(client.train), len(client.test)
            if began.get(client.name, now) != now:
                raise RunFolderError(
                    f"{self.folder.path}: the data of {client.name} are {now[0]} samples and "
                    f"{now[1]} to test on, expected {began[client.name][0]} and "
                    f"{began[client.name][1]} as when the run began."
                )

    def text_adapter(self, client: str) -> dict[str, Tensor]:
        """A client's LoRA matrices by PEFT's names, on the CPU.

        Raises: RunFolderError if the file is missing or malformed.
        """
        return read_tensors(self.folder.adapter_folder(client) / TEXT_ADAPTER_TENSORS)

    def personal_adapter(self, client: str) -> tuple[dict[str, Tensor], Tensor] | None:
        """A client's second LoRA and its references [S, D]; None for methods without one.

        Raises: RunFolderError if a file is missing or malformed.
        """
        folder = self.folder.adapter_folder(client) / PERSONAL_FOLDER
        if not folder.is_dir():
            return None
        references = read_tensors(folder / REFERENCES)
        if references.keys() != {"references"}:
            raise RunFolderError(f"{folder / REFERENCES}: expected one tensor, `references`.")
        return read_tensors(folder / TEXT_ADAPTER_TENSORS), references["references"]

    def selections(self) -> dict[tuple[int, int, str], SelectionRecord]:
        """The selections of the run's history, by (round, stage, client)."""
        return {
            (record.round, record.stage, record.client): record
            for record in self.folder.history()
            if isinstance(record, SelectionRecord)
        }


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, on the CPU.

    Raises: RunFolderError if it is missing or malformed.
    """
    from safetensors.torch import load

    with told_in_a_sentence(path):
        content = path.read_bytes()
    try:
        return load(content)
    except SafetensorError as error:
        raise RunFolderError(f"{path}: no safetensors file ({error}).") from None
