"""Example calls that ``darkroom serve`` shows."""

from __future__ import annotations

import io
import json
from dataclasses import fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from deployments.replica.tuned import Machine
from serve_app.cli.connection.installation import Installation
from serve_app.cli.serve import gpus
from serve_app.cli.serve.greeting import MODEL, PROMPT, print_welcome, sample_model
from serve_app.cli.serve.notices import print_not_tuned
from serve_app.settings import read_config
from tests.ingress.house import OTHERS
from tests.wire.served import serve


def model(endpoint_id: str, category: str = "text-to-image", *, served: bool = True) -> Any:
    return {
        "endpoint_id": endpoint_id,
        "metadata": {"category": category},
        "darkroom": {"served": served},
    }


def takes_prompt(endpoint_id: str) -> bool:
    return endpoint_id != "me/any-workflow"


def test_the_usual_model_is_shown_where_it_is_served() -> None:
    assert sample_model([model("me/first"), model(MODEL)], takes_prompt) == MODEL


def test_where_it_is_not_another_that_draws_from_a_prompt_is_shown() -> None:
    others = [model("me/videos", "text-to-video"), model("me/later", served=False)]
    others += [model("me/any-workflow"), model("me/own"), model(MODEL, served=False)]
    assert sample_model(others, takes_prompt) == "me/own"


def test_where_none_draws_none_is_shown() -> None:
    others = [model("me/videos", "text-to-video"), model("me/any-workflow")]
    assert sample_model(others, takes_prompt) is None


def test_the_key_is_printed_at_the_first_start_alone(tmp_path: Path) -> None:
    installation = Installation(tmp_path)
    installation.run_file.write_text('{"url": "http://127.0.0.1:9"}')  # nothing listens there
    installation.key_file.write_text("first:a-secret\n")
    for times in (1, 0):
        lines: list[str] = []
        print_welcome(installation, "http://darkroom", lines.append, sample=False, demo=True)
        assert sum("first:a-secret" in line for line in lines) == times
        assert any("http://darkroom" in line for line in lines)


def test_the_first_start_on_a_gpu_says_that_it_is_not_tuned_and_how_long_that_takes(
    tmp_path: Path,
) -> None:
    lines: list[str] = []
    with_gpu = {"data_dir": tmp_path, "gpus": 1}
    print_not_tuned(read_config(with_gpu | {"gpus": 0}), lines.append)
    print_not_tuned(read_config(with_gpu | {"demo": True}), lines.append)
    assert lines == []
    print_not_tuned(read_config(with_gpu), lines.append)
    assert "has not been tuned. `darkroom tune` measures" in lines[0]
    assert "about 10 minutes for each model" in lines[0]
    print_not_tuned(read_config(with_gpu), lines.append)
    assert len(lines) == 1


def test_a_machine_that_has_been_tuned_is_told_nothing(tmp_path: Path) -> None:
    lines: list[str] = []
    (tmp_path / "tuning.json").write_text("{}")
    print_not_tuned(read_config({"data_dir": tmp_path, "gpus": 1}), lines.append)
    assert lines == []


def driver_files(folder: Path, gpu: str, driver: str = "580.65.06") -> Path:
    """Files of NVIDIA's driver in place of those below /proc."""
    of_one = folder / "gpus" / "0000:01:00.0"
    of_one.mkdir(parents=True, exist_ok=True)
    (of_one / "information").write_text(f"Model: \t\t {gpu}\nIRQ:   \t\t 42\n")
    (folder / "version").write_text(f"NVRM version: NVIDIA UNIX Kernel Module  {driver}  Release\n")
    return folder


def test_measurements_of_another_gpu_driver_or_torch_are_none_of_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lines_with(gpu: str, driver: str = "580.65.06") -> list[str]:
        lines: list[str] = []
        monkeypatch.setattr(gpus, "DRIVER", driver_files(tmp_path / "nvidia", gpu, driver))
        print_not_tuned(read_config({"data_dir": tmp_path, "gpus": 1}), lines.append)
        return lines

    machine = {"device": "NVIDIA H200", "driver": "580.65.06"}
    machine |= {package: version(package) for package in gpus.PACKAGES}
    (tmp_path / "tuning.json").write_text(json.dumps({"tunings": [{"machine": machine}]}))
    assert lines_with("NVIDIA H200") == []
    (line,) = lines_with("NVIDIA L4")
    assert "has not been tuned. Its measurements are of another GPU, driver or torch." in line
    assert lines_with("NVIDIA L4") == []
    assert lines_with("NVIDIA H200") == []
    assert len(lines_with("NVIDIA H200", "590.10")) == 1


def test_the_machine_of_the_greeting_is_the_one_of_the_measurements() -> None:
    """Both read the same facts, one with torch and the other without."""
    assert [field.name for field in fields(Machine)] == ["device", "driver", *gpus.PACKAGES]


class Terminal(io.StringIO):
    """Remembers what was written to it, as a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("demo", [True, False])
def test_the_progress_of_the_sample_is_on_the_console_s_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], demo: bool
) -> None:
    installation, screen, lines = Installation(tmp_path), Terminal(), list[str]()
    with serve(catalog=OTHERS) as address:
        installation.run_file.write_text(json.dumps({"url": address.url}))
        installation.key_file.write_text(address.key)
        print_welcome(
            installation, address.url, lines.append, sample=True, demo=demo, screen=screen
        )
    assert f'"{PROMPT}" took' in lines[-1]
    assert ("100%" in screen.getvalue()) == (not demo), "with demo models there is no download"
    assert capsys.readouterr().err == "", "that is not the terminal while Ray runs"
