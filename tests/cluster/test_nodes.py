"""Darkroom on a Ray cluster of several nodes, on this machine and with GPUs in name only."""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import psycopg
import pytest

from serve_app.cli.generation.files import outputs
from serve_app.embedded_postgres.process import alive
from tests.cluster.darkroom import MODELS, eventually
from tests.cluster.nodes import IMPATIENT, KEY, client_at, in_bucket, several_nodes, with_stores
from tests.queue.database import conninfo, server
from tests.storage.conftest import moto_server
from tests.storage.s3_servers import S3Server

__all__ = ["conninfo", "moto_server", "server"]

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900), pytest.mark.long]

CATALOGUE = """
endpoints:
  test/small: {family: small, schema: open, options: {artifacts_field: artifacts}}
  test/large: {family: large, schema: open, options: {artifacts_field: artifacts}}
"""
PROBE = "tests.fakes.family:ProbeFamily"
POOLS = {
    "small": {"families": ["small"], "num_gpus": 1, "num_cpus": 0.1, "accelerator": "L4"},
    "large": {"families": ["large"], "num_gpus": 1, "num_cpus": 0.1, "accelerator": "A10G"},
}

Start = Callable[..., tuple[str, Any, int]]


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    """Starts a Darkroom on the cluster in place of the last."""
    with several_nodes(tmp_path_factory.mktemp("nodes")) as started:
        yield started.run


@pytest.fixture
def start(nodes: Start, tmp_path: Path) -> Start:
    """Starts a Darkroom with these secrets and settings: what it says of itself, and its port."""

    def run(secrets: dict[str, str], **more: Any) -> tuple[str, Any, int]:
        models = tmp_path / "models.yaml"
        models.write_text(CATALOGUE)
        arguments = {
            "data_dir": str(tmp_path / "data"),
            "models": str(models),
            "families": {"small": PROBE, "large": PROBE},
            "pools": POOLS,
            "demo": False,
        }
        return nodes(secrets, arguments | more)

    return run


def test_pools_land_on_the_class_of_gpu_that_they_ask_for_and_work_there(
    start: Start, conninfo: str, moto_server: S3Server
) -> None:
    word, facts, port = start(with_stores(conninfo, moto_server), **in_bucket(moto_server))
    assert word == "placed", facts
    assert facts == {"ingress": ["head"], "small": ["L4"], "large": ["A10G"]}
    with client_at(port) as client:
        for endpoint in ("test/small", "test/large"):
            answer = client.post(f"/run/{endpoint}", json={"artifacts": 1, "content": "image"})
            assert answer.status_code == 200, answer.text
            (file,) = outputs(answer.json())
            assert client.get(file["url"]).content == b"image"


def test_what_is_kept_on_one_node_refuses_the_others_with_the_settings_to_set(
    start: Start,
) -> None:
    # The replicas of its pools would import torch, and are not asked.
    pools = {name: pool | {"min_replicas": 0} for name, pool in POOLS.items()}
    word, facts, _ = start({"DARKROOM_API_KEY": KEY}, pools=pools)
    assert word == "refused", facts
    message = " ".join(facts)
    assert "3 nodes" in message
    assert "DARKROOM_DATABASE_URL" in message
    assert "DARKROOM_S3_BUCKET" in message


VIDEO = "test/large-wan"
STUDIO = {
    "families": ["video"],
    "num_gpus": 1,
    "num_cpus": 0.1,
    "min_replicas": 2,
    "max_replicas": 2,
    "slots": 1,
    "threads": 1,
    "snapshot_interval_s": 0.5,
}


@pytest.mark.crash
@pytest.mark.timeout(900)
def test_a_video_goes_on_from_its_snapshot_when_its_node_dies_and_is_the_same(
    start: Start,
    conninfo: str,
    moto_server: S3Server,
    chance: random.Random,
) -> None:
    word, facts, port = start(
        with_stores(conninfo, moto_server),
        **in_bucket(moto_server),
        models=str(MODELS),
        families={},
        pools={"studio": STUDIO},
        demo=True,
        lease_s=6,
    )
    assert word == "placed", facts
    assert sorted(facts["studio"]) == ["A10G", "L4"]
    body = {"prompt": "a red circle moving left", "seed": 7}
    body |= {"num_inference_steps": 30, "num_frames": 81}
    alone = {"X-Darkroom-Deterministic": "1"}
    with client_at(port) as client:

        def submitted() -> str:
            return client.post(f"/queue/{VIDEO}", json=body, headers=alone).json()["request_id"]

        def seen(request_id: str) -> dict[str, Any]:
            return client.get(f"/v1/requests/{request_id}").json()

        def video(request_id: str) -> bytes:
            done = lambda: seen(request_id)["state"] == "succeeded"  # noqa: E731
            eventually(done, "it succeeds")
            output = client.get(f"/queue/{VIDEO}/requests/{request_id}").json()
            return client.get(output["video"]["url"]).content

        expected = video(submitted())
        request_id, step = submitted(), chance.randint(1, 12)
        with psycopg.connect(conninfo, autocommit=True) as database:
            look = "SELECT replica_id FROM requests WHERE id = %s AND snapshot_step >= %s"
            running = eventually(
                lambda: database.execute(look, (request_id, step)).fetchone(), "a snapshot", 300
            )
        kill_node_of(running[0])
        assert video(request_id) == expected
        done = seen(request_id)
    assert done["failures"] == 0  # a node's death is no failure of what it ran
    assert any("from the snapshot at step" in line["message"] for line in done["log"])


