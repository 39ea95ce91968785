"""Why torch cannot use a GPU, as a replica and ``darkroom doctor`` say it."""

from pathlib import Path
from random import Random

import pytest
import torch
from click.testing import CliRunner

from deployments.engine.accelerator import diagnosis
from deployments.engine.accelerator.diagnosis import gpu_problem
from deployments.replica.config import ReplicaConfig
from deployments.replica.deployment import make_resources
from deployments.transfer.uploader import Backoff
from serve_app.cli.main import main
from serve_app.domain.errors import Misconfigured
from serve_app.telemetry.clock import SystemClock

pytestmark = [
    pytest.mark.engine,
    pytest.mark.skipif(torch.cuda.is_available(), reason="torch can use a GPU here"),
]

BACKOFF = Backoff(Random(0))  # noqa: S311 - of retries
OPEN = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  535.183.01  Release Build"
CLOSED = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.183.01  Sun May 12 19:39:15 UTC 2024"


@pytest.mark.skipif(torch.version.cuda is not None, reason="this torch is built for CUDA")
def test_a_torch_without_cuda_is_named_with_its_remedy():
    problem = gpu_problem()
    assert torch.__version__ in problem
    assert "without CUDA. Install a build of torch for CUDA." in problem


@pytest.mark.parametrize("version", [OPEN, CLOSED])
def test_a_driver_that_is_too_old_is_named_with_the_one_that_is_needed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, version: str
):
    (tmp_path / "version").write_text(f"{version}\nGCC version: gcc version 12.3.0\n")
    monkeypatch.setattr(diagnosis, "DRIVER", tmp_path / "version")
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    problem = gpu_problem()
    assert "built for CUDA 13.0, and the driver is 535.183.01. It needs 580 or later." in problem


def test_a_missing_driver_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(diagnosis, "DRIVER", tmp_path / "nothing")
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    assert "this machine has no NVIDIA driver. It needs 580 or later." in gpu_problem()


def test_a_replica_of_a_pool_with_gpus_does_not_compute_on_the_cpu_beside_its_gpu(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.setattr(diagnosis, "DEVICES", tmp_path)
    (tmp_path / "nvidia0").touch()
    with pytest.raises(Misconfigured, match=r"need a GPU.*cannot use a GPU"):
        make_resources(ReplicaConfig(needs_gpu=True), {}, SystemClock(), BACKOFF)


@pytest.mark.long
def test_the_doctor_reports_a_gpu_that_torch_cannot_use(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.setenv("DARKROOM_GPUS", "1")
    monkeypatch.setenv("DARKROOM_OFFLINE", "1")  # or it waits for the hub
    output = CliRunner().invoke(main, ["doctor", "--data-dir", str(tmp_path)]).output
    assert "PROBLEM gpu: torch" in " ".join(output.split())
