"""Descriptions of Cog projects, read from the live class by the real package."""

from __future__ import annotations

import asyncio
import io
import json
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from deployments.executors.cog import deploying
from deployments.executors.cog.deploying import describe
from deployments.executors.cog.project import PACKAGES, read_project
from deployments.executors.cog.schema import input_schema, marked_output, output_schema
from deployments.executors.environment import Environments
from serve_app.catalog.schema.json_schema import JsonSchema
from serve_app.domain.endpoint import Endpoint, Weights
from serve_app.domain.errors import InvalidInput, Misconfigured
from serve_app.domain.executors.deployable import Choices
from tests.deployments.executors.cog.models import model
from tests.docs.pages import DOCS, blocks

IMPORTS = """\
import enum
from typing import Any, Literal, Optional
from cog import BaseModel, BasePredictor, File, Input, Path, Secret
"""


async def predictor(folder: Path, apps_dir: Path, signature: str, more: str = "") -> Any:
    """OpenAPI document of a predictor with this signature."""
    body = f"class Predictor(BasePredictor):\n    def predict({signature}:\n        pass\n"
    (folder / "predict.py").write_text(f"{IMPORTS}\n{more}\n{body}")
    (folder / "cog.yaml").write_text("predict: predict.py:Predictor\n")
    project = read_project(folder)
    return (await describe(folder, project, Environments(apps_dir / "environments"))).document


async def test_inputs_are_described_with_all_that_limits_them(
    tmp_path: Path, apps_dir: Path
) -> None:
    description = await model(tmp_path, apps_dir, "Painter")
    inputs = input_schema(description.bundle.document)
    assert inputs["required"] == ["text"]
    assert inputs["additionalProperties"] is False
    fields = inputs["properties"]
    assert list(fields) == ["text", "image", "steps", "strength", "style", "seed", "then"]
    assert fields["text"]["pattern"] == "^[a-z ]+$"
    assert fields["text"]["description"] == "What to paint."
    assert (fields["steps"]["minimum"], fields["steps"]["maximum"]) == (1, 50)
    assert fields["steps"]["default"] == 2
    assert fields["style"]["enum"] == ["oil", "ink"]
    image, null = fields["image"]["anyOf"]
    assert (image["x-darkroom-file"], null) == ("image", {"type": "null"})
    assert marked_output(description.bundle.document)["x-darkroom-file"] == "file"
    assert description.bundle.descriptions == {"predict": "Paint a text."}


async def test_lists_that_cog_does_not_look_into_are_lists_of_objects(
    tmp_path: Path, apps_dir: Path
) -> None:
    signature = "self, one: Annotated[Box, Opaque], many: Annotated[list[Box], Opaque]) -> str"
    more = "from typing import Annotated\nfrom cog import Opaque\nclass Box: pass\n"
    document = await predictor(tmp_path, apps_dir, signature, more)
    properties = document["components"]["schemas"]["Input"]["properties"]
    assert properties["one"]["type"] == "object"
    assert (properties["many"]["type"], properties["many"]["items"]) == (
        "array",
        {"type": "object"},
    )


async def test_the_ingress_refuses_what_cog_would_refuse(tmp_path: Path, apps_dir: Path) -> None:
    description = await model(tmp_path, apps_dir, "Painter")
    schema = JsonSchema(description.endpoint())
    checked, _ = schema.validate({"text": "a", "seed": None})
    assert checked["steps"] == 2
    for arguments, field in (
        ({}, "text"),
        ({"text": "a", "steps": 51}, "steps"),
        ({"text": "a", "style": "chalk"}, "style"),
        ({"text": "NO"}, "text"),
        ({"text": "a", "other": 1}, "other"),
    ):
        with pytest.raises(InvalidInput) as refused:
            schema.validate(arguments)
        assert refused.value.problems[0].loc == ("body", field)


READS_CONTEXT = "from cog import current_scope\ndef where(): return current_scope().context\n"


async def test_the_context_of_a_call_is_a_field_where_the_code_reads_it(
    tmp_path: Path, apps_dir: Path
) -> None:
    document = await predictor(tmp_path, apps_dir, "self, text: str) -> str", READS_CONTEXT)
    inputs = input_schema(document)
    assert list(inputs["properties"]) == ["text", "context"]
    assert inputs["required"] == ["text"]
    # It is no input of the model's, of which a Cog server would know.
    assert list(document["components"]["schemas"]["Input"]["properties"]) == ["text"]
    options = {"input_schema": inputs, "output_schema": output_schema(document)}
    schema = JsonSchema(Endpoint("a/b", "cog", Weights(""), "json", options=options))
    checked, _ = schema.validate({"text": "a", "context": {"region": "eu"}})
    assert checked["context"] == {"region": "eu"}
    with pytest.raises(InvalidInput) as refused:
        schema.validate({"text": "a", "context": {"region": 1}})
    assert refused.value.problems[0].loc == ("body", "context", "region")


async def test_an_input_named_context_stays_the_models_own(tmp_path: Path, apps_dir: Path) -> None:
    signature = "self, context: str) -> str"
    document = await predictor(tmp_path, apps_dir, signature, READS_CONTEXT)
    assert input_schema(document)["properties"]["context"]["type"] == "string"
    environments = Environments(apps_dir / "environments")
    deployed = await asyncio.to_thread(deploying.project, tmp_path, Choices(tmp_path), environments)
    assert deploying.OWN_CONTEXT in deployed.notes