TWO_ALIKE = {"small": POOLS["small"] | {"min_replicas": 2, "max_replicas": 2, "slots": 2}}


@contextlib.contextmanager
def two_alike(
    folder: Path, conninfo: str, storage: S3Server, lease_s: float = 30, **switches: str
) -> Generator[tuple[httpx.Client, psycopg.Connection[Any]], None, None]:
    """A Darkroom with a replica on each of two nodes: its client, and its database."""
    models = folder / "models.yaml"
    models.write_text(CATALOGUE)
    stores = with_stores(conninfo, storage)
    with several_nodes(folder, ("L4", "L4"), **switches, **stores) as nodes:
        word, facts, port = nodes.run(
            {},
            {
                "data_dir": str(folder / "data"),
                "models": str(models),
                "families": {"small": PROBE, "large": PROBE},
                "pools": TWO_ALIKE,
                "demo": False,
                "lease_s": lease_s,
                **in_bucket(storage),
            },
        )
        assert word == "placed", facts
        with client_at(port) as client, psycopg.connect(conninfo, autocommit=True) as database:
            yield client, database


def all_succeed(client: httpx.Client, ids: Iterable[str]) -> None:
    for id_ in ids:
        path = f"/v1/requests/{id_}"
        eventually(lambda path=path: client.get(path).json()["state"] == "succeeded", "it succeeds")


@pytest.mark.crash
@pytest.mark.timeout(900)
def test_a_replica_that_ray_has_given_up_ends_and_no_request_fails_for_it(
    conninfo: str, moto_server: S3Server, tmp_path: Path
) -> None:
    with two_alike(tmp_path, conninfo, moto_server, 6, **IMPATIENT) as (client, database):

        def submitted() -> str:
            body = {"steps": 160, "step_ms": 25}  # so both always run some
            return client.post("/queue/test/small", json=body).json()["request_id"]

        ids = [submitted() for _ in range(6)]
        running = "SELECT DISTINCT replica_id FROM requests WHERE state = 'running'"
        both = eventually(
            lambda: len(rows := database.execute(running).fetchall()) == 2 and rows, "both run"
        )
        replica = process_of(both[0][0])
        raylet = raylet_of(replica)
        raylet.suspend()
        try:
            # All the while there is work, which the replica would go on to take.
            while alive(replica):
                ids.append(submitted())
                time.sleep(0.5)
            ended = "SELECT why_ended FROM processes WHERE pool = 'small' AND ended_at > 'epoch'"
            (reason,) = database.execute(ended).fetchone() or ("",)
        finally:
            raylet.resume()
        assert reason == "its node failed"
        all_succeed(client, ids)
        ended = "SELECT sum(failures), count(*) FROM requests"
        assert database.execute(ended).fetchone() == (0, len(ids))
        interrupted = "SELECT count(*) FROM attempts WHERE ended = 'interrupted'"
        assert (database.execute(interrupted).fetchone() or (0,))[0] > 0


@pytest.mark.crash
@pytest.mark.timeout(900)
def test_a_node_whose_replicas_die_again_and_again_is_quarantined_until_one_succeeds_there(
    conninfo: str, moto_server: S3Server, tmp_path: Path
) -> None:
    with two_alike(tmp_path, conninfo, moto_server) as (client, database):
        ids: list[str] = []

        def submit() -> None:
            body = {"steps": 120, "step_ms": 25}  # so that some always run
            ids.append(client.post("/queue/test/small", json=body).json()["request_id"])

        def replicas() -> list[dict[str, Any]]:
            return list(client.get("/v1/status").json()["replicas"])

        bad = eventually(replicas, "a replica is ready")[0]["node"]
        running = (
            "SELECT DISTINCT replica_id FROM requests JOIN replicas r USING (replica_id) "
            "WHERE state = 'running' AND confirmed AND r.node = %s"
        )

        def quarantined() -> str:
            submit()
            for (replica_id,) in database.execute(running, [bad]).fetchall():
                with contextlib.suppress(ValueError):  # it was killed a moment ago
                    process_of(replica_id).kill()
            time.sleep(2)
            return next(
                (replica["quarantine"] for replica in replicas() if replica["node"] == bad), ""
            )

        message = eventually(quarantined, "the node is quarantined", 300)
        assert message.startswith(f"Node {bad} is quarantined since")

        def released() -> bool:
            submit()
            time.sleep(0.5)
            return not any(replica["quarantine"] for replica in replicas())

        eventually(released, "a request succeeds there", 120)
        all_succeed(client, ids)


def process_of(replica_id: str) -> psutil.Process:
    (process,) = [
        candidate for candidate in psutil.process_iter() if has_log_of(replica_id, candidate)
    ]
    return process


def raylet_of(replica: psutil.Process) -> psutil.Process:
    raylet = replica.parent()
    assert raylet is not None
    assert "raylet" in raylet.name()
    return raylet


def kill_node_of(replica_id: str) -> None:
    """Ends all that its node has at once, as when its power goes."""
    raylet = raylet_of(process_of(replica_id))
    for process in (raylet, *raylet.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


def has_log_of(replica_id: str, process: psutil.Process) -> bool:
    try:
        return any(replica_id in Path(file.path).name for file in process.open_files())
    except psutil.Error:
        return False
