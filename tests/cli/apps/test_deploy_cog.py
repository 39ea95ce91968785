"""``darkroom deploy`` of Cog models, against a running ingress."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner, Result

from serve_app.cli.main import main
from tests.ingress.house import MODELS
from tests.wire.served import Address, serve

# Warnings of Ray, if it is imported first.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

PREDICT = """\
from cog import BasePredictor, Input, Path

class Predictor(BasePredictor):
    def predict(self, prompt: str, scale: float = Input(default=2, ge=1, le=4)) -> Path:
        \"\"\"Draw a prompt.\"\"\"
        raise NotImplementedError

def train(data: Path, epochs: int = 1) -> Path:
    raise NotImplementedError
"""


@pytest.fixture(scope="module")
def here() -> Iterator[Address]:
    with serve(models=MODELS, replica=False) as address:
        yield address


class Typist:
    """Person who types ``darkroom deploy`` beside a folder with a Cog model."""

    def __init__(self, folder: Path, address: Address) -> None:
        self.folder = folder / "My Model"
        self.folder.mkdir()
        (self.folder / "predict.py").write_text(PREDICT)
        self._data_dir = folder / "data"
        self._data_dir.mkdir()
        self._address = address
        (self._data_dir / "run.json").write_text(json.dumps({"url": address.url}))
        (self._data_dir / "api_key").write_text(address.key)

    def deploy(self, *words: str) -> Result:
        return CliRunner().invoke(main, ["deploy", *words, "--data-dir", str(self._data_dir)])

    def write(self, text: str) -> str:
        """Write the ``cog.yaml``, and return the folder."""
        (self.folder / "cog.yaml").write_text(text)
        return str(self.folder)

    def entries(self) -> dict[str, Any]:
        answer = httpx.get(
            f"{self._address.url}/v1/models/entries",
            headers={"Authorization": f"Key {self._address.key}"},
            trust_env=False,
        )
        return {entry["endpoint_id"]: entry["entry"] for entry in answer.json()["entries"]}


@pytest.fixture
def typist(tmp_path: Path, here: Address) -> Typist:
    return Typist(tmp_path, here)


def test_a_folder_with_a_cog_yaml_becomes_endpoints(typist: Typist) -> None:
    folder = typist.write(
        "build: {cuda: '12'}\npredict: predict.py:Predictor\ntrain: predict.py:train\n"
    )
    ran = typist.deploy(folder)
    if "cannot be installed" in ran.output:
        pytest.skip(f"The package cog cannot be installed here: {ran.output}")
    assert ran.exit_code == 0, ran.output
    assert "apps/my-model is served by the pool" in ran.output
    assert "apps/my-model/train is served by the pool" in ran.output
    assert "Note: cog.yaml: build.cuda has no effect without an image." in ran.output
    stored = typist.entries()
    entry = stored["apps/my-model"]
    assert (entry["family"], entry["category"]) == ("cog", "text-to-file")
    assert entry["description"] == "Draw a prompt."
    assert entry["options"]["cog"]["target"] == "predict.py:Predictor"
    assert entry["options"]["input_schema"]["properties"]["scale"]["maximum"] == 4
    assert stored["apps/my-model/train"]["options"]["cog"]["mode"] == "train"
    assert stored["apps/my-model/train"]["category"] == "file-to-file"

    # Equal code is an equal deployment; the file itself may be named, too.
    again = typist.deploy(f"{folder}/cog.yaml", "--name", "team/other", "--dry-run", "--json")
    shown = json.loads(again.stdout)
    assert shown["digest"] is None
    assert "team/other" not in typist.entries()


@pytest.mark.parametrize(
    ("text", "words", "sentence"),
    [
        ("build: {gpu: true}\npredict: predict.py\n", (), "cog.yaml asks for a GPU. Name the pool"),
        ("build: {system_packages: [x]}\npredict: a.py\n", (), "build.system_packages (x) needs"),
        ("predict: gone.py:Predictor\n", (), "names the file gone.py, which is not there"),
        ("predict: predict.py:Predictor\n", ("--app", "A"), "--app cannot be used for a Cog model"),
        ("predict: predict.py\n", ("--cog-server", "http://x"), "Name a file, or --cog-server, n"),
    ],
    ids=["gpu", "system packages", "file", "class", "both"],
)
def test_what_is_wrong_with_a_model_is_said_before_anything_is_stored(
    typist: Typist, text: str, words: tuple[str, ...], sentence: str
) -> None:
    before = typist.entries()
    ran = typist.deploy(typist.write(text), *words)
    if "cannot be installed" in ran.output:
        pytest.skip(f"The package cog cannot be installed here: {ran.output}")
    assert ran.exit_code != 0
    assert sentence in " ".join(ran.output.split())
    assert typist.entries() == before


def test_neither_a_file_nor_a_model_is_refused(typist: Typist, tmp_path: Path) -> None:
    assert "Name a file or a folder, or --cog-server." in typist.deploy().output
    ran = typist.deploy(str(tmp_path))
    assert ran.exit_code == 1
    assert "is a folder without a cog.yaml" in ran.output
    gone = typist.deploy("--cog-server", "http://127.0.0.1:9")
    assert "No Cog server answers at http://127.0.0.1:9" in " ".join(gone.output.split())
