"""The OpenAPI documents describe the real responses."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest
from openapi_schema_validator import OAS30Validator
from openapi_spec_validator import OpenAPIV30SpecValidator, validate
from starlette.routing import Route

from serve_app.catalog.catalog import Catalog, load
from serve_app.ingress.app import create_app
from serve_app.ingress.comfyui import routes as comfyui
from serve_app.ingress.http.json_schema import components
from serve_app.ingress.http.openapi import pascal
from serve_app.ingress.http.routing import SegmentRouter
from serve_app.ingress.openapi.document import PATH, ApiDocument
from serve_app.ingress.page import routes as page
from tests.ingress.house import DEMO, House

ORIGIN = "http://testserver"
CATALOG = load(None, demo=False, demo_dir=DEMO)
CALLS = ("/queue/{path}", "/run/{path}", "/{path}", "/fal/proxy")
"""Paths of fal's calls. They are documented for each endpoint, not by their routes."""
DOCUMENT: ApiDocument = create_app().state.document


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return DOCUMENT.of_installation(CATALOG, ORIGIN)


@pytest.fixture(scope="module")
def routes() -> Sequence[Route]:
    """Routes of HTTP. OpenAPI cannot describe WebSockets."""
    by_segment, *rest = create_app().routes
    assert isinstance(by_segment, SegmentRouter)
    return [route for route in (*by_segment.routes, *rest) if isinstance(route, Route)]


def test_it_is_valid(document: dict[str, Any]) -> None:
    validate(document, cls=OpenAPIV30SpecValidator)
    assert re.fullmatch(r"3\.0\.\d+", document["openapi"])


def test_a_document_that_is_not_valid_is_noticed(document: dict[str, Any]) -> None:
    assert not OpenAPIV30SpecValidator(document | {"info": {}}).is_valid()


def test_every_route_is_in_it(document: dict[str, Any], routes: Sequence[Route]) -> None:
    paths = document["paths"]
    for route in routes:
        path = re.sub(r":\w+}", "}", route.path)
        if path in CALLS or path.endswith("/{rest}"):  # these only answer "not found"
            continue
        if route in page.ROUTES or route in comfyui.PAGE:  # for browsers
            continue
        assert path in paths
        if path in ("/rest/{path}", "/cdn/{path}"):
            continue  # refused with any method
        for method in route.methods or ():
            if method == "QUERY":
                continue  # OpenAPI 3.0 cannot describe it
            if method != "HEAD" or path.startswith("/files"):
                assert method.lower() in paths[path], f"{method} {path}"


def test_every_path_of_it_leads_to_a_route(
    document: dict[str, Any], routes: Sequence[Route]
) -> None:
    for path, calls in document["paths"].items():
        concrete = re.sub(r"\{\w+\}", "x", path)
        for method in calls:
            assert any(
                route.path_regex.match(concrete) and method.upper() in (route.methods or ())
                for route in routes
            ), f"{method} {path}"


