"""A pool that gets no node, and another one that takes its overflow, on a real Ray cluster."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.cluster.darkroom import eventually
from tests.cluster.nodes import client_at, in_bucket, several_nodes, with_stores
from tests.queue.database import conninfo, server
from tests.storage.conftest import moto_server
from tests.storage.s3_servers import S3Server

__all__ = ["conninfo", "moto_server", "server"]

pytestmark = [pytest.mark.cluster, pytest.mark.long, pytest.mark.timeout(900)]

GPU = {"num_gpus": 1, "num_cpus": 0.1, "slots": 1, "min_replicas": 0, "target_wait_s": 0}
POOLS = {
    "spot": GPU
    | {"families": ["small"], "accelerator": "L4", "max_replicas": 2, "keep_alive_s": 600},
    "demand": GPU
    | {
        "overflow_of": "spot",
        "overflow_after_s": 1,
        "accelerator": "A10G",
        "max_replicas": 1,
        "keep_alive_s": 3,
    },
}
LONG = {"steps": 4000, "step_ms": 50}


class Requests:
    """Requests of one endpoint, and the pools that run them."""

    def __init__(self, client: httpx.Client) -> None:
        self._client = client

    def submit(self, **body: Any) -> str:
        answer = self._client.post("/queue/test/small", json=body)
        return str(answer.raise_for_status().json()["request_id"])

    def cancel(self, request_id: str) -> None:
        self._client.put(f"/queue/test/small/requests/{request_id}/cancel").raise_for_status()

    def get(self, request_id: str) -> dict[str, Any]:
        return dict(self._client.get(f"/v1/requests/{request_id}").raise_for_status().json())

    def status(self) -> dict[str, Any]:
        return dict(self._client.get("/v1/status").raise_for_status().json())

    def replicas(self, pool: str) -> set[str]:
        return {
            replica["replica_id"]
            for replica in self.status()["replicas"]
            if replica["pool"] == pool
        }

    def runs_in(self, request_id: str, pool: str) -> bool:
        request = self.get(request_id)
        return request["state"] == "running" and request["replica_id"] in self.replicas(pool)


def test_the_overflow_pool_serves_until_the_first_one_has_a_node_and_shrinks_first(
    conninfo: str, moto_server: S3Server, tmp_path: Path
) -> None:
    models = tmp_path / "models.yaml"
    models.write_text("endpoints: {test/small: {family: small, schema: open}}")
    arguments: dict[str, Any] = {
        "data_dir": str(tmp_path / "data"),
        "models": str(models),
        "families": {"small": "tests.fakes.family:ProbeFamily"},
        "pools": POOLS,
        "demo": False,
        **in_bucket(moto_server),
    }
    with several_nodes(tmp_path, ("A10G",)) as nodes:
        word, facts, port = nodes.run(with_stores(conninfo, moto_server), arguments)
        assert word == "placed", facts
        with client_at(port) as client:
            requests = Requests(client)

            # There is no node for the first pool, which wants one for each request.
            first, second = (requests.submit(**LONG) for _ in range(2))
            eventually(lambda: requests.runs_in(first, "demand"), "the overflow pool serves")
            pools = requests.status()["pools"]
            assert pools["spot"]["target_replicas"] == 2
            assert pools["demand"]["overflow_of"] == "spot"
            assert (pools["spot"]["running"], pools["demand"]["running"]) == (0, 1)
            assert pools["spot"]["queued"] == pools["demand"]["overflow_queued"] == 1

            nodes.add("L4")
            eventually(lambda: requests.runs_in(second, "spot"), "the first pool serves")
            assert requests.runs_in(first, "demand")

            # What the first pool can run alone, it does, and the other pool ends.
            requests.cancel(first)
            eventually(lambda: not requests.replicas("demand"), "the overflow pool shrinks")
            assert requests.runs_in(second, "spot")
            requests.cancel(second)
            last = requests.submit(steps=2)
            eventually(lambda: requests.get(last)["state"] == "succeeded", "it succeeds")
            seen = [requests.get(request_id) for request_id in (first, second, last)]
            assert [request["failures"] for request in seen] == [0, 0, 0]
            assert [request["attempt"] for request in seen] == [1, 1, 1]
