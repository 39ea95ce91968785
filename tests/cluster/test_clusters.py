"""Two Ray clusters with one database and one bucket."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.cluster.darkroom import eventually
from tests.cluster.nodes import SeveralNodes, client_at, in_bucket, several_nodes, with_stores
from tests.queue.database import conninfo, server
from tests.storage.conftest import moto_server
from tests.storage.s3_servers import S3Server

__all__ = ["conninfo", "moto_server", "server"]

pytestmark = [pytest.mark.cluster, pytest.mark.long, pytest.mark.timeout(900)]

POOL = {
    "families": ["small"],
    "num_gpus": 1,
    "num_cpus": 0.1,
    "slots": 1,
    "min_replicas": 0,
    "max_replicas": 2,
    "keep_alive_s": 600,
    "target_wait_s": 0,
}


@pytest.fixture
def pair(
    conninfo: str, moto_server: S3Server, tmp_path: Path
) -> Iterator[tuple[SeveralNodes, SeveralNodes]]:
    """Each has one node with a GPU, and so room for one replica of the pool."""
    models = tmp_path / "models.yaml"
    models.write_text("endpoints: {test/small: {family: small, schema: open}}")
    arguments: dict[str, Any] = {
        "models": str(models),
        "families": {"small": "tests.fakes.family:ProbeFamily"},
        "pools": {"small": POOL},
        "demo": False,
        **in_bucket(moto_server),
    }
    with ExitStack() as clusters:
        both = [clusters.enter_context(several_nodes(tmp_path, ("L4",))) for _ in range(2)]
        for number, nodes in enumerate(both):
            settings = arguments | {"data_dir": str(tmp_path / f"data-{number}")}
            word, facts, _ = nodes.run(with_stores(conninfo, moto_server), settings)
            assert word == "placed", facts
        yield both[0], both[1]


def test_each_scales_its_pools_and_one_goes_on_with_the_requests_of_the_other(
    pair: tuple[SeveralNodes, SeveralNodes],
) -> None:
    first, second = pair
    with client_at(first.port) as here, client_at(second.port) as there:

        def submitted(client: httpx.Client, steps: int) -> str:
            answer = client.post("/queue/test/small", json={"steps": steps, "step_ms": 50})
            return str(answer.raise_for_status().json()["request_id"])

        def seen(request_id: str) -> dict[str, Any]:
            return here.get(f"/v1/requests/{request_id}").raise_for_status().json()

        # All by one cluster. The other one grows too, because the first has no room for both.
        both = [submitted(here, 1200) for _ in range(2)]
        eventually(lambda: all(seen(call_id)["state"] == "running" for call_id in both), "both run")
        for nodes in pair:
            # Serve says so a moment later: the replica begins as soon as it has loaded.
            eventually(
                lambda nodes=nodes: "RUNNING" in {it["state"] for it in nodes.replicas()["small"]},
                "Serve has seen that the replica runs",
            )
        assert len({seen(call_id)["replica_id"] for call_id in both}) == 2
        assert there.get(f"/v1/requests/{both[0]}").json()["state"] == "running"

        second.stop()
        last = submitted(here, 5)
        for request_id in (*both, last):
            eventually(lambda r=request_id: seen(r)["state"] == "succeeded", "it succeeds")
            assert seen(request_id)["failures"] == 0
