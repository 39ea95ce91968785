"""``darkroom deploy`` of a ComfyUI workflow, against a running ingress and a ComfyUI."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner, Result

from serve_app.cli.main import main
from tests.deployments.executors.comfyui import server
from tests.ingress.house import MODELS
from tests.wire.served import Address, serve

# Warnings of Ray, if it is imported first.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

GRAPH: dict[str, Any] = {
    "1": {
        "class_type": "TestSteps",
        "inputs": {"steps": 4, "seed": 7, "text": "a cat", "then": "end", "until": ""},
    },
    "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "mine"}},
}
COMFYUI = {"path": str(Path(server.__file__).parent), "python": sys.executable}


@pytest.fixture(scope="module")
def here() -> Iterator[Address]:
    with serve(models=MODELS, replica=False) as address:
        yield address


class Designer:
    """Person who types ``darkroom deploy`` in a folder with a workflow."""

    def __init__(self, folder: Path, address: Address) -> None:
        self.folder = folder
        self.address = address
        self.data_dir = folder / "data"
        self.data_dir.mkdir()
        (self.data_dir / "run.json").write_text(json.dumps({"url": address.url}))
        (self.data_dir / "api_key").write_text(address.key)

    def deploy(self, workflow: Any, *words: str) -> Result:
        file = self.folder / "My Cat.json"
        file.write_text(json.dumps(workflow))
        arguments = ["deploy", str(file), "--data-dir", str(self.data_dir), *words]
        return CliRunner().invoke(main, arguments)


@pytest.fixture
def designer(tmp_path: Path, here: Address, monkeypatch: pytest.MonkeyPatch) -> Designer:
    monkeypatch.setenv("DARKROOM_COMFYUI", json.dumps(COMFYUI))
    return Designer(tmp_path, here)


def test_a_workflow_becomes_an_endpoint_with_its_schema(designer: Designer) -> None:
    shown = designer.deploy(GRAPH)
    assert shown.exit_code == 0, shown.output
    assert shown.output.startswith("apps/my-cat is ")
    answer = httpx.get(
        f"{designer.address.url}/v1/models",
        params={"endpoint_id": "apps/my-cat", "expand": "openapi-3.0"},
        headers={"Authorization": f"Key {designer.address.key}"},
        trust_env=False,
    )
    text = answer.text
    assert '"num_inference_steps"' in text
    assert '"x-darkroom-file":"image"' in text.replace(": ", ":")


@pytest.mark.long
def test_inputs_are_named_and_a_mistake_says_where_it_is(designer: Designer) -> None:
    named = designer.deploy(GRAPH, "--input", "words=1.text", "--dry-run", "--json")
    assert named.exit_code == 0, named.output
    wrong = designer.deploy(GRAPH, "--input", "words=1.txt", "--dry-run")
    assert wrong.exit_code == 1
    assert "Node 1 (TestSteps) has no value `txt`" in wrong.output


def test_a_workflow_of_the_editor_is_refused_with_what_to_do(designer: Designer) -> None:
    shown = designer.deploy({"nodes": [], "links": []})
    assert shown.exit_code == 1
    assert "Export (API)" in shown.output


def test_an_unknown_node_is_refused_before_anything_is_stored(designer: Designer) -> None:
    graph = {**GRAPH, "1": {"class_type": "Fancy", "inputs": {}}}
    shown = designer.deploy(graph)
    assert shown.exit_code == 1
    assert "Node 1 (Fancy)" in shown.output


def test_without_a_comfyui_it_says_how_to_name_one(
    designer: Designer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DARKROOM_COMFYUI")
    shown = designer.deploy(GRAPH)
    assert shown.exit_code == 1
    assert "--comfyui" in shown.output


def test_a_comfyui_that_does_not_answer_is_named(designer: Designer) -> None:
    shown = designer.deploy(GRAPH, "--comfyui", "http://127.0.0.1:9")
    assert shown.exit_code == 1
    assert "No ComfyUI answers at http://127.0.0.1:9" in shown.output
