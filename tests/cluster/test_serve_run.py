"""`serve run`, without `darkroom serve`."""

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
from serve_app.free_ports import free_port
from tests.cluster.conftest import MakeDarkroom
from tests.cluster.darkroom import (
    FAMILIES,
    MODELS,
    ROOT,
    STOP_S,
    Darkroom,
    clean_environment,
    eventually,
)
from tests.cluster.processes import end_all, with_default_signals

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

ServeRun = Callable[..., subprocess.Popen[bytes]]

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


# That strings are settings too is tested in tests/test_settings.py.
@pytest.mark.long
@pytest.mark.parametrize(
    "with_yaml",
    [pytest.param(False, marks=pytest.mark.long, id="arguments"), pytest.param(True, id="yaml")],
)
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
    eventually(lambda: _answers(there), f"it answers; {_said(tmp_path)}")
    if with_yaml:
        assert there.http.post("/run/test/probe", json={"echo": 5}).json()["echo"] == 5
    models = there.http.get("/v1/models").json()["models"]
    assert models
    result = CliRunner().invoke(main, ["status", "--data-dir", str(there.data_dir)])
    assert f"{there.url}: ready" in result.output
    process.send_signal(signal.SIGINT)
    process.wait(timeout=STOP_S)
    eventually(lambda: there.leftovers() == [], "nothing is left")


def _answers(there: Darkroom) -> bool:
    try:
        return httpx.get(f"{there.url}/readyz", timeout=2).status_code == 200
    except httpx.TransportError:
        return False


def _said(tmp_path: Path) -> str:
    return textwrap.shorten((tmp_path / "serve-run.out").read_text(), 3000)
