"""What Darkroom serves of an app for fal, and what it refuses."""

from __future__ import annotations

from typing import Any

import pytest

from deployments.executors.python.fal.description import check_files, usable
from deployments.executors.python.fal.schemas import NotServable, schemas_of
from serve_app.domain.errors import Misconfigured

ROUTE = {"path": "/", "is_websocket": False, "is_health_check": False, "description": "Draw."}


SESSION = {"mode": "unary", "buffering": None, "max_batch_size": 1, "content_type": "x/y"}


def operation(schema: dict[str, Any] | None, **more: Any) -> dict[str, Any]:
    body = {"requestBody": {"content": {"application/json": {"schema": schema}}}} if schema else {}
    answer = {"200": {"content": {"application/json": {"schema": {"type": "object"}}}}}
    return {"post": {**body, "responses": answer, **more}}


def openapi(
    schema: dict[str, Any] | None = None, known: dict[str, Any] | None = None, **more: Any
) -> dict[str, Any]:
    """OpenAPI document with a route at ``/``."""
    return {
        "paths": {"/": operation(schema, **more)},
        "components": {"schemas": known or {}},
    }


def app(*routes: dict[str, Any], settings: dict[str, Any] | None = None, **more: Any) -> Any:
    return {
        "name": "cat",
        "requirements": [],
        "machine_types": ["S"],
        "num_gpus": None,
        "settings": settings or {},
        "files": [],
        "routes": list(routes or (ROUTE,)),
        "openapi": openapi(),
        **more,
    }


def test_settings_of_fal_are_those_of_an_app() -> None:
    description = usable("Cat", app(settings={"max_multiplexing": 3, "startup_timeout": 90}))
    assert (description["kind"], description["concurrency"], description["start_timeout_s"]) == (
        "fal",
        3,
        90.0,
    )
    assert (description["gpu"], description["notes"]) == (None, [])
    (endpoint,) = description["endpoints"]
    assert (endpoint["path"], endpoint["description"]) == ("/", "Draw.")


@pytest.mark.parametrize(
    ("machines", "number", "expected"),
    [
        (["XL"], None, None),
        (["GPU-H100"], None, "H100"),
        (["GPU-H100", "GPU-A100"], 1, "H100 or A100"),
        (["GPU-A100-40GB", "GPU-A100-80GB"], 2, "2 × A100"),
        (["H100"], None, "H100"),
        (["gpu-h200", "rtx4090"], None, "H200 or RTX-4090"),
        (["xl"], None, None),
    ],
)
def test_machine_types_are_classes_of_gpus(
    machines: list[str], number: int | None, expected: str | None
) -> None:
    assert usable("Cat", app(machine_types=machines, num_gpus=number))["gpu"] == expected


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"machine_types": ["GPU-X"]}, "Cat has the unknown machine_type GPU-X. Known are XS, S,"),
        ({"settings": {"kind": "container"}}, "runs in a container image of its own"),
        ({"requirements": ["./kit"]}, "Cat.requirements has the path ./kit"),
        ({"requirements": [["a", 3]]}, "Cat.requirements must be texts, or lists of texts"),
        ({"requirements": "numpy"}, "Cat.requirements must be a list"),
        (
            {"routes": [{**ROUTE, "path": "/{size}", "is_websocket": True, "session": SESSION}]},
            "/{size} is not served: it has parameters in its path",
        ),
    ],
)
def test_what_cannot_be_served_is_refused_with_a_sentence(
    settings: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(Misconfigured) as raised:
        usable("Cat", app(**settings))
    assert sentence in str(raised.value)


def test_a_websocket_is_an_endpoint_of_sessions_and_may_share_the_path_of_another_route() -> None:
    socket = {**ROUTE, "is_websocket": True, "session": SESSION}
    (both,) = usable("Cat", app(socket, ROUTE))["endpoints"]
    assert both["session"] == {**SESSION, "only": False}
    (alone,) = usable("Cat", app(socket, openapi={"paths": {}}))["endpoints"]
    assert alone["session"]["only"]
    assert alone["input_schema"]["properties"] == {}


def test_an_app_gets_the_secrets_that_it_names() -> None:
    assert usable("Cat", app(settings={"secrets": ["A", "B"]}))["secrets"] == ["A", "B"]
    assert usable("Cat", app())["secrets"] == []


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"keep_alive": 3600}, "set keep_alive_s = 3600 of the pool"),
        ({"min_concurrency": 2}, "set min_replicas = 2 of the pool"),
        ({"max_concurrency": 3, "max_multiplexing": 2}, "set max_running = 6"),
        ({"request_timeout": 30}, "clients send the header X-Darkroom-Deadline"),
        ({"python_version": "3.9"}, "python_version = 3.9 is not used"),
    ],
)
def test_a_setting_with_another_place_here_is_noted(
    settings: dict[str, Any], sentence: str
) -> None:
    (note,) = usable("Cat", app(settings=settings))["notes"]
    assert sentence in note


