"""``darkroom tune`` with a demo model, in real processes."""

from __future__ import annotations

import fcntl
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from deployments.engine.accelerator.selection import accelerator_for
from deployments.replica.tuned import machine_of
from serve_app.cli.main import main
from tests.cluster.processes import with_default_signals
from tests.deployments.tuning.results import SLOW, write_results

# Warnings of Ray, if it is imported first.
pytestmark = [
    pytest.mark.engine,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
]

FLUX = "fal-ai/flux/schnell"
SHORT = (FLUX, "--steps", "1", "--variant", "plain", "--variant", "float8")


@pytest.fixture
def data_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    for name, value in {"DATA_DIR": str(tmp_path / "data"), "GPUS": "0"}.items():
        monkeypatch.setenv(f"DARKROOM_{name}", value)
    return tmp_path / "data"


def run_tune(*words: str) -> Result:
    return CliRunner().invoke(main, ["tune", *words])


def read_tunings(data_dir: Path) -> list[dict[str, Any]]:
    return json.loads((data_dir / "tuning.json").read_text())["tunings"]


@pytest.mark.long
def test_ctrl_c_keeps_what_is_done_and_the_next_run_goes_on(data_dir: Path) -> None:
    command = with_default_signals(sys.executable, "-m", "serve_app.cli", "tune", *SHORT)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("  plain"):
                process.send_signal(signal.SIGINT)
                break
        assert process.wait() == 130
    (tuning,) = read_tunings(data_dir)
    (plain,) = tuning["measurements"]
    assert plain["variant"] == "plain"

    ran = run_tune(*SHORT)
    assert ran.exit_code == 0, ran.output
    (tuning,) = read_tunings(data_dir)
    assert tuning["measurements"][0] == plain  # it was not measured again
    float8 = tuning["measurements"][1]
    assert float8["error"] == ""
    assert 0.5 < float8["similarity"] < 1
    assert tuning["machine"]["torch"]
    assert f"Kept in {data_dir / 'tuning.json'}" in ran.output

    listed = run_tune("--list")
    assert FLUX in listed.output
    assert "float8" in listed.output
    assert json.loads(run_tune("--list", "--json").output)[0]["endpoints"] == [FLUX]
    assert "measurements of 0 of 1 models" in run_tune("--forget", "fal-ai/other").output
    assert "measurements of 1 of 1 models" in run_tune("--forget", FLUX).output
    assert read_tunings(data_dir) == []
    assert "Nothing is kept" in run_tune("--list").output


def test_an_endpoint_that_is_not_there_is_named(data_dir: Path) -> None:
    ran = run_tune("fal-ai/flux/schnel")
    assert ran.exit_code == 1
    assert FLUX in ran.output


@pytest.mark.long
def test_a_variant_that_is_not_there_is_named_with_those_that_are(data_dir: Path) -> None:
    ran = run_tune(FLUX, "--variant", "faster")
    assert ran.exit_code == 1
    assert "no variant faster of these models here. Variants: plain, compiled" in ran.output


def test_a_running_darkroom_must_be_stopped_first(data_dir: Path) -> None:
    data_dir.mkdir()
    with (data_dir / "serve.lock").open("w") as lock:
        lock.write("pid 12")
        lock.flush()
        fcntl.flock(lock, fcntl.LOCK_EX)
        ran = run_tune(FLUX)
    assert ran.exit_code == 1
    assert "Another Darkroom (pid 12) uses" in ran.output
    assert "Stop it, run `darkroom tune`, and start it again." in ran.output


def test_weights_that_are_not_downloaded_are_named_with_the_command(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"DEMO": "false", "WEIGHTS_DIR": str(tmp_path / "none")}.items():
        monkeypatch.setenv(f"DARKROOM_{name}", value)
    ran = run_tune(FLUX)
    assert ran.exit_code == 1
    assert f"Run `darkroom models pull {FLUX}` first." in ran.output
    assert "so there is nothing to tune" in run_tune().output


@pytest.mark.long
def test_variants_that_the_benchmark_speaks_against_are_left_out_with_the_reason(
    data_dir: Path, tmp_path: Path
) -> None:
    here = machine_of(accelerator_for("cpu"))
    path = write_results(tmp_path, here, compile="off", graphs="on", newer="off")
    command = (FLUX, "--measured", str(path), "--minutes", "0.001")
    row = f"  compiled               left out, compile is off: {SLOW}\n"

    ran = run_tune(*command)  # the time is over before the first measurement
    assert ran.exit_code == 0, ran.output
    assert ran.stdout.count("left out") == 1
    assert row in ran.stdout
    assert f"{path} has verdicts on newer, which this Darkroom does not know" in ran.stderr
    assert row in run_tune("--list").stdout
    assert json.loads(run_tune("--list", "--json").stdout)[0]["left_out"].keys() == {"compiled"}

    as_json = run_tune(*command, "--json")
    assert json.loads(as_json.stdout)[0]["left_out"] == {"compiled": f"compile is off: {SLOW}"}
    assert "left out" not in run_tune(FLUX, "--minutes", "0.001").stdout


@pytest.mark.long
def test_verdicts_of_another_card_are_refused_before_anything_is_measured(
    data_dir: Path, tmp_path: Path
) -> None:
    here = machine_of(accelerator_for("cpu"))
    path = write_results(tmp_path, replace(here, device="NVIDIA H200"), compile="off")
    ran = run_tune(FLUX, "--measured", str(path))
    assert ran.exit_code == 1
    assert f"{path} was measured on NVIDIA H200" in ran.output
    assert here.device in ran.output
    assert not (data_dir / "tuning.json").exists()
