"""``darkroom deploy``, against a running ingress."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner, Result

from deployments.executors.describing import bundle
from deployments.executors.python.deploying import entries
from serve_app.cli.main import main
from serve_app.domain.executors.deployable import Choices, category
from tests.ingress.house import MODELS
from tests.wire.served import Address, serve

# Warnings of Ray, if it is imported first.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

GREETER = """\
import darkroom

class Greeter(darkroom.App):
    concurrency = 2

    @darkroom.endpoint("/")
    def greet(self, name: str = "you") -> dict[str, str]:
        \"\"\"Greet a person.\"\"\"
        return {"text": name}

    @darkroom.endpoint("/draw")
    def draw(self, prompt: str) -> darkroom.Image:
        raise NotImplementedError
"""
ON_GPU = GREETER.replace("concurrency = 2", "gpu = 'L4'")


@pytest.fixture(scope="module")
def here() -> Iterator[Address]:
    with serve(models=MODELS, replica=False) as address:
        yield address


class Typist:
    """Person who types ``darkroom deploy`` in a folder with an app."""

    def __init__(self, folder: Path, address: Address) -> None:
        self.file = folder / "greeter.py"
        self.data_dir = folder / "data"
        self.data_dir.mkdir()
        self.address = address
        (self.data_dir / "run.json").write_text(json.dumps({"url": address.url}))
        (self.data_dir / "api_key").write_text(address.key)

    def deploy(self, text: str, *words: str) -> Result:
        self.file.write_text(text)
        arguments = ["deploy", str(self.file), "--data-dir", str(self.data_dir), *words]
        return CliRunner().invoke(main, arguments)

    def undeploy(self, *words: str) -> Any:
        return CliRunner().invoke(main, ["undeploy", *words, "--data-dir", str(self.data_dir)])

    def entries(self) -> dict[str, Any]:
        """Stored entries by their endpoints."""
        answer = httpx.get(
            f"{self.address.url}/v1/models/entries",
            headers={"Authorization": f"Key {self.address.key}"},
            trust_env=False,
        )
        return {entry["endpoint_id"]: entry["entry"] for entry in answer.json()["entries"]}


@pytest.fixture
def typist(tmp_path: Path, here: Address) -> Typist:
    return Typist(tmp_path, here)


def test_an_app_s_packages_are_installed_where_the_installation_finds_them(typist: Typist) -> None:
    missing = 'requirements = ["ours @ file:///none/ours-1-py3-none-any.whl"]'
    ran = typist.deploy(GREETER.replace("concurrency = 2", missing))
    assert ran.exit_code == 1
    assert "ours" in ran.output
    assert list((typist.data_dir / "apps" / "environments").iterdir())


def test_the_endpoints_of_an_app_become_entries(typist: Typist) -> None:
    ran = typist.deploy(GREETER)
    assert ran.exit_code == 0, ran.output
    assert ran.output == (
        "apps/greeter/draw is served by the pool studio.\n"
        "apps/greeter is served by the pool studio.\n"
    )
    stored = typist.entries()
    assert {"apps/greeter", "apps/greeter/draw"} <= stored.keys()
    digest = hashlib.sha256(bundle(typist.file, [])).hexdigest()
    entry = stored["apps/greeter"]
    output = entry["options"].pop("output_schema")
    assert output["additionalProperties"] == {"type": "string"}
    assert entry == {
        "family": "python",
        "schema": "json",
        "category": "text-to-text",
        "description": "Greet a person.",
        "options": {
            "app": {
                "bundle": digest,
                "class": "greeter:Greeter",
                "path": "/",
                "requirements": None,
                "concurrency": 2,
                "start_timeout_s": 600.0,
            },
            "input_schema": {
                "title": "GreetInput",
                "type": "object",
                "properties": {"name": {"title": "Name", "type": "string", "default": "you"}},
                "x-fal-order-properties": ["name"],
            },
        },
    }
    assert stored["apps/greeter/draw"]["category"] == "text-to-image"

    # Equal code is an equal deployment.
    again = typist.deploy(GREETER, "--json")
    assert json.loads(again.output)["digest"] == digest
    assert len(typist.entries()) == len(stored)


@pytest.mark.long
def test_an_app_names_its_secrets_and_hears_which_are_not_set(typist: Typist) -> None:
    text = GREETER.replace("concurrency = 2", "secrets = ['HF_TOKEN', 'OTHER_TOKEN']")
    headers = {"Authorization": f"Key {typist.address.key}"}
    url = f"{typist.address.url}/v1/secrets/OTHER_TOKEN?installation=true"
    httpx.put(url, json={"value": "x"}, headers=headers, trust_env=False).raise_for_status()
    ran = typist.deploy(text, "--name", "team/secret")
    assert ran.exit_code == 0, ran.output
    assert "The secret HF_TOKEN is not set" in ran.output
    assert "OTHER_TOKEN" not in ran.output
    options = typist.entries()["team/secret"]["options"]
    assert options["secrets"] == ["HF_TOKEN", "OTHER_TOKEN"]
    wrong = typist.deploy(text.replace("HF_TOKEN", "PYTHONPATH"), "--name", "team/wrong")
    assert wrong.exit_code == 1
    assert "`options.secrets` names PYTHONPATH" in wrong.output


@pytest.mark.long
def test_a_dry_run_stores_nothing(typist: Typist) -> None:
    ran = typist.deploy(GREETER, "--dry-run", "--name", "team/dry")
    assert ran.exit_code == 0, ran.output
    assert "team/dry would be served by the pool studio." in ran.output
    assert not {"team/dry", "team/dry/draw"} & typist.entries().keys()
    shown = json.loads(typist.deploy(GREETER, "--dry-run", "--json").output)
    assert shown["digest"] is None
    assert len(shown["entries"]) == 2


def test_one_endpoint_that_cannot_be_stored_keeps_the_others_out(typist: Typist) -> None:
    ran = typist.deploy(GREETER.replace('"/draw"', '"/requests"'), "--name", "team/half")
    assert ran.exit_code != 0
    assert "begins a request's URL" in ran.output
    assert "team/half" not in typist.entries()


@pytest.mark.long
def test_an_app_has_the_name_that_is_asked_for(typist: Typist) -> None:
    assert typist.deploy(GREETER, "--name", "hello").exit_code == 0
    assert typist.deploy(GREETER, "--name", "team/hello").exit_code == 0
    assert {"apps/hello", "team/hello", "team/hello/draw"} <= typist.entries().keys()


@pytest.mark.long
def test_an_endpoint_that_the_class_has_no_more_is_removed(typist: Typist) -> None:
    assert typist.deploy(GREETER, "--name", "team/less").exit_code == 0
    other = GREETER.replace('"/draw"', '"/kept"')
    assert typist.deploy(other, "--name", "team/less/draw").exit_code == 0
    less = GREETER.replace('"/draw"', '"/paint"')
    shown = typist.deploy(less, "--name", "team/less", "--dry-run")
    assert "team/less/draw would be deleted" not in shown.output  # it is another app's now
    assert typist.deploy(GREETER, "--name", "team/less").exit_code == 0
    shown = typist.deploy(less, "--name", "team/less", "--dry-run")
    assert "team/less/draw would be deleted: the class no longer has it." in shown.output
    assert "team/less/draw" in typist.entries()
    ran = typist.deploy(less, "--name", "team/less")
    assert "team/less/draw is deleted: the class no longer has it." in ran.output
    left = {entry for entry in typist.entries() if entry.startswith("team/less")}
    assert left == {"team/less", "team/less/paint", "team/less/draw/kept"}


@pytest.mark.long
def test_an_app_is_removed_with_all_its_endpoints(typist: Typist) -> None:
    assert typist.deploy(GREETER, "--name", "team/gone").exit_code == 0
    assert typist.deploy(GREETER, "--name", "team/goner").exit_code == 0
    ran = typist.undeploy("team/gone")
    assert ran.exit_code == 0, ran.output
    assert sorted(ran.output.splitlines()) == [
        "team/gone is deleted.",
        "team/gone/draw is deleted.",
    ]
    left = {entry for entry in typist.entries() if entry.startswith("team/gone")}
    assert left == {"team/goner", "team/goner/draw"}
    again = typist.undeploy("team/gone")
    assert again.exit_code != 0
    assert "There is no app team/gone." in again.output


TWO = GREETER + "\nclass Other(Greeter):\n    pass\n"


@pytest.mark.variants(1)
@pytest.mark.parametrize(
    ("text", "words", "sentence"),
    [
        (TWO, (), "greeter.py has 2 classes that are a darkroom.App (Greeter, Other). Name one "),
        ("x = 1\n", (), "greeter.py has 0 classes that are a darkroom.App (none). Derive one"),
        (TWO, ("--app", "Nobody"), "greeter.py has no class Nobody that is a darkroom.App."),
        (ON_GPU, (), "greeter:Greeter asks for a GPU (L4). Name the pool whose replicas have one"),
        ("class A(\n", (), "greeter.py:1: "),
        (GREETER + "import gone_away\n", (), "No module named 'gone_away' (greeter.py, line 14)"),
        (
            GREETER.replace(" -> darkroom.Image", ""),
            (),
            "Greeter.draw does not say what it returns: add `-> Output`",
        ),
    ],
    ids=["two", "none", "unknown", "gpu", "syntax", "import", "no type"],
)
def test_what_is_wrong_with_an_app_is_said_before_anything_is_stored(
    typist: Typist, text: str, words: tuple[str, ...], sentence: str
) -> None:
    before = typist.entries()
    ran = typist.deploy(text, *words)
    assert ran.exit_code != 0
    assert sentence in " ".join(ran.output.split())
    assert typist.entries() == before


@pytest.mark.long
def test_a_requirement_that_cannot_be_installed_is_named_before_anything_is_stored(
    typist: Typist, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    before = typist.entries()
    text = GREETER.replace("concurrency = 2", "requirements = ['nothing-like-it==4']")
    ran = typist.deploy(text, "--data-dir", str(typist.data_dir))
    assert ran.exit_code == 1
    output = " ".join(ran.output.split())
    assert "The requirements nothing-like-it==4 cannot be installed: " in output
    assert "Traceback" not in output
    assert typist.entries() == before


@pytest.mark.long
def test_one_of_two_classes_is_chosen_and_a_module_beside_it_comes_along(
    typist: Typist, tmp_path: Path
) -> None:
    (tmp_path / "words.py").write_text("HELLO = 'hello'\n")
    text = "import words\n" + TWO
    ran = typist.deploy(text, "--app", "Other", "--with", str(tmp_path / "words.py"))
    assert ran.exit_code == 0, ran.output
    assert typist.entries()["apps/other"]["options"]["app"]["class"] == "greeter:Other"
    alone = typist.deploy(text, "--app", "Other")
    assert "No module named 'words' (greeter.py, line 1)" in " ".join(alone.output.split())


def test_an_app_for_a_gpu_is_given_to_its_pool(typist: Typist) -> None:
    shown = typist.deploy(ON_GPU, "--pool", "large", "--dry-run", "--json")
    assert shown.exit_code == 0, shown.output
    app = {"name": "a", "class": "a:A", "requirements": [], "concurrency": 1}
    endpoint = {"path": "/", "description": "", "input_schema": {}, "output_schema": {}}
    whole = {**app, "secrets": [], "start_timeout_s": 1, "endpoints": [endpoint]}
    ((name, entry),) = entries(whole, Choices(None, pool="large"), "d")
    assert (name, entry["pool"]) == ("apps/a", "large")


def files(kind: str) -> dict[str, Any]:
    return {"properties": {"x": {"items": {"x-darkroom-file": kind}}}}


@pytest.mark.parametrize(
    ("inputs", "outputs", "expected"),
    [
        ({}, {}, "text-to-text"),
        ({}, files("image"), "text-to-image"),
        (files("image"), files("video"), "image-to-video"),
        (files("audio"), {}, "audio-to-text"),
        (files("file"), files("file"), "file-to-file"),
    ],
)
def test_the_category_is_that_of_the_files(inputs: Any, outputs: Any, expected: str) -> None:
    assert category(inputs, outputs) == expected


def test_a_description_that_speaks_of_files_is_no_file() -> None:
    spoken = {"properties": {"x": {"description": 'see "x-darkroom-file": "video"'}}}
    assert category(spoken, {}) == "text-to-text"
