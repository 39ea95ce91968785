"""Workflows as they are written: fal's forms, our own, and every mistake by its place."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import pytest

from serve_app.catalog.catalog import Catalog
from serve_app.catalog.workflows.check import check
from serve_app.catalog.workflows.entry import definition_of, workflow_entry
from serve_app.catalog.workflows.reader import read
from serve_app.domain.errors import InvalidInput
from serve_app.domain.workflows.definition import Workflow
from tests.ingress.house import OTHERS

SDXL, EDIT = "fal-ai/fast-sdxl", "fal-ai/fast-sdxl/image-to-image"
NODES: Mapping[str, Any] = {
    "draw": {
        "id": "draw",
        "type": "run",
        "app": SDXL,
        "depends": ["input"],
        "input": {"prompt": "$input.idea", "num_images": 1},
        "metadata": {"position": {"x": 1, "y": 2}},
    },
    "again": {
        "id": "again",
        "type": "run",
        "app": EDIT,
        "depends": ["draw"],
        "input": {"prompt": "more of it", "image_url": "$draw.images.0.url"},
    },
}
FIELD = {"name": "idea", "label": "Your idea", "type": "string", "required": True, "modelId": "x"}
OUTPUT = {"picture": "$again.images.0.url"}
SDK = {
    "name": "poster",
    "version": "0.1",
    "schema": {"input": {"idea": {"type": "string"}}, "output": {"picture": {"type": "string"}}},
    "nodes": NODES,
    "output": OUTPUT,
}
PLATFORM = {
    "name": "poster",
    "title": "A poster",
    "contents": {**SDK, "schema": {"input": {"idea": FIELD}, "output": {"picture": FIELD}}},
}
TUTORIAL = {
    "name": "poster",
    "contents": {
        "input": {"id": "input", "type": "input", "depends": [], "input": {"idea": ""}},
        **NODES,
        "output": {
            "id": "output",
            "type": "display",
            "depends": ["again"],
            "input": {},
            "fields": OUTPUT,
        },
    },
}
OWN: Mapping[str, Any] = {
    "name": "poster",
    "input": {"idea": {"type": "string"}},
    "steps": {
        "draw": {"app": SDXL, "input": {"prompt": "$input.idea", "num_images": 1}},
        "again": {
            "app": EDIT,
            "input": {"prompt": "more of it", "image_url": "$draw.images.0.url"},
        },
    },
    "output": OUTPUT,
}


@pytest.mark.parametrize(
    "document", [SDK, PLATFORM, TUTORIAL, OWN], ids=["sdk", "platform", "tutorial", "own"]
)
def test_all_forms_mean_the_same(document: Mapping[str, Any]) -> None:
    written = read(document)
    check(written, OTHERS.get)
    assert written.name == "poster"
    assert {name: node.app for name, node in written.workflow.nodes.items()} == {
        "draw": SDXL,
        "again": EDIT,
    }
    assert written.workflow.nodes["again"].needs() == {"draw"}
    assert written.workflow.output == OUTPUT
    schema = written.input_schema
    assert schema["properties"]["idea"]["type"] == "string"
    assert schema["required"] == ["idea"]
    assert Workflow.from_json(written.workflow.to_json()) == written.workflow


def test_a_label_becomes_the_title_of_the_form() -> None:
    assert read(PLATFORM).input_schema["properties"]["idea"]["title"] == "Your idea"


def test_an_entry_is_listed_while_a_steps_endpoint_is_missing() -> None:
    definition = definition_of(read(OWN))
    entry = workflow_entry("ann", "poster", definition, public=False, catalog=OTHERS)
    assert (entry.endpoint.id, entry.tenant, entry.missing) == ("workflows/ann/poster", "ann", "")
    gone = workflow_entry("ann", "poster", definition, public=True, catalog=Catalog({}))
    assert "`draw` needs fal-ai/fast-sdxl, which is not served here any more" in gone.missing


def edit_document(place: str, value: Any) -> dict[str, Any]:
    """Our own form with another value at a place; ``...``: without it."""
    document = deepcopy(dict(OWN))
    *path, last = place.split(".")
    inner: Any = document
    for part in path:
        inner = inner[part]
    if value is ...:
        del inner[last]
    else:
        inner[last] = value
    return document


MISTAKES = [
    ("name", "Poster!", "name", "lower-case"),
    ("name", "requests", "name", "part of other paths"),
    ("steps", {}, "steps", "has no step"),
    ("steps", [], "steps", "should be an object"),
    ("steps.draw.app", ..., "steps.draw.app", "id of an endpoint"),
    ("steps.draw.apps", "x", "steps.draw.apps", "is not known"),
    ("steps.item", {"app": SDXL}, "steps.item", "rename it"),
    ("steps.a b", {"app": SDXL}, "steps.a b", "name has"),
    ("steps.draw.depends", ["nobody"], "steps.draw.depends.0", "no step `nobody`"),
    ("steps.draw.depends", "again", "steps.draw.depends", "list of names"),
    ("steps.draw.depends", ["again"], "steps.draw", "draw -> again -> draw"),
    ("steps.draw.for_each", "all", "steps.draw.for_each", "list, or a reference"),
    ("steps.draw.if", {"value": 1}, "steps.draw.if", "one of equals"),
    ("steps.draw.if", {"value": 1, "is": 2}, "steps.draw.if", "`is`, which is none of"),
    ("steps.draw.if", {"all": []}, "steps.draw.if", "list of conditions"),
    ("steps.draw.if", "yes", "steps.draw.if", "should be a reference"),
    ("steps.draw.input.prompt", "$5 bill", "steps.draw.input.prompt", "write `$$5 bill`"),
    ("steps.draw.input.prompt", "$draws.x", "steps.draw.input.prompt", "which is no step"),
    ("steps.draw.input.prompt", "$item.x", "steps.draw.input.prompt", "only in a step with"),
    ("steps.draw.input.prompt", "$input..x", "steps.draw.input.prompt", "two dots"),
    ("steps.draw.input.prompt", {"$first": 1}, "steps.draw.input", "list of values"),
    ("steps.draw.input.prompt", "$input.idee", "input", "has no field `idee`"),
    ("input.idea", "string", "input.idea", "should be an object"),
    ("input.idea", {"type": "colour"}, "input.idea", "`colour` is none of"),
    ("output", {}, "output", "names nothing"),
    ("output.picture", "$nobody.x", "output.picture", "which is no step"),
    # against the endpoints
    ("steps.draw.app", "fal-ai/nothing", "steps.draw.app", "no endpoint `fal-ai/nothing`"),
    ("steps.draw.input.promt", "x", "steps.draw.input.promt", "no such field; it has"),
    ("steps.draw.input.num_images", 99, "steps.draw.input.num_images", "less than or equal"),
    ("steps.again.input.image_url", ..., "steps.again.input.image_url", "needs this field"),
    (
        "steps.again.input.image_url",
        "$draw.images.0",
        "steps.again.input.image_url",
        "for its URL, write `$draw.images.0.url`",
    ),
    (
        "steps.again.input.image_url",
        "$draw.pictures.0.url",
        "steps.again.input.image_url",
        "`draw` has no `pictures`; it has `",
    ),
    (
        "steps.again.input.image_url",
        "$draw.images.first.url",
        "steps.again.input.image_url",
        "`draw.images` has no `first`",
    ),
    ("output.picture", "$again.images.0.path", "output.picture", "has no `path`"),
]


@pytest.mark.parametrize(("place", "value", "at", "words"), MISTAKES)
def test_a_mistake_names_its_place(place: str, value: Any, at: str, words: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        check(read(edit_document(place, value)), OTHERS.get)
    problems = [
        (".".join(map(str, problem.loc[1:])), problem.message) for problem in refused.value.problems
    ]
    assert any(place == at and words in message for place, message in problems), problems
    assert refused.value.message.startswith(f"{problems[0][0]}: ")


def test_all_mistakes_are_named_at_once() -> None:
    document = edit_document("steps.draw.input.prompt", "$a.x")
    document["output"]["more"] = "$b.x"
    with pytest.raises(InvalidInput) as refused:
        read(document)
    assert len(refused.value.problems) == 2
    assert "(and 1 more)" in refused.value.message


@pytest.mark.parametrize(
    "document",
    [{}, {"name": "x"}, {"name": "x", "contents": 3}, {"name": "x", "nodes": {"a": None}}],
)
def test_what_is_no_workflow_is_refused(document: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput):
        read(document)


def test_a_type_of_another_node_is_refused() -> None:
    nodes = {"a": {"type": "loop", "id": "b", "app": "x"}}
    with pytest.raises(InvalidInput) as refused:
        read({"name": "x", "nodes": nodes, "output": {"x": "$a"}})
    assert {problem.loc[-1] for problem in refused.value.problems} >= {"type", "id"}


def test_nested_deeply_or_with_nul_is_refused() -> None:
    deep: Any = "x"
    for _ in range(60):
        deep = {"a": deep}
    for prompt, message in ((deep, "nested deeper"), ("a\0b", "NUL")):
        with pytest.raises(InvalidInput, match=message):
            read(edit_document("steps.draw.input.prompt", prompt))
