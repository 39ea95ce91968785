"""Scaling and redeploying while requests run."""

import contextlib
import shutil
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
import yaml
from click.testing import CliRunner

from serve_app.cli.connection.installation import SHORT_TEMP_DIR
from serve_app.cli.main import main
from serve_app.cli.serve.ports import free_port
from tests.cluster.conftest import Check, MakeDarkroom
from tests.cluster.darkroom import (
    FAMILIES,
    MODELS,
    PROBE,
    ROOT,
    Darkroom,
    clean_environment,
    eventually,
    living,
)
from tests.cluster.processes import end_all, with_default_signals

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

ServeRun = Callable[..., subprocess.Popen[bytes]]
WithPool = Callable[[dict[str, object]], Darkroom]


def _pool(replicas: int, slots: int = 2) -> dict[str, object]:
    return {
        "families": ["probe"],
        "slots": slots,
        "num_cpus": 0.1,
        "min_replicas": replicas,
        "max_replicas": replicas,
    }


@pytest.fixture(scope="module")
def with_pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WithPool]:
    """Gives one Darkroom this pool, and starts it the first time."""
    with contextlib.ExitStack() as made:
        running: list[Darkroom] = []

        def give(pool: dict[str, object]) -> Darkroom:
            if running:
                running[0].configure(pools={"studio": pool})
            else:
                darkroom = Darkroom(tmp_path_factory.mktemp("changing") / "data")
                darkroom.configure(pools={"studio": pool})
                made.callback(darkroom.clear_away)
                running.append(darkroom.start())
            return running[0]

        yield give
        for darkroom in running:
            darkroom.stop()
            assert darkroom.leftovers() == []


def test_scale_down_and_redeploy_under_load_fail_nothing(with_pool: WithPool, check: Check) -> None:
    darkroom = with_pool(_pool(2))
    darkroom.all_ready(2)
    requests = [darkroom.submit(steps=20, step_ms=50) for _ in range(12)]
    darkroom.in_state(requests[3], "running")
    darkroom.configure(pools={"studio": _pool(1)})
    requests += [darkroom.submit(steps=20, step_ms=50) for _ in range(4)]
    eventually(lambda: len(darkroom.replicas()) == 1, "one replica is left")
    # Another number of slots is another configuration of the replica: it is replaced.
    (replaced,) = darkroom.replicas()
    darkroom.configure(pools={"studio": _pool(1, slots=3)})
    eventually(lambda: not living([replaced]), "the replica is replaced")
    for request_id in requests:
        done = darkroom.in_state(request_id, "succeeded", "failed")
        assert done["state"] == "succeeded", done
        assert done["failures"] == 0, done
    check(darkroom, requests)


def test_a_pool_at_zero_gets_a_replica_for_a_warm_target_until_it_ends(with_pool: WithPool) -> None:
    darkroom = with_pool(_pool(0) | {"max_replicas": 2, "keep_alive_s": 1})
    eventually(lambda: not darkroom.replicas(), "no replica is left")
    wish = {"endpoint_id": "test/probe", "replicas": 1}
    assert darkroom.http.post("/v1/warm", json=wish).json()["ready_replicas"] == 0

    def ready() -> bool:
        (target,) = darkroom.http.get("/v1/warm").json()["targets"]
        return target["ready_replicas"] == 1

    eventually(ready, "a replica holds the weights")
    status = darkroom.http.get("/v1/status").json()
    pool = status["pools"]["studio"]
    assert (pool["target_replicas"], pool["warm_replicas"], pool["queued"]) == (1, 1, 0)
    (holder,) = [each for each in status["replicas"] if each["stage"] == "ready"]
    assert (holder["hot"], holder["keep"]) == (["test/probe"], [["test/probe", "hot"]])
    assert holder["node"]
    assert darkroom.http.delete("/v1/warm/test/probe").status_code == 204
    eventually(lambda: not darkroom.replicas(), "the pool is at zero again")


def test_a_pool_goes_to_zero_when_idle_and_comes_back_for_a_request(with_pool: WithPool) -> None:
    darkroom = with_pool(_pool(0) | {"max_replicas": 2, "keep_alive_s": 3})
    eventually(lambda: darkroom.replicas() == [], "the idle pool has no replica")
    request_id = darkroom.submit(steps=20, step_ms=50)
    seen = darkroom.request(request_id)
    assert seen["state"] == "queued"
    assert seen["waiting"]["reason"] in {"no_replica", "cold_start"}
    eventually(
        lambda: (darkroom.request(request_id)["waiting"] or {}).get("reason") != "no_replica",
        "the request says that a replica starts",
    )
    darkroom.in_state(request_id, "succeeded")
    eventually(lambda: darkroom.replicas() == [], "it goes back to zero")


