"""What a party must not forget if it is killed, in one file that is replaced at once.

A file holds plain containers, arrays, tensors and the classes of this project, torch and
transformers. What is the same in every process (identities, the model, the guard) is left out by
name and put back by whoever reads. Reading calls nothing but such classes and the few functions
that rebuild arrays; all the same, go on with a run folder only if it is yours.

Secrecy: the party's own; files are for their owner's eyes (0600) and are deleted with the run's
end.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import os
import pickle
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np

from pilot_secure import __version__
from pilot_secure.errors import RunFolderError
from pilot_secure.files import UNFINISHED, told_in_a_sentence
from protocols import ClientInputs

if TYPE_CHECKING:
    from torch import Tensor, nn

_KIND = b"pilot-secure checkpoint "
_HEAD = _KIND + __version__.encode() + b"\n"
_BLOCK = 1 << 20
_UNREADABLE = (
    pickle.UnpicklingError,
    EOFError,
    LookupError,
    ValueError,
    AttributeError,
    ImportError,
    TypeError,
)
"""What pickle raises for content that the code at hand does not know."""

_CLASSES_OF = ("pilot_secure", "protocols", "torch.nn", "transformers", "numpy", "collections")
_CLASSES = {
    ("builtins", name)
    for name in ("set", "frozenset", "dict", "list", "tuple", "bytearray", "complex", "object")
} | {("random", "Random"), ("datetime", "datetime"), ("datetime", "timezone")}
_FUNCTIONS = {
    ("copyreg", "_reconstructor"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "scalar"),
    ("numpy._core.numeric", "_frombuffer"),
    ("pilot_secure.federation.checkpoint", "_tensor"),
    ("pilot_secure.federation.checkpoint", "_parameter"),
    ("protocols.storage", "allocate_in_memory"),
    ("protocols.ckks_check", "ring_for"),
}
_ACTIVATIONS_OF = ("torch._C._nn", "torch.nn.functional")


class Remembering(Protocol):
    """An object part of whose attributes outlive the process; ``remembered`` names them."""

    remembered: ClassVar[tuple[str, ...]]


def memory_of(party: Remembering) -> dict[str, Any]:
    """Return what an object must not forget, by attribute."""
    return {name: getattr(party, name) for name in party.remembered}


def recall(party: Remembering, memory: Mapping[str, Any]) -> None:
    """Put a memory back. Raises: KeyError if it lacks an attribute."""
    for name in party.remembered:
        setattr(party, name, memory[name])


def save(
    path: Path, content: Any, left_out: Mapping[str, object] | None = None, *, durable: bool = True
) -> None:
    """Replace a file by this content; ``left_out`` names objects that are not written.

    If ``durable``, it is on the disk when this returns; otherwise a kill cannot lose it, a cut of
    power can. Raises: RunFolderError.
    """
    with told_in_a_sentence(path):
        for folder in (path.parent.parent, path.parent):
            folder.mkdir(mode=0o700, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(UNFINISHED, ".", path.parent)  # mode 0600
        try:
            with os.fdopen(descriptor, "wb") as file:
                hashed = _Hashed(file)
                hashed.write(_HEAD)
                _Pickler(hashed, left_out or {}).dump(content)
                file.write(hashed.digest())
                if durable:
                    file.flush()
                    os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)
            raise
        if durable:
            above = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(above)
            finally:
                os.close(above)


def load(path: Path, left_out: Mapping[str, object] | None = None) -> Any:
    """Read what `save` wrote, with the objects that were left out, by their names.

    Raises: RunFolderError if it is missing, damaged, or not what this version has written.
    """
    with told_in_a_sentence(path):
        file = path.open("rb")
    with file:
        with told_in_a_sentence(path):
            _require_whole(path, file)
            file.seek(len(_HEAD))
        try:
            return _Unpickler(file, left_out or {}).load()
        except _UNREADABLE as error:
            raise RunFolderError(f"{path}: no checkpoint of this version ({error}).") from None


def _require_whole(path: Path, file: IO[bytes]) -> None:
    """Raises: RunFolderError if the file is of another kind or version, or was changed."""
    head = file.readline(len(_KIND) + 100)
    if not head.startswith(_KIND):
        raise RunFolderError(f"{path}: expected a checkpoint, it is damaged or something else.")
    if head != _HEAD:
        version = head.removeprefix(_KIND).decode(errors="replace").strip()
        raise RunFolderError(
            f"{path}: expected a checkpoint of version {__version__}, it is of {version}; a run "
            "goes on with the version that began it."
        )
    left = os.fstat(file.fileno()).st_size - len(head) - hashlib.sha256().digest_size
    found = hashlib.sha256(head)
    while left > 0 and (block := file.read(min(left, _BLOCK))):
        found.update(block)
        left -= len(block)
    if file.read() != found.digest():
        raise RunFolderError(f"{path}: the checkpoint is damaged, its hash does not fit.")


def delete(folder: Path, pattern: str) -> None:
    """Delete the checkpoints whose names fit. Raises: RunFolderError."""
    for path in folder.glob(pattern):
        with told_in_a_sentence(path):
            path.unlink(missing_ok=True)


class _Hashed:
    """Writes to a file and hashes what is written."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._hash = file, hashlib.sha256()

    def write(self, data: Any) -> int:
        self._hash.update(data)
        return self._file.write(data)

    def digest(self) -> bytes:
        return self._hash.digest()


