"""Looks at this machine for pre-flight answers."""

from __future__ import annotations

from pathlib import Path

import pytest

from serve_app import preflight
from serve_app.settings import Config


def with_tool(monkeypatch: pytest.MonkeyPatch, directory: Path, script: str) -> None:
    """Put a script in place of NVIDIA's tool as the only program on the path."""
    tool = directory / preflight.NVIDIA_SMI
    tool.write_text(f"#!/bin/sh\n{script}\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{directory}:/usr/bin:/bin")


def test_the_smallest_gpu_counts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with_tool(monkeypatch, tmp_path, "echo 81559; echo 24564")
    assert preflight.smallest_gpu_bytes() == 24564 * 2**20


@pytest.mark.parametrize("script", ["echo No devices were found; exit 6", "echo '[N/A]'", "exit 0"])
def test_a_tool_that_finds_none_means_none(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, script: str
) -> None:
    with_tool(monkeypatch, tmp_path, script)
    assert preflight.smallest_gpu_bytes() is None


def test_without_the_tool_there_is_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert preflight.smallest_gpu_bytes() is None


def test_a_machine_without_a_gpu_has_none_and_one_whose_gpu_says_nothing_is_not_known(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    settings = {"data_dir": tmp_path, "weights_dir": tmp_path / "not" / "there"}
    machine = preflight.this_machine(Config(gpus=0, **settings))
    assert machine.device_bytes == 0
    assert machine.memory_bytes
    assert machine.free_bytes
    assert preflight.this_machine(Config(gpus=1, **settings)).device_bytes is None
