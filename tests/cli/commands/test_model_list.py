"""``darkroom models``, against a running ingress."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from serve_app.cli.commands import model_list
from serve_app.cli.main import main
from tests.wire.served import serve


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Data directory of a running Darkroom."""
    directory = tmp_path_factory.mktemp("data")
    with serve() as here:
        (directory / "run.json").write_text(json.dumps({"url": here.url}))
        (directory / "api_key").write_text(here.key)
        yield directory


def list_models(data_dir: Path, *options: str) -> str:
    ran = CliRunner().invoke(main, ["models", "--data-dir", str(data_dir), *options])
    assert ran.exit_code == 0, ran.output
    return ran.output


def test_served_endpoints_are_one_line_each_in_groups(data_dir: Path) -> None:
    lines = list_models(data_dir).splitlines()
    assert lines[0] == "Images from text"
    listed, rest = lines[1:-2], lines[-2:]
    assert [line.split()[0] for line in listed] == [
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


def test_all_shows_what_each_needs_and_every_reason_once(data_dir: Path) -> None:
    lines = list_models(data_dir, "--all").splitlines()
    unserved = next(line for line in lines if "test/unserved" in line)
    for words in ("not served", "does not fit", "24 GB GPU"):
        assert words in unserved
    assert sum("no demo model" in line for line in lines) == 1
    assert lines[-1] == "`darkroom models show ENDPOINT` shows all about one."


def test_all_about_one_is_shown(data_dir: Path) -> None:
    ran = CliRunner().invoke(main, ["models", "show", "test/unserved", "--data-dir", str(data_dir)])
    assert ran.exit_code == 0, ran.output
    lines = dict(line.split(maxsplit=1) for line in ran.output.splitlines()[1:])
    assert lines["weights"].startswith("black-forest-labs/FLUX.1-dev@3de623fc3c33")
    assert lines["fits"] == "no: it needs a GPU with 24 GB or more, and this machine has none"
    assert lines["served"].startswith("no. It has no demo model")
    assert lines["next"].startswith("serve it on a larger machine")


def test_one_that_is_not_there_is_named(data_dir: Path) -> None:
    ran = CliRunner().invoke(main, ["models", "show", "test/nobody", "--data-dir", str(data_dir)])
    assert ran.exit_code == 1
    assert "There is no endpoint test/nobody" in ran.output


def test_one_without_a_name_is_not_there(data_dir: Path) -> None:
    ran = CliRunner().invoke(main, ["models", "show", "", "--data-dir", str(data_dir)])
    assert (ran.exit_code, "There is no endpoint without a name" in ran.output) == (1, True)


def test_programs_get_one_json_document(data_dir: Path) -> None:
    document = json.loads(list_models(data_dir, "--json"))
    models = {model["endpoint_id"]: model for model in document["models"]}
    answer = models["test/unserved"]["darkroom"]["preflight"]
    assert (answer["server"], answer["fits"]) == ("nothing", False)
    assert answer["needs"]["device_gb"] == 24
    assert models["fal-ai/flux/schnell"]["darkroom_demo"] is True


def test_all_pages_are_shown(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = list_models(data_dir)
    monkeypatch.setattr(model_list, "PAGE", 1)
    assert list_models(data_dir) == whole
