"""Endpoints' texts have everything from their schemas, and valid examples."""

from __future__ import annotations

import json
import re

import httpx
import pytest

from serve_app.catalog.catalog import CatalogEntry, load
from serve_app.ingress.openapi.endpoint_text import endpoint_text, example
from tests.ingress.house import CATALOG, DEMO, ORIGIN, OTHERS, build_house

ENTRIES = {entry.endpoint.id: entry for catalog in (CATALOG, OTHERS) for entry in catalog}


@pytest.mark.parametrize("endpoint_id", sorted(ENTRIES))
def test_every_field_of_an_endpoint_is_documented(endpoint_id: str) -> None:
    entry = ENTRIES[endpoint_id]
    text = endpoint_text(entry, ORIGIN)
    for schema in (entry.schema.json_schema(), entry.schema.output_schema()):
        for name in schema.get("properties", {}):
            assert f"- **`{name}`** (`" in text
    assert "None" not in text


@pytest.mark.parametrize("endpoint_id", sorted(ENTRIES))
def test_the_example_of_an_endpoint_is_a_valid_input(endpoint_id: str) -> None:
    entry = ENTRIES[endpoint_id]
    shown = example(entry.schema.json_schema())
    entry.schema.validate(shown)
    match = re.search(r"--data '(.+)'", endpoint_text(entry, ORIGIN))
    assert match is not None
    assert json.loads(match[1]) == shown


async def test_the_whole_links_to_each_endpoint_that_is_served(client: httpx.AsyncClient) -> None:
    answer = await client.get("/llms.txt")
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    links = re.findall(rf"\]\({ORIGIN}(/models/\S+/llms\.txt)\)", answer.text)
    assert len(links) == sum(not entry.missing for entry in CATALOG)
    for link in links:
        assert (await client.get(link)).text.startswith("# ")


async def test_an_endpoint_that_is_not_there_has_no_text(client: httpx.AsyncClient) -> None:
    assert (await client.get("/models/no/such/llms.txt")).status_code == 404


BUILT_IN = load(None, demo=True, demo_dir=DEMO)


async def test_without_a_key_it_has_the_built_in_endpoints_that_are_served() -> None:
    async with build_house(catalog=BUILT_IN) as house, house.client() as client:
        whole = await client.get("/llms.txt")
        del client.headers["Authorization"]
        assert (await client.get("/llms.txt")).text == whole.text
        text = (await client.get("/models/fal-ai/flux/schnell/llms.txt")).text
        assert text.startswith("# FLUX.1 [schnell]")
        unserved = next(entry.endpoint.id for entry in BUILT_IN if entry.missing)
        assert (await client.get(f"/models/{unserved}/llms.txt")).status_code == 404
        assert unserved not in whole.text


async def test_without_a_key_no_endpoint_of_the_operator_appears(client: httpx.AsyncClient) -> None:
    private = (await client.get("/models/test/probe/llms.txt")).text
    assert private.startswith("# test/probe")
    del client.headers["Authorization"]
    assert "/models/" not in (await client.get("/llms.txt")).text.partition("## Endpoints")[2]
    hidden = await client.get("/models/test/probe/llms.txt")
    absent = await client.get("/models/test/prob/llms.txt")
    assert (hidden.status_code, absent.status_code) == (404, 404)
    assert hidden.json()["detail"].replace("test/probe", "") == (
        absent.json()["detail"].replace("test/prob", "")
    ), "or one could find out which exist"


async def test_a_wrong_key_is_no_key_at_all(client: httpx.AsyncClient) -> None:
    client.headers["Authorization"] = "Key dk_x:y"
    assert (await client.get("/llms.txt")).status_code == 401


async def test_an_operator_can_keep_the_descriptions_to_those_with_a_key() -> None:
    async with build_house(catalog=BUILT_IN, public_descriptions=False) as house:
        async with house.client() as client:
            assert (await client.get("/llms.txt")).status_code == 200
            del client.headers["Authorization"]
            assert (await client.get("/llms.txt")).status_code == 401
            assert (await client.get("/models/fal-ai/flux/schnell/llms.txt")).status_code == 401


@pytest.mark.parametrize("entry", [*BUILT_IN], ids=lambda entry: entry.endpoint.id)
def test_notes_of_fields_are_sentences_and_demos_name_their_words(entry: CatalogEntry) -> None:
    text = endpoint_text(entry, ORIGIN)
    assert not re.search(r"^\s*- (True|False)$", text, re.M)
    assert ("**About the demo**: It" in text) == entry.demo
    assert ("**Words of the demo, " in text) == bool(entry.demo and not entry.missing)


def test_a_field_without_an_effect_says_so_once() -> None:
    text = endpoint_text(BUILT_IN.get_listed("fal-ai/flux/schnell"), ORIGIN)
    field = text.partition("- **`enable_safety_checker`**")[2].partition("- **")[0]
    assert field.count("Has no effect here") + field.count("Refused unless") == 1