async def test_the_code_has_the_schema_that_a_cog_server_reads(
    tmp_path: Path, apps_dir: Path
) -> None:
    description = await model(tmp_path, apps_dir, "train", "train")
    with zipfile.ZipFile(io.BytesIO(description.bundle.content)) as archive:
        names = archive.namelist()
        document = json.loads(archive.read(".cog/openapi_schema.json"))
    assert names == [".cog/openapi_schema.json", "cog.yaml", "predict.py"]
    schemas = document["components"]["schemas"]
    assert set(schemas) == {"Input", "Output", "TrainingInput", "TrainingOutput"}
    assert schemas["TrainingInput"]["required"] == ["data"]


OUTPUTS = """\
class Colour(enum.Enum):
    RED = "red"

class Box(BaseModel):
    left: int
    picture: Optional[Path]

class Found(BaseModel):
    boxes: list[Box]
    scores: dict[str, float]
"""


async def test_types_of_inputs_and_outputs_are_described(tmp_path: Path, apps_dir: Path) -> None:
    signature = (
        "self, colour: Colour, size: Literal[1, 2], files: list[Path], key: Secret, any: Any, "
        "either: int | str, maybe: Optional[float], shared: str = 'x') -> Found"
    )
    document = await predictor(tmp_path, apps_dir, signature, OUTPUTS)
    inputs = document["components"]["schemas"]["Input"]
    kinds = {
        name: field.get("enum") or field.get("type") for name, field in inputs["properties"].items()
    }
    assert kinds == {
        "colour": ["red"],
        "size": [1, 2],
        "files": "array",
        "key": "string",
        "any": None,
        "either": None,
        "maybe": "number",
        "shared": "string",
    }
    assert inputs["required"] == ["colour", "size", "files", "key", "any", "either"]
    shown = output_schema(document)["properties"]["output"]["properties"]
    picture = shown["boxes"]["items"]["properties"]["picture"]
    assert [branch.get("x-darkroom-file") for branch in picture["anyOf"]] == ["file", None]
    assert shown["scores"]["additionalProperties"] == {"type": "number"}
    options = {"input_schema": input_schema(document), "output_schema": output_schema(document)}
    JsonSchema(Endpoint("apps/a", "cog", Weights(""), "json", options=options))


@pytest.mark.variants(2)
@pytest.mark.parametrize(
    ("signature", "more", "sentence"),
    [
        ("self, a) -> str", "", "Predictor.predict: the input a has no type."),
        ("self, *a: str) -> str", "", "Predictor.predict: *a cannot be described"),
        ("self, a: str)", "", "Predictor.predict does not say what it returns"),
        ("self, a: object) -> str", "", "the input a has the type object, which Cog cannot send"),
        ("self, a: Gone) -> str", "from __future__ import annotations", "cannot be imported: Sy"),
        ("self, a: int = Input(default=3, le=2)) -> str", "", "has the default 3, which is out of"),
        ("self, a: int = Input(default=3, choices=[1, 2])) -> str", "", "none of its choices"),
        ("self, a: str = Input(ge=2)) -> str", "", "the input a has ge, which its type does not"),
        ("self) -> str", "import gone_away", "ModuleNotFoundError: No module named 'gone_away' ("),
        ("self) -> str", "raise SystemExit(3)", "predict.py cannot be imported: SystemExit: 3 (pr"),
    ],
)
async def test_what_is_wrong_with_a_predictor_is_said_with_its_place(
    tmp_path: Path, apps_dir: Path, signature: str, more: str, sentence: str
) -> None:
    with pytest.raises(Misconfigured) as refused:
        await predictor(tmp_path, apps_dir, signature, more)
    assert sentence in refused.value.message


async def test_a_target_that_is_not_there_is_named(tmp_path: Path, apps_dir: Path) -> None:
    with pytest.raises(Misconfigured, match=r"predict\.py has no Nobody\."):
        await model(tmp_path, apps_dir, "Nobody")


@pytest.mark.long
async def test_only_async_predictors_run_requests_at_once(tmp_path: Path, apps_dir: Path) -> None:
    description = await model(tmp_path, apps_dir, "Writer")
    assert description.bundle.concurrency == {"predict": 2}
    with pytest.raises(Misconfigured, match=r"concurrency\.max is 3, but .* is not `async`"):
        await model(tmp_path, apps_dir, "Painter", more="concurrency: {max: 3}\n")


async def test_the_model_of_the_docs_is_described(tmp_path: Path, apps_dir: Path) -> None:
    page = DOCS / "how-to" / "serve-a-cog-model.md"
    (code,) = (block.text for block in blocks(page, "python"))
    (written,) = (block.text for block in blocks(page, "yaml"))
    (tmp_path / "predict.py").write_text(code)
    (tmp_path / "cog.yaml").write_text(written)
    project = read_project(tmp_path)
    assert project.requirements == (PACKAGES, "pillow>=11")
    # Pillow is imported by its request only, so the environment of the other tests will do.
    described = replace(project, requirements=(PACKAGES,))
    description = await describe(tmp_path, described, Environments(apps_dir / "environments"))
    properties = input_schema(description.document)["properties"]
    assert (properties["image"]["x-darkroom-file"], properties["width"]["maximum"]) == (
        "image",
        4096,
    )
