"""Endpoints' texts have everything from their schemas, and valid examples."""

from __future__ import annotations

import json
import re

import httpx
import pytest

from serve_app.ingress.openapi.endpoint_text import endpoint_text, example
from tests.ingress.house import CATALOG, ORIGIN, OTHERS

ENTRIES = {each.endpoint.id: each for catalog in (CATALOG, OTHERS) for each in catalog}


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
    found = re.search(r"--data '(.+)'", endpoint_text(entry, ORIGIN))
    assert found is not None
    assert json.loads(found[1]) == shown


async def test_the_whole_links_to_each_endpoint_that_is_served(client: httpx.AsyncClient) -> None:
    answer = await client.get("/llms.txt")
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    links = re.findall(rf"\]\({ORIGIN}(/models/\S+/llms\.txt)\)", answer.text)
    assert len(links) == sum(not each.missing for each in CATALOG)
    for link in links:
        assert (await client.get(link)).text.startswith("# ")


async def test_an_endpoint_that_is_not_there_has_no_text(client: httpx.AsyncClient) -> None:
    assert (await client.get("/models/no/such/llms.txt")).status_code == 404


async def test_it_takes_a_key(client: httpx.AsyncClient) -> None:
    del client.headers["Authorization"]
    assert (await client.get("/llms.txt")).status_code == 401
    assert (await client.get("/models/fal-ai/flux/schnell/llms.txt")).status_code == 401
