"""``darkroom deploy`` with a workflow, against a running ingress."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from serve_app.cli.main import main
from tests.ingress.house import OTHERS
from tests.wire.served import serve

# Warnings of Ray, if it is imported first.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

YAML = """
title: A poster
input:
  idea: {type: string}
steps:
  draw:
    app: test/images
    input: {prompt: $input.idea}
  each:
    app: test/probe
    for_each: $draw.images
    input: {echo: $item.url}
output:
  said: $each.*.echo
"""


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Data directory of a running Darkroom."""
    directory = tmp_path_factory.mktemp("data")
    with serve(catalog=OTHERS) as here:
        (directory / "run.json").write_text(json.dumps({"url": here.url}))
        (directory / "api_key").write_text(here.key)
        yield directory


def deploy(data_dir: Path, file: Path, *words: str) -> Result:
    return CliRunner().invoke(main, ["deploy", str(file), "--data-dir", str(data_dir), *words])


def write_file(folder: Path, name: str, text: str) -> Path:
    file = folder / name
    file.write_text(text)
    return file


def test_a_yaml_file_is_registered_by_its_name(data_dir: Path, tmp_path: Path) -> None:
    done = deploy(data_dir, write_file(tmp_path, "My Poster.yaml", YAML))
    assert done.exit_code == 0, done.output
    assert done.output == (
        "workflows/default/my-poster is registered for your tenant, with 2 steps.\n"
    )


def test_json_of_fals_is_checked_without_being_stored(data_dir: Path, tmp_path: Path) -> None:
    nodes = {
        "draw": {"id": "draw", "type": "run", "app": "test/images", "depends": [], "input": {}},
        "out": {
            "id": "out",
            "type": "display",
            "depends": ["draw"],
            "fields": {"x": "$draw.images"},
        },
    }
    file = write_file(tmp_path, "flow.json", json.dumps(nodes))
    done = deploy(data_dir, file, "--name", "try", "--dry-run", "--public", "--json")
    assert done.exit_code == 0, done.output
    document = json.loads(done.output)
    assert (document["endpoint_id"], document["public"]) == ("workflows/default/try", True)


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.json", "{\n oops", "a.json:2: this is not JSON"),
        ("a.yaml", "steps:\n  draw: [", "this is not YAML"),
        ("a.yaml", "- one", "a workflow is an object"),
        ("a.yaml", "steps: {draw: {app: 2026-01-01}}", "Put dates in quotes"),
        ("a.json", "[" * 100_000, "nested too deep"),
        ("a.yaml", YAML.replace("test/probe", "test/nothing"), "steps.each.app: There is no"),
    ],
)
def test_a_mistake_names_its_place(
    data_dir: Path, tmp_path: Path, name: str, text: str, words: str
) -> None:
    done = deploy(data_dir, write_file(tmp_path, name, text))
    assert done.exit_code == 1
    assert words in done.output


def test_options_of_apps_are_refused(data_dir: Path, tmp_path: Path) -> None:
    done = deploy(data_dir, write_file(tmp_path, "a.yaml", YAML), "--pool", "apps")
    assert "--pool cannot be used for a chain of endpoints" in done.output