def test_a_pool_shrinks_while_a_request_runs_which_goes_on_elsewhere(with_pool: WithPool) -> None:
    darkroom = with_pool(
        _pool(1, slots=1) | {"max_replicas": 2, "keep_alive_s": 4, "target_wait_s": 0}
    )
    first = darkroom.submit(steps=100_000, step_ms=50)
    darkroom.in_state(first, "running")
    # It runs on the second replica, which is the one that Serve stops.
    second = darkroom.submit(steps=100_000, step_ms=50)
    darkroom.all_ready(2)
    darkroom.in_state(second, "running")
    darkroom.http.put(f"{PROBE}/requests/{first}/cancel")
    eventually(lambda: len(darkroom.replicas()) == 1, "one replica is left")
    eventually(
        lambda: darkroom.in_state(second, "running")["attempt"] > 1,
        "it runs on the replica that is left",
    )
    assert darkroom.request(second)["failures"] == 0
    darkroom.http.put(f"{PROBE}/requests/{second}/cancel")


SERVE_RUN = """
import sys
import ray
from ray import serve
from ray.serve.scripts import cli
temporary, port, *arguments = sys.argv[1:]
ray.init(address="local", _temp_dir=temporary, include_dashboard=False)
serve.start(http_options={"port": int(port)})
cli(["run", *arguments])
"""


@pytest.fixture
def serve_run(tmp_path: Path) -> Iterator[ServeRun]:
    """`serve run` with these arguments on a Ray and a port of its own."""
    with contextlib.ExitStack() as running:

        def run(port: int, *arguments: str) -> subprocess.Popen[bytes]:
            temporary = str(SHORT_TEMP_DIR / f"darkroom-test-{port}")
            switches = {
                "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
                "RAY_USAGE_STATS_ENABLED": "0",
                "PYTHONPATH": str(ROOT),
            }
            command = (sys.executable, "-c", SERVE_RUN, temporary, str(port), *arguments)
            with (tmp_path / "serve-run.out").open("ab") as output:
                process = subprocess.Popen(
                    with_default_signals(*command),
                    env=clean_environment() | switches,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    cwd=tmp_path,
                    start_new_session=True,
                )
            running.callback(shutil.rmtree, temporary, ignore_errors=True)
            running.callback(end_all, [process], temporary)
            return process

        yield run


@pytest.mark.parametrize("with_yaml", [False, True], ids=["arguments", "yaml"])
def test_serve_run_serves_from_any_directory(
    with_yaml: bool,
    serve_run: ServeRun,
    make_darkroom: MakeDarkroom,
    tmp_path: Path,
) -> None:
    port = free_port()
    there = make_darkroom()
    there.port, there.url = port, f"http://127.0.0.1:{port}"
    settings = {
        "data_dir": str(there.data_dir),
        "models": str(MODELS),
        "families": FAMILIES,
        "pools": {"studio": {"families": ["probe"], "num_cpus": 0.1}},
        "gpus": 0,
    }
    if with_yaml:
        config = tmp_path / "darkroom.yaml"
        application = {
            "name": "darkroom",
            "import_path": "serve_app.app:build",
            "route_prefix": "/",
            "args": settings,
        }
        config.write_text(yaml.safe_dump({"applications": [application]}))
        process = serve_run(port, str(config))
    else:
        # `serve run` takes flat arguments only; the rest of the world is the demo's.
        process = serve_run(port, "serve_app.app:build", f"data_dir={there.data_dir}", "gpus=0")
    eventually(lambda: _answers(there), f"it answers; {_said(tmp_path)}", within_s=200)
    if with_yaml:
        assert there.http.post("/run/test/probe", json={"echo": 5}).json()["echo"] == 5
    models = there.http.get("/v1/models").json()["models"]
    assert models
    found = CliRunner().invoke(main, ["status", "--data-dir", str(there.data_dir)])
    assert f"{there.url}: ready" in found.output
    process.send_signal(signal.SIGINT)
    process.wait(timeout=60)
    eventually(lambda: there.leftovers() == [], "nothing is left", within_s=20)


def _answers(there: Darkroom) -> bool:
    try:
        return httpx.get(f"{there.url}/readyz", timeout=2).status_code == 200
    except httpx.TransportError:
        return False


def _said(tmp_path: Path) -> str:
    return textwrap.shorten((tmp_path / "serve-run.out").read_text(), 3000)