def test_every_endpoint_is_in_it_with_its_input_and_output(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    for entry in CATALOG:
        endpoint_id = entry.endpoint.id
        for path in (f"/queue/{endpoint_id}", f"/run/{endpoint_id}", f"/{endpoint_id}"):
            call = document["paths"][path]["post"]
            body = call["requestBody"]["content"]["application/json"]["schema"]
            assert body == {"$ref": f"#/components/schemas/{pascal(endpoint_id)}Input"}
        assert {f"{pascal(endpoint_id)}Input", f"{pascal(endpoint_id)}Output"} <= schemas.keys()


def test_the_calls_about_a_request_are_described_once_for_each_app(
    document: dict[str, Any],
) -> None:
    calls = document["paths"]["/queue/fal-ai/flux/requests/{request_id}"]["get"]["responses"]
    shapes = calls["200"]["content"]["application/json"]["schema"]["anyOf"]
    assert {shape["$ref"].rpartition("/")[2] for shape in shapes} == {
        "FalAiFluxSchnellOutput",
        "FalAiFluxDevOutput",
        "FalAiFluxDevImageToImageOutput",
    }


@pytest.mark.long
def test_what_is_not_served_and_what_is_a_demo_is_said() -> None:
    paths = DOCUMENT.of_installation(load(None, demo=True, demo_dir=DEMO), ORIGIN)["paths"]
    assert paths["/fal-ai/flux/schnell"]["post"]["x-darkroom-demo"] is True
    assert "no demo model" in paths["/fal-ai/qwen-image"]["post"]["x-darkroom-not-served"]
    assert "x-darkroom-not-served" not in paths["/fal-ai/flux/schnell"]["post"]


@pytest.mark.variants(3)
@pytest.mark.parametrize("endpoint_id", [entry.endpoint.id for entry in CATALOG])
def test_the_document_of_each_endpoint_is_valid(endpoint_id: str) -> None:
    document = DOCUMENT.of_endpoint(CATALOG.get_listed(endpoint_id), ORIGIN)
    validate(document, cls=OpenAPIV30SpecValidator)
    schemas = document["components"]["schemas"]
    for side in ("Input", "Output"):
        schema = schemas[pascal(endpoint_id) + side]
        assert schema["x-fal-order-properties"] == list(schema["properties"])


@pytest.mark.long
def test_a_catalogue_of_ones_own_is_described_too(tmp_path: Path) -> None:
    path = tmp_path / "models.yaml"
    entries = [
        f"  {name}: {{family: probe, schema: open}}\n" for name in ("a/b.c", "a/b_c", "A/b-c")
    ]
    path.write_text("endpoints:\n" + "".join(entries))
    catalog: Catalog = load(path, demo=True, demo_dir=tmp_path)
    validate(DOCUMENT.of_installation(catalog, ORIGIN), cls=OpenAPIV30SpecValidator)


@pytest.mark.parametrize("body", [{"prompt": "x"}, {"prompt": "x", "image_size": "square"}])
def test_a_good_body_fits_the_schema_and_a_bad_one_does_not(
    document: dict[str, Any], body: dict[str, Any]
) -> None:
    root = {**document["components"]["schemas"]["FalAiFluxSchnellInput"], **document}
    checker = OAS30Validator(root)
    assert checker.is_valid(body)
    assert checker.is_valid(body | {"seed": None, "image_size": {"width": 64, "height": 64}})
    for wrong in ({"num_inference_steps": 13}, {"image_size": "huge"}, {"output_format": "gif"}):
        assert not checker.is_valid(body | wrong)


def test_schemas_are_put_into_the_dialect_of_3_0() -> None:
    schema = {
        "properties": {
            "a": {"anyOf": [{"type": "integer"}, {"type": "null"}], "default": None, "title": "A"},
            "b": {"anyOf": [{"$ref": "#/$defs/B"}, {"type": "null"}]},
            "c": {"const": "x"},
            "d": {"$ref": "#/$defs/B", "description": "beside"},
        },
        "$defs": {"B": {"properties": {"again": {"$ref": "#/$defs/B"}}}},
    }
    assert components("My", schema) == {
        "My": {
            "properties": {
                "a": {"type": "integer", "title": "A", "nullable": True},
                "b": {"anyOf": [{"$ref": "#/components/schemas/MyB"}], "nullable": True},
                "c": {"enum": ["x"]},
                "d": {"description": "beside", "allOf": [{"$ref": "#/components/schemas/MyB"}]},
            }
        },
        "MyB": {"properties": {"again": {"$ref": "#/components/schemas/MyB"}}},
    }


async def test_it_is_served_to_anyone_with_a_key(house: House, client: httpx.AsyncClient) -> None:
    answer = await client.get("/openapi.json")
    assert answer.json() == DOCUMENT.of_installation(house.services.catalog, ORIGIN)
    async with house.client("no:key") as stranger:
        assert (await stranger.get("/openapi.json")).status_code == 401


async def test_one_endpoint_is_described_at_fals_path(client: httpx.AsyncClient) -> None:
    path = "/api/openapi/queue/openapi.json"
    answer = await client.get(path, params={"endpoint_id": "fal-ai/flux/schnell"})
    document = answer.json()
    assert document["info"]["title"] == "Queue OpenAPI for fal-ai/flux/schnell"
    about = document["info"]["x-fal-metadata"]
    assert (about["endpointId"], about["category"]) == ("fal-ai/flux/schnell", "text-to-image")
    assert (await client.get(about["documentationUrl"])).json() == document
    assert (
        (await client.get(about["playgroundUrl"])).headers["content-type"].startswith("text/html")
    )
    strange = await client.get(path, params={"endpoint_id": "fal-ai/flux/schnel"})
    assert strange.status_code == 404
    assert "Did you mean fal-ai/flux/schnell" in strange.json()["message"]
    assert (await client.get(path)).status_code == 422


async def test_the_whole_document_can_be_asked_for_one_endpoint(client: httpx.AsyncClient) -> None:
    named = {"endpoint_id": "fal-ai/flux/schnell"}
    response = await client.get("/openapi.json", params=named)
    assert response.json() == (await client.get(PATH, params=named)).json()
    whole = await client.get("/openapi.json")
    assert len(response.content) < len(whole.content) / 5
    assert (await client.get("/openapi.json", params={"endpoint_id": "no/such"})).status_code == 404
