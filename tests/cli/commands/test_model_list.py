"""``darkroom models``, against a running ingress."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from serve_app.cli.commands import model_list
from serve_app.cli.main import main
from tests.wire.served import served


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Data directory of a running Darkroom."""
    directory = tmp_path_factory.mktemp("data")
    with served() as here:
        (directory / "run.json").write_text(json.dumps({"url": here.url}))
        (directory / "api_key").write_text(here.key)
        yield directory


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Machine whose GPU memory in MiB is the content of this file."""
    says = tmp_path / "says"
    says.write_text("")
    tool = tmp_path / model_list.NVIDIA_SMI
    tool.write_text(f"#!/bin/sh\ncat {says}\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    return says


def shown(data_dir: Path, *options: str) -> str:
    ran = CliRunner().invoke(main, ["models", "--data-dir", str(data_dir), *options])
    assert ran.exit_code == 0, ran.output
    return ran.output


def test_served_endpoints_are_one_line_each_in_groups(data_dir: Path, machine: Path) -> None:
    lines = shown(data_dir).splitlines()
    assert lines[0] == "Images from text"
    listed, rest = lines[1:-2], lines[-2:]
    assert [each.split()[0] for each in listed] == [
        "test/probe",
        "test/generator",
        "test/generator/stream",
        "test/deep/path/probe",
        "fal-ai/flux/schnell",
    ]
    assert listed[4].split() == ["fal-ai/flux/schnell", "FLUX.1", "[schnell]", "demo"]
    width = len("test/generator/stream")
    assert listed[4].index("FLUX.1") == 2 + width + 2, "as wide as the longest id"
    assert rest == ["", "1 more are in the catalogue and not served; --all shows them, and why."]


def test_all_shows_weights_and_licences_and_why_one_is_not_served(
    data_dir: Path, machine: Path
) -> None:
    lines = shown(data_dir, "--all").splitlines()
    at = next(n for n, line in enumerate(lines) if "fal-ai/flux/schnell" in line)
    assert [each.split()[0] for each in lines[at + 1 : at + 5]] == [
        "family",
        "licence",
        "weights",
        "from",
    ]
    assert lines[at + 2].split() == ["licence", "Apache-2.0"]
    assert lines[at + 3].endswith("deployments/demo/flux")
    unserved = next(n for n, line in enumerate(lines) if "test/unserved" in line)
    assert lines[unserved - 1] == "Images from images"
    assert "not served" in lines[unserved]
    assert "black-forest-labs/FLUX.1-dev@3de623fc3c33" in lines[unserved + 2]
    assert "no demo model" in lines[unserved + 5]


@pytest.mark.parametrize(
    ("mib", "words"),
    [
        ("24564", "float8, offload components, hot: transformer (for 24 GB; this machine has 26)"),
        ("8192", "this machine's GPU has 9 GB, and the smallest recipe needs 24 GB"),
        ("", "no GPU was found on this machine, and the smallest recipe needs 24 GB"),
    ],
)
def test_the_recipe_is_the_one_that_fits_this_machine(
    data_dir: Path, machine: Path, mib: str, words: str
) -> None:
    machine.write_text(mib)
    assert words in shown(data_dir, "--all")


def test_programs_get_one_json_document(data_dir: Path, machine: Path) -> None:
    machine.write_text("24564")
    document = json.loads(shown(data_dir, "--json"))
    assert document["device_memory_bytes"] == 24564 * 2**20
    found = {each["endpoint_id"]: each for each in document["models"]}
    assert found["test/unserved"]["recipe"]["memory_gb"] == 24
    assert found["fal-ai/flux/schnell"]["recipe"] is None
    assert found["fal-ai/flux/schnell"]["darkroom_demo"] is True


def test_all_pages_are_shown(
    data_dir: Path, machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = shown(data_dir)
    monkeypatch.setattr(model_list, "PAGE", 1)
    assert shown(data_dir) == whole
