"""How `darkroom serve` stops."""

from __future__ import annotations

import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from serve_app.cli.connection.installation import Installation
from serve_app.cli.serve import server
from serve_app.cli.serve.server import ServeCommand
from serve_app.settings import Config


@pytest.fixture
def control_store() -> Iterator[socket.socket]:
    """What accepts connections where Ray's control store does."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening


def stopped(path: Path, address: str, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Stop a command that started Ray at the address; True if Ray was asked to shut down."""
    asked = threading.Event()
    monkeypatch.setattr(server, "_shut_serve_down", asked.set)
    monkeypatch.setattr(server, "STOP_SIGNALS", ())  # those of the tests stay as they are
    monkeypatch.setitem(sys.modules, "ray", sys.modules.get("ray") or ModuleType("ray"))
    command = ServeCommand(Installation(path), Config(gpus=0, data_dir=path), "127.0.0.1", 0)
    command._addresses["ray_address"] = address
    command.console.open()
    try:
        command._stop()
    finally:
        command.console.close()
    return asked.is_set()


def test_ray_is_asked_to_shut_down_while_its_control_store_answers(
    tmp_path: Path, control_store: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    host, port = control_store.getsockname()
    assert stopped(tmp_path, f"{host}:{port}", monkeypatch)


def test_ray_is_not_asked_when_its_control_store_ended_or_is_just_ending(
    tmp_path: Path, control_store: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    host, port = control_store.getsockname()

    def end() -> None:
        control_store.accept()[0].close()
        control_store.close()

    ending = threading.Thread(target=end)
    ending.start()
    assert not stopped(tmp_path, f"{host}:{port}", monkeypatch)
    ending.join()
    assert not stopped(tmp_path, f"{host}:{port}", monkeypatch)
    assert not stopped(tmp_path, "", monkeypatch)
