"""Files of Replicate's protocol: what its clients say of a file is kept with it."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

PATH = "/replicate/v1/files"
METADATA = {"album": "Füchse", "number": 3, "of": ["a", None]}


@pytest.mark.parametrize("as_file", [True, False], ids=["JavaScript", "Python"])
async def test_the_metadata_of_a_file_is_kept(client: httpx.AsyncClient, *, as_file: bool) -> None:
    text = json.dumps(METADATA)
    metadata = ("blob", text, "application/json") if as_file else (None, text)
    created = await client.post(PATH, files={"content": ("a.txt", b"a"), "metadata": metadata})
    assert created.status_code == 201, created.text
    assert created.json()["metadata"] == METADATA
    shown = (await client.get(f"{PATH}/{created.json()['id']}")).json()
    (listed,) = (await client.get(PATH)).json()["results"]
    assert shown["metadata"] == listed["metadata"] == METADATA


async def test_a_file_may_have_no_metadata(client: httpx.AsyncClient) -> None:
    created = await client.post(PATH, files={"content": ("a.txt", b"a")})
    assert created.json()["metadata"] == {}


@pytest.mark.parametrize(
    "metadata", ["[1]", "{", "", '{"a": "\\ud800"}', json.dumps({"a": "x" * 20_000})]
)
async def test_metadata_that_cannot_be_kept_is_refused_and_nothing_is_stored(
    client: httpx.AsyncClient, metadata: Any
) -> None:
    sent = {"content": ("a.txt", b"a"), "metadata": (None, metadata)}
    assert (await client.post(PATH, files=sent)).status_code == 422
    assert (await client.get(PATH)).json()["results"] == []
