"""The control store (GCS) and the head may die: what was accepted ends, and Darkroom serves again.

Nothing here runs on the head but the ingress and Ray's own: the pools are on other nodes, the
database and the storage elsewhere, and the control store is on a disk that outlives its process.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from psycopg.rows import dict_row

from tests.cluster.darkroom import eventually
from tests.cluster.nodes import SeveralNodes, client_at, in_bucket, several_nodes, with_stores
from tests.queue.database import conninfo, server
from tests.storage.conftest import moto_server
from tests.storage.s3_servers import S3Server

__all__ = ["conninfo", "moto_server", "server"]

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.crash,
    pytest.mark.long,
    pytest.mark.timeout(900),
]

CATALOGUE = """
endpoints:
  test/small: {family: small, schema: open}
"""
POOL = {
    "families": ["small"],
    "num_gpus": 1,
    "num_cpus": 0.1,
    "min_replicas": 2,
    "max_replicas": 2,
    "slots": 2,
}
DOWN_S = 5.0
PAUSE_S = 0.25


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[SeveralNodes]:
    """A cluster whose control store is on the disk."""
    switches = {"RAY_gcs_storage": "rocksdb", "RAY_gcs_storage_path": str(tmp_path / "gcs")}
    with several_nodes(tmp_path, **switches) as started:
        yield started


@pytest.fixture
def load(
    nodes: SeveralNodes, conninfo: str, moto_server: S3Server, tmp_path: Path
) -> Iterator[Load]:
    """A Darkroom on it, with two replicas, each on a node of its own, and clients."""
    models = tmp_path / "models.yaml"
    models.write_text(CATALOGUE)
    arguments = {
        "data_dir": str(tmp_path / "data"),
        "models": str(models),
        "families": {"small": "tests.fakes.family:ProbeFamily"},
        "pools": {"small": POOL},
        "demo": False,
        **in_bucket(moto_server),
    }
    word, facts, port = nodes.run(with_stores(conninfo, moto_server), arguments)
    assert word == "placed", facts
    assert facts["ingress"] == ["head"]
    assert sorted(facts["small"]) == ["A10G", "L4"]
    with Load(port, conninfo) as load:
        yield load


def test_the_control_store_killed_under_load_fails_no_call_and_no_request(
    nodes: SeveralNodes, load: Load
) -> None:
    load.goes_on()
    nodes.kill("gcs", DOWN_S)
    load.goes_on()
    nodes.wait()
    load.goes_on()
    load.finish()
    assert load.refused == []
    assert {(row["state"], row["failures"]) for row in load.rows()} == {("succeeded", 0)}


def test_the_head_killed_under_load_loses_no_request_and_its_return_serves_again(
    nodes: SeveralNodes, load: Load
) -> None:
    load.goes_on()
    replicas = load.replicas()
    nodes.kill("head", DOWN_S)
    eventually(lambda: len(load.refused) > 0, "the ingress is away")
    nodes.wait()
    load.goes_on()
    load.finish()
    assert {row["state"] for row in load.rows()} == {"succeeded"}
    # The replicas on the other nodes are the same, and their weights were not loaded again.
    assert load.replicas() == replicas


class Load:
    """A client that submits four requests a second, until ``finish``.

    ``accepted`` are the ids that it was given, ``refused`` what else its calls ended with.
    """

    def __init__(self, port: int, conninfo: str) -> None:
        self.accepted: list[str] = []
        self.refused: list[str] = []
        self.served_at: list[float] = []
        self._port = port
        self._conninfo = conninfo
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._submit)

    def __enter__(self) -> Load:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _submit(self) -> None:
        with client_at(self._port) as client:
            while not self._over.wait(PAUSE_S):
                try:
                    answer = client.post("/queue/test/small", json={"steps": 20, "step_ms": 50})
                    answer.raise_for_status()
                    self.accepted.append(str(answer.json()["request_id"]))
                    self.served_at.append(time.monotonic())
                except httpx.HTTPError as error:
                    self.refused.append(repr(error))

    def goes_on(self) -> None:
        """Wait until eight more requests are accepted."""
        before = len(self.accepted)
        more = lambda: len(self.accepted) >= before + 8  # noqa: E731
        try:
            eventually(more, "requests are accepted")
        except AssertionError as late:
            late.add_note(f"{len(self.accepted) - before} accepted; refused: {self.refused[-3:]}")
            raise

    def finish(self) -> None:
        """Stop, and wait until all that was accepted has ended."""
        self._over.set()
        self._thread.join()
        pairs = zip(self.served_at, self.served_at[1:], strict=False)
        longest = max(later - earlier for earlier, later in pairs)
        print(f"{len(self.accepted)} accepted, longest gap {longest:.1f} s")  # noqa: T201
        eventually(lambda: all(row["finished_at"] for row in self.rows()), "all requests end")

    def rows(self) -> list[dict[str, Any]]:
        """What is stored of the accepted requests; each is there."""
        query = "SELECT id, state, failures, finished_at FROM requests WHERE id = ANY(%s)"
        with (
            psycopg.connect(self._conninfo) as database,
            database.cursor(row_factory=dict_row) as cursor,
        ):
            rows = cursor.execute(query, (self.accepted,)).fetchall()
        assert len(rows) == len(self.accepted)
        return rows

    def replicas(self) -> set[str]:
        """Ids of the replicas that are ready. Waits until both are."""

        def look() -> set[str]:
            with client_at(self._port) as client:
                try:
                    answer = client.get("/v1/status").raise_for_status()
                except httpx.HTTPError:
                    return set()
            fresh = [one for one in answer.json()["replicas"] if one["seen_s"] < 7]
            return {one["replica_id"] for one in fresh if one["stage"] == "ready"}

        def both() -> set[str]:
            found = look()
            return found if len(found) == 2 else set()

        return eventually(both, "two replicas")