def test_routes_that_are_not_served_are_noted() -> None:
    description = usable(
        "Cat",
        app(ROUTE, {**ROUTE, "path": "/{size}"}, {**ROUTE, "path": "/up", "is_health_check": True}),
    )
    assert [endpoint["path"] for endpoint in description["endpoints"]] == ["/"]
    assert [note.partition(":")[0] for note in description["notes"]] == [
        "/{size} is not served",
        "/up is not served",
    ]


def test_a_file_that_its_bundle_lacks_is_named() -> None:
    check_files("Cat", {"files": ["kit", "data/names.txt"]}, ["kit.py", "data/names.txt"])
    with pytest.raises(Misconfigured, match="Cat needs gone, which was not found"):
        check_files("Cat", {"files": ["gone"]}, ["kit.py"])


IMAGE = {
    "title": "Image",
    "type": "object",
    "properties": {
        name: {"type": "string"} for name in ("url", "content_type", "file_name", "file_size")
    },
    "ui": {"field": "image"},
}


def properties(**fields: Any) -> dict[str, Any]:
    known = {"Input": {"type": "object", "properties": fields}, "Image": IMAGE}
    schemas = schemas_of("/", openapi({"$ref": "#/components/schemas/Input"}, known))
    assert list(fields) == schemas.input["x-fal-order-properties"]
    return schemas.input["properties"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("image_url", "image"),
        ("mask_url", "image"),
        ("reference_audio_url", "audio"),
        ("driving_video_URL", "video"),
        ("url", "file"),
        ("images_data_url", "image"),
        ("webhook_url", None),
        ("lora_url", None),
        ("curl", None),
        ("image", None),
    ],
)
def test_a_text_whose_name_is_that_of_a_url_is_a_file(name: str, expected: str | None) -> None:
    fields = properties(**{name: {"type": "string"}})
    assert fields[name].get("x-darkroom-file") == expected


def test_urls_in_lists_and_unions_and_fields_that_say_so_are_files() -> None:
    text = {"type": "string"}
    fields = properties(
        image_urls={"type": "array", "items": text},
        audio_url={"anyOf": [text, {"type": "null"}]},
        source={**text, "ui": {"field": "video"}},
    )
    assert fields["image_urls"]["items"]["x-darkroom-file"] == "image"
    assert fields["audio_url"]["anyOf"][0]["x-darkroom-file"] == "audio"
    assert fields["source"]["x-darkroom-file"] == "video"


def test_a_file_of_the_toolkit_is_given_by_its_url_alone_or_by_its_fields() -> None:
    fields = {"type": "object", "properties": {"face": {"$ref": "#/components/schemas/Image"}}}
    schema = schemas_of("/", openapi(fields, {"Image": IMAGE})).input
    alone, by_fields = schema["$defs"]["Image"]["anyOf"]
    assert alone == {"type": "string", "format": "uri", "x-darkroom-file": "image"}
    assert by_fields["properties"]["url"]["x-darkroom-file"] == "image"


def test_arguments_of_the_query_are_fields_and_a_model_may_contain_itself() -> None:
    query = [{"in": "query", "name": "steps", "required": True, "schema": {"type": "integer"}}]
    tree = {
        "type": "object",
        "properties": {"below": {"$ref": "#/components/schemas/Tree"}},
    }
    document = openapi({"$ref": "#/components/schemas/Tree"}, {"Tree": tree}, parameters=query)
    schema = schemas_of("/", document).input
    assert schema["required"] == ["steps"]
    assert schema["properties"]["below"] == {"$ref": "#/$defs/Tree"}
    assert schema["$defs"]["Tree"]["properties"]["below"] == {"$ref": "#/$defs/Tree"}


@pytest.mark.parametrize(
    ("path", "document", "why"),
    [
        ("/{id}", openapi(), "has parameters in its path"),
        ("/gone", openapi(), "is not in the app's OpenAPI document"),
        ("/", openapi({"type": "array"}), "takes a value of type array"),
        (
            "/",
            {"paths": {"/": {"post": {"requestBody": {"content": {"multipart/form-data": {}}}}}}},
            "takes multipart/form-data, and a request's input is JSON",
        ),
    ],
)
def test_a_route_that_a_request_cannot_reach_is_said_why(
    path: str, document: Any, why: str
) -> None:
    with pytest.raises(NotServable, match=why):
        schemas_of(path, document)