class _Pickler(pickle.Pickler):
    def __init__(self, file: Any, left_out: Mapping[str, object]) -> None:
        super().__init__(file, protocol=5)
        self._names = {id(value): name for name, value in left_out.items()}
        self._left_out = left_out  # keeps the ids valid

    def persistent_id(self, obj: Any) -> str | None:
        return self._names.get(id(obj))

    def reducer_override(self, obj: Any) -> Any:
        torch = sys.modules.get("torch")  # without it there are no tensors
        if torch is not None and isinstance(obj, torch.nn.Parameter):
            return _parameter, (_array(obj), str(obj.dtype), obj.requires_grad)
        if torch is not None and isinstance(obj, torch.Tensor):
            return _tensor, (_array(obj), str(obj.dtype))
        if isinstance(obj, ClientInputs):  # once uploaded, the vectors are not needed again
            return ClientInputs, ({}, obj.num_samples, obj.previous_results)
        return NotImplemented


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: Any, left_out: Mapping[str, object]) -> None:
        super().__init__(file)
        self._left_out = left_out

    def persistent_load(self, pid: Any) -> object:
        return self._left_out[pid]

    def find_class(self, module: str, name: str) -> Any:
        """Return a class of the known kinds or a listed function; nothing else is ever called."""
        listed, activation = (module, name) in _CLASSES | _FUNCTIONS, module in _ACTIVATIONS_OF
        known = any(module == root or module.startswith(f"{root}.") for root in _CLASSES_OF)
        if listed or known or activation:
            found: Any = importlib.import_module(module)
            for part in name.split("."):
                found = getattr(found, part)
            if listed or isinstance(found, type) or (activation and callable(found)):
                return found
        raise pickle.UnpicklingError(f"{module}.{name} has no place in a checkpoint")


def _array(tensor: Tensor) -> np.ndarray:
    """A tensor's bytes, on the CPU, in its shape with the bytes of an element last."""
    import torch

    plain = tensor.detach().cpu().contiguous()
    return plain.reshape(*plain.shape, 1).view(torch.uint8).numpy()


def _tensor(array: np.ndarray, dtype: str) -> Tensor:
    import torch

    kind: torch.dtype = getattr(torch, dtype.removeprefix("torch."))
    return torch.from_numpy(array.copy()).view(kind).reshape(array.shape[:-1])


def _parameter(array: np.ndarray, dtype: str, requires_grad: bool) -> nn.Parameter:
    from torch import nn

    return nn.Parameter(_tensor(array, dtype), requires_grad=requires_grad)
