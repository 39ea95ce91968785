"""What `serve deploy` and a changed configuration file restart, on a real Ray."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from json import loads
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from serve_app.cli.connection.installation import SHORT_TEMP_DIR
from serve_app.free_ports import free_port
from tests.cluster.darkroom import ROOT, clean_environment, eventually
from tests.cluster.processes import end_all, with_default_signals

pytestmark = [pytest.mark.cluster, pytest.mark.long, pytest.mark.timeout(900)]

KEY = "deploys:a-secret-for-tests-only"
PROBE = "tests.fakes.family:ProbeFamily"
POOL = {"num_gpus": 1, "num_cpus": 0.1, "slots": 1, "min_replicas": 1, "max_replicas": 1}
SMALL, LARGE = POOL | {"families": ["small"]}, POOL | {"families": ["large"]}

Ask = Callable[[str], dict[str, list[str]]]


class Installation:
    """A configuration file, what deploys it, and a client of what it serves."""

    def __init__(self, folder: Path, ask: Ask, port: int) -> None:
        self._ask = ask
        self._folder = folder
        self.log_file = folder / "darkroom.log"
        self._models = folder / "models.yaml"
        self._file = folder / "darkroom.yaml"
        self.http = httpx.Client(
            base_url=f"http://127.0.0.1:{port}",
            headers={"Authorization": f"Key {KEY}"},
            timeout=60,
        )

    def write(self, small: object = SMALL, large: object = LARGE, **more: Any) -> None:
        args = {
            "log_file": str(self.log_file),
            "data_dir": str(self._folder / "data"),
            "models": str(self._models),
            "families": {"small": PROBE, "large": PROBE},
            "pools": {"small": small, "large": large},
            "demo": False,
        }
        application = {"import_path": "serve_app.app:build", "args": args | more}
        self.write_text(yaml.safe_dump({"applications": [application]}))

    def write_text(self, text: str) -> None:
        _replace(self._file, text)

    def write_models(self, *endpoints: str) -> None:
        entries = {
            endpoint: {"family": endpoint.partition("/")[2], "schema": "open"}
            for endpoint in endpoints
        }
        _replace(self._models, yaml.safe_dump({"endpoints": entries}))

    def deploy(self) -> None:
        self._ask(f"deploy {self._file}")

    def replicas(self) -> Mapping[str, list[str]]:
        """Deployment → actors. Serve lists none of an application that it is deploying."""
        return {"ingress": [], "small": [], "large": []} | self._ask("replicas")

    def status_of(self, endpoint: str, **body: Any) -> int:
        """HTTP status of a run; 0 while nothing answers."""
        try:
            return self.http.post(f"/run/{endpoint}", json=body).status_code
        except httpx.TransportError:
            return 0


def _replace(file: Path, text: str) -> None:
    written = file.with_suffix(".new")
    written.write_text(text)
    written.replace(file)


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """Deployed once; the tests change it one after the other."""
    port = free_port()
    temporary = SHORT_TEMP_DIR / f"darkroom-test-{port}"
    temporary.mkdir(parents=True)
    folder = tmp_path_factory.mktemp("deploys")
    switches = {
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        "DARKROOM_API_KEY": KEY,
        "PYTHONPATH": str(ROOT),
    }
    log = folder / "deploys.err"
    command = (sys.executable, "-m", "tests.cluster.deploys", str(temporary), str(port))
    with log.open("ab") as errors:
        process = subprocess.Popen(
            with_default_signals(*command),
            env=clean_environment() | switches,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            start_new_session=True,
        )
    stdin, answers = process.stdin, process.stdout
    assert stdin is not None
    assert answers is not None

    def ask(line: str) -> dict[str, list[str]]:
        stdin.write(f"{line}\n")
        stdin.flush()
        for answer in answers:
            word, _, facts = answer.partition(" ")
            if word == "replicas":
                return loads(facts)
        raise AssertionError(log.read_text()[-4000:])

    place = Installation(folder, ask, port)
    try:
        place.write_models("test/small", "test/large")
        place.write()
        place.deploy()
        for endpoint in ("test/small", "test/large"):
            eventually(lambda e=endpoint: place.status_of(e) == 200, f"{endpoint} is served")
        each_one = {"ingress": 1, "small": 1, "large": 1}
        eventually(  # Serve sees a replica after it has taken its first request
            lambda: {name: len(actors) for name, actors in place.replicas().items()} == each_one,
            "each has a replica",
        )
        yield place
        process.communicate(timeout=60)
    finally:
        place.http.close()
        end_all([process], str(temporary), str(folder))
        shutil.rmtree(temporary, ignore_errors=True)


def test_a_limit_a_model_and_bounds_change_without_a_restart(installation: Installation) -> None:
    before = installation.replicas()
    assert installation.status_of("test/small", echo="a" * 2000) == 200
    assert installation.status_of("more/small") == 404

    installation.write_models("test/small", "test/large", "more/small")
    installation.write(SMALL | {"min_replicas": 2, "max_replicas": 2}, max_body_bytes=1024)
    eventually(
        lambda: installation.status_of("test/small", echo="a" * 2000) == 413, "the limit is there"
    )
    eventually(lambda: installation.status_of("more/small") == 200, "the model is served")
    eventually(lambda: len(installation.replicas()["small"]) == 2, "the pool has grown")
    _only_grown(before, installation.replicas())

    installation.deploy()  # the file as it is now
    assert installation.status_of("more/small") == 200
    _only_grown(before, installation.replicas())


def _only_grown(before: Mapping[str, list[str]], now: Mapping[str, list[str]]) -> None:
    assert now["ingress"] == before["ingress"]
    assert now["large"] == before["large"]
    assert set(before["small"]) < set(now["small"])


def test_a_file_that_is_not_valid_changes_nothing(installation: Installation) -> None:
    before = installation.replicas()

    def refused(message: str) -> None:
        eventually(lambda: message in installation.log_file.read_text(), f"{message} is logged")
        assert installation.status_of("test/large") == 200

    installation.write_text("applications: [")
    refused("is not YAML")
    installation.write(max_body_bytes=-5)
    refused("max_body_bytes: Input should be")
    installation.write()
    installation.write_models("test/small", "no-owner")
    refused("no-owner")
    installation.write_models("test/small", "test/large", "other/large")
    eventually(lambda: installation.status_of("other/large") == 200, "the model is served")
    assert installation.replicas()["ingress"] == before["ingress"]
    assert installation.replicas()["large"] == before["large"]


# That other slots replace replicas, whose requests go on elsewhere, is tested each time
# in changing/test_pools.py; that a deployment leaves what is equal alone, above. 60 s of CPU.
def test_other_slots_restart_their_pool_alone_which_hands_its_requests_over(
    installation: Installation,
) -> None:
    before = installation.replicas()
    # Longer than a deployment takes on any machine.
    running = installation.http.post("/queue/test/large", json={"steps": 20_000, "step_ms": 50})
    request_id = running.json()["request_id"]

    def seen() -> dict[str, Any]:
        return installation.http.get(f"/v1/requests/{request_id}").json()

    eventually(lambda: seen()["state"] == "running" and seen()["progress"], "it runs")
    installation.write(large=LARGE | {"slots": 2})
    installation.deploy()
    eventually(
        lambda: (
            set(installation.replicas()["large"]).isdisjoint(before["large"])
            and installation.replicas()["large"]
        ),
        "another replica runs",
    )
    eventually(lambda: seen()["attempt"] == 2 and seen()["progress"], "it runs there")
    assert seen()["failures"] == 0
    installation.http.put(f"/queue/test/large/requests/{request_id}/cancel")
    eventually(lambda: seen()["state"] == "cancelled", "it ends")
    now = installation.replicas()
    assert now["ingress"] == before["ingress"]
    assert set(now["small"]) & set(before["small"])
