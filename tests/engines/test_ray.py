"""Ray actors: what every engine with workers keeps to, GPU shares, and a cluster of two nodes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import psutil
import pytest
from worker_contract import SLOTS, WorkerContract, ask, obeying

from pilot_secure.engines.ray_actors import RayTransport, _build_in
from pilot_secure.engines.workers import WorkersTransport
from pilot_secure.errors import UsageError

pytestmark = pytest.mark.skipif(find_spec("ray") is None, reason="ray is an extra: make ray")

THREE = [("a",), ("b",), ("c",)]
DEVICE = b"variable CUDA_VISIBLE_DEVICES"


@pytest.fixture(scope="module", autouse=True)
def importable_in_actors() -> Iterator[None]:
    """Actors import the hosts of these tests by name."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)
        yield


class TestRay(WorkerContract):
    engine = RayTransport

    def test_nothing_listens_outside_loopback_and_nothing_is_reported(
        self, transport: WorkersTransport
    ) -> None:
        family = psutil.Process().children(recursive=True)
        open_at = {
            connection.laddr.ip
            for process in [psutil.Process(), *family]
            for connection in process.net_connections("inet")
            if connection.status == psutil.CONN_LISTEN
        }
        assert len(family) > 3
        assert open_at <= {"127.0.0.1", "::ffff:127.0.0.1", "::1"}
        asked = b"variable RAY_USAGE_STATS_ENABLED"
        assert set(ask(transport, a=asked, b=asked, c=asked).values()) == {b"0"}


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """Two nodes on this machine that claim two CPUs and one GPU each."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "num_gpus": 1})
    cluster.add_node(num_cpus=2, num_gpus=1)
    yield cluster.address
    cluster.shutdown()


def replies_of(cluster: str, request: bytes, **options: float) -> dict[str, bytes]:
    transport = RayTransport(obeying, THREE, address=cluster, **options)
    try:
        return ask(transport, a=request, b=request, c=request)
    finally:
        transport.close()


def test_gpus_are_shared_out_and_an_actor_sees_its_own_alone(cluster: str) -> None:
    devices = replies_of(cluster, DEVICE)
    assert set(devices.values()) == {b"0"}  # the first GPU of its node, which two actors share
    assert set(replies_of(cluster, DEVICE, gpus=0.0).values()) == {b""}


def test_a_cluster_that_is_too_small_is_told_at_once(cluster: str) -> None:
    with pytest.raises(UsageError, match=r"^run\.slots is 3, with 1 of a GPU for each: .*2 GPUs"):
        RayTransport(obeying, THREE, address=cluster, gpus=1.0)


def test_an_address_where_nobody_answers_is_told() -> None:
    with pytest.raises(UsageError, match=r"^run\.ray_address is 127\.0\.0\.1:9: expected"):
        RayTransport(obeying, SLOTS, address="127.0.0.1:9")


def test_a_folder_that_a_node_lacks_is_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="expected this working directory on every machine"):
        _build_in(str(tmp_path / "elsewhere"), obeying, SLOTS[0], lambda note: None)
