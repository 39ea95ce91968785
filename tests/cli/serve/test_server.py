"""How `darkroom serve` stops."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace

import psutil
import pytest
import ray
from ray import serve

from serve_app.cli.connection.installation import Installation
from serve_app.cli.serve import server
from serve_app.cli.serve.processes import RunRecord
from serve_app.cli.serve.server import ServeCommand
from serve_app.settings import Config


@pytest.fixture
def control_store() -> Iterator[socket.socket]:
    """What accepts connections where Ray's control store does."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening


def stops_ray(path: Path, address: str, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Stop a command that started Ray at the address; True if Ray was asked to shut down."""
    stopping = threading.Event()
    monkeypatch.setattr(server, "_shut_serve_down", stopping.set)
    monkeypatch.setattr(server, "STOP_SIGNALS", ())  # those of the tests stay as they are
    monkeypatch.setitem(sys.modules, "ray", sys.modules.get("ray") or ModuleType("ray"))
    command = ServeCommand(Installation(path), Config(gpus=0, data_dir=path), "127.0.0.1", 0)
    command._addresses["ray_address"] = address
    command.console.open()
    try:
        command._stop()
    finally:
        command.console.close()
    return stopping.is_set()


def test_further_signals_do_not_end_the_stop() -> None:
    program = """
import signal
from serve_app.cli.serve.server import STOP_SIGNALS, StopSignal, _listen
_listen()
try:
    signal.raise_signal(signal.SIGTERM)
except StopSignal:
    for number in STOP_SIGNALS:
        signal.raise_signal(number)
    print("stopped")
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "stopped\n", "")


def test_a_signal_that_ray_handles_while_it_starts_is_one_to_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def init(**_: object) -> None:
        sys.exit(signal.SIGTERM)  # what Ray's handler does

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(server, "STOP_SIGNALS", ())  # those of the tests stay as they are
    command = ServeCommand(
        Installation(tmp_path), Config(gpus=0, data_dir=tmp_path), "127.0.0.1", 0
    )
    with pytest.raises(server.StopSignal):
        command._start_ray("127.0.0.1")


def test_ray_is_asked_to_shut_down_while_its_control_store_answers(
    tmp_path: Path, control_store: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    host, port = control_store.getsockname()
    assert stops_ray(tmp_path, f"{host}:{port}", monkeypatch)


def test_ray_is_not_asked_when_its_control_store_ended_or_is_just_ending(
    tmp_path: Path, control_store: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    host, port = control_store.getsockname()

    def end() -> None:
        control_store.accept()[0].close()
        control_store.close()

    ending = threading.Thread(target=end)
    ending.start()
    assert not stops_ray(tmp_path, f"{host}:{port}", monkeypatch)
    ending.join()
    assert not stops_ray(tmp_path, f"{host}:{port}", monkeypatch)
    assert not stops_ray(tmp_path, "", monkeypatch)


def test_the_database_is_ended_after_all_that_use_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended: list[str] = []

    def end_database(data_dir: Path) -> list[psutil.Process]:
        ended.append(f"database of {data_dir.name}")
        return []

    monkeypatch.setattr(RunRecord, "stop_all", lambda _: ended.append("processes"))
    monkeypatch.setattr(server, "_end_database", end_database)
    stops_ray(tmp_path / "data", "", monkeypatch)
    assert ended == ["processes", "database of data"]


def test_replicas_end_before_the_ingress_that_takes_their_work_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ended: list[str] = []
    there = [{"darkroom", "studio", "video"}, {"darkroom", "studio"}, {"darkroom"}]

    def status() -> SimpleNamespace:
        names = there.pop(0) if len(there) > 1 else there[0]
        return SimpleNamespace(applications=dict.fromkeys(names))

    def delete(name: str, *, _blocking: bool) -> None:
        assert not _blocking
        ended.append(name)

    monkeypatch.setattr(server, "POOLS_POLL_S", 0.0)
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    monkeypatch.setattr(ray, "shutdown", lambda: ended.append("Ray"))
    monkeypatch.setattr(serve, "status", status)
    monkeypatch.setattr(serve, "delete", delete)
    monkeypatch.setattr(serve, "shutdown", lambda: ended.append(f"all of {there[0]}"))
    server._shut_serve_down()
    assert sorted(ended[:2]) == ["studio", "video"]
    assert ended[2:] == ["all of {'darkroom'}", "Ray"]


def test_ray_s_workers_look_for_no_modules_in_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    assert server._job_config()._client_job  # a job to whose path Ray adds nothing
    assert server._job_config()._py_driver_sys_path == []
    monkeypatch.setattr(sys, "path", [str(server.PACKAGES), *sys.path])
    assert server._job_config()._py_driver_sys_path == [str(server.PACKAGES)]


def test_a_failed_start_ends_with_what_ray_says_of_what_failed_if_anything(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def states(*messages: str) -> SimpleNamespace:
        words = ("UNHEALTHY", "UPSCALING")
        deployments = {
            word: SimpleNamespace(message=text, status=word)
            for word, text in zip(words, messages, strict=True)
        }
        return SimpleNamespace(applications={"darkroom": SimpleNamespace(deployments=deployments)})

    monkeypatch.setattr(serve, "status", lambda: states("", "  "))
    assert server._deploy_failure(RuntimeError()) == (
        "Darkroom did not start. See the log above for the cause."
    )
    monkeypatch.setattr(serve, "status", lambda: states("It is unhealthy.", "Upscaling."))
    assert server._deploy_failure(RuntimeError()).endswith("Ray Serve reports: It is unhealthy.")
