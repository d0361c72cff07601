"""A pickle of plain data is read; one that would run code is refused, and runs none."""

from __future__ import annotations

import contextlib
import copyreg
import datetime
import os
import pickle
import resource
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pilot_secure.data.public.plain_pickle import read_plain_pickle
from pilot_secure.errors import DataError

PLAIN = [{"ref_id": 1, "sentences": [{"sent": "the café", "n": (1.5, None, True, b"x")}]}, {3}]


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_data_come_back(tmp_path: Path, protocol: int) -> None:
    """Protocols below 4 build bytes and sets by calling a global, so these are left out there."""
    content = PLAIN if protocol >= 4 else [{"sent": "the café", "n": (1.5, None, True, 2**70)}]
    path = tmp_path / "refs.p"
    path.write_bytes(pickle.dumps(content, protocol))
    assert read_plain_pickle(path) == content


def test_strings_of_python_2(tmp_path: Path) -> None:
    path = tmp_path / "refs.p"
    path.write_bytes(b"(lp0\n(dp1\nS'sent'\np2\nS'caf\\xe9'\np3\nsa.")
    assert read_plain_pickle(path) == [{"sent": "café"}]


class _Runs:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.trace),)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_malicious_pickle_is_refused_and_runs_nothing(tmp_path: Path, protocol: int) -> None:
    trace, path = tmp_path / "trace", tmp_path / "refs.p"
    content = pickle.dumps([{"ref_id": 1, "evil": _Runs(trace)}], protocol)
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_plain_pickle(path)
    assert not trace.exists()
    assert str(caught.value).startswith(f"{path}: expected a pickle of plain data, but it names ")
    assert "mkdir" in str(caught.value)
    pickle.loads(content)  # the trap works: plain unpickling springs it
    assert trace.exists()


@pytest.mark.parametrize(
    "content",
    [
        pickle.dumps(datetime.date(2020, 1, 1)),
        pickle.dumps(OrderedDict(a=1)),
        pickle.dumps(len),
        b"cos\nsystem\n(S'true'\ntR.",
        b"\x80\x02Pother\n.",
        b"\x80\x04\x8c\x02os\x8c\x06system\x93.",
        b"(S'true'\nios\nsystem\n.",
    ],
)
def test_every_global_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "refs.p"
    path.write_bytes(content)
    with pytest.raises(DataError, match="expected a pickle of plain data, but"):
        read_plain_pickle(path)


def test_extension_codes_are_globals_too(tmp_path: Path) -> None:
    path = tmp_path / "refs.p"
    copyreg.add_extension("os", "system", 240)
    try:
        path.write_bytes(b"\x80\x02\x82\xf0(S'true'\ntR.")
        with pytest.raises(DataError, match=r"it names os\.system"):
            read_plain_pickle(path)
    finally:
        copyreg.remove_extension("os", "system", 240)


def test_a_claimed_memo_index_takes_no_memory(tmp_path: Path) -> None:
    """`None` put under index 2^31 - 1: the unpickler in C makes room for all those before it."""
    path = tmp_path / "refs.p"
    path.write_bytes(b"Nr\xff\xff\xff\x7f.")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert read_plain_pickle(path) is None
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**20  # KiB, or bytes


@pytest.mark.parametrize("content", [b"", b"\x80", b"(lp0\n", b"no pickle", b"\x80\xff.", b"R."])
def test_what_is_no_pickle_is_one_sentence(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "refs.p"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"refs\.p: expected a pickle of plain data, but"):
        read_plain_pickle(path)
    with pytest.raises(DataError, match="there is no such file"):
        read_plain_pickle(tmp_path / "none.p")


@given(st.binary(max_size=200))
@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes_are_read_or_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "refs.p"
    path.write_bytes(content)
    with contextlib.suppress(DataError):
        read_plain_pickle(path)
