"""LoRA files that a tenant has uploaded."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from serve_app.domain.lora import MAX_WORDS, LoraMetadata
from serve_app.ingress.api.loras import FIRST_BYTES, lora_metadata
from tests.ingress.house import ORIGIN, House


def safetensors(metadata: dict[str, str] | None = None, **tensors: Any) -> bytes:
    """File with a header and no weights."""
    named = {} if metadata is None else {"__metadata__": metadata}
    header = json.dumps({**named, **tensors}).encode()
    return len(header).to_bytes(8, "little") + header


async def upload(client: httpx.AsyncClient, name: str, content: bytes) -> str:
    named = {"file_name": name, "content_type": "application/octet-stream"}
    place = (await client.post("/rest/storage/upload/initiate", json=named)).json()
    headers = {"content-type": "application/octet-stream"}
    sent = await client.put(place["upload_url"], content=content, headers=headers)
    assert sent.status_code == 200, sent.text
    return str(place["file_url"])


async def loras(client: httpx.AsyncClient, query: str = "") -> list[dict[str, Any]]:
    answer = await client.get(f"/v1/loras{query}")
    assert answer.status_code == 200, answer.text
    return list(answer.json()["loras"])


async def test_uploaded_loras_are_listed_with_their_trigger_words(
    client: httpx.AsyncClient,
) -> None:
    about = {"modelspec.trigger_phrase": "inkline, thin ink", "modelspec.architecture": "flux"}
    url = await upload(client, "my lines.safetensors", safetensors(about))
    await upload(client, "hill.png", b"no weights")
    (lora,) = await loras(client)
    assert url.startswith(f"{ORIGIN}/files/u/")
    assert url.endswith("/my_lines.safetensors")
    assert (lora["path"], lora["name"]) == (url, "my_lines")
    assert (lora["trigger_words"], lora["base_model"]) == (["inkline", "thin ink"], "flux")


async def test_words_that_no_answer_can_have_hide_no_lora(client: httpx.AsyncClient) -> None:
    about = {"modelspec.trigger_phrase": "ink\ud800line, \udfff", "ss_base_model_version": "\udfff"}
    await upload(client, "lines.safetensors", safetensors(about))
    (lora,) = await loras(client)
    assert (lora["trigger_words"], lora["base_model"]) == (["inkline"], None)


async def test_the_latest_are_first_and_the_limit_holds(
    client: httpx.AsyncClient,
) -> None:
    for name in ("one", "two", "three"):
        await upload(client, f"{name}.safetensors", safetensors())
    assert [lora["name"] for lora in await loras(client, "?limit=2")] == ["three", "two"]
    assert (await client.get("/v1/loras?limit=0")).status_code == 422


async def test_words_find_loras_by_name_also_beyond_the_first_page(
    client: httpx.AsyncClient,
) -> None:
    for name in ("Ink lines", "thin ink", "waves"):
        await upload(client, f"{name}.safetensors", safetensors())
    matches = await loras(client, "?limit=1&q=LINES+ink")
    assert [lora["name"] for lora in matches] == ["Ink_lines"]
    assert [lora["name"] for lora in await loras(client, "?q=ink")] == ["thin_ink", "Ink_lines"]
    assert await loras(client, "?q=oil") == []
    assert (await client.get("/v1/loras?q=%00")).status_code == 422


async def test_another_tenant_sees_none_of_them(house: House, client: httpx.AsyncClient) -> None:
    await upload(client, "lines.safetensors", safetensors())
    async with house.client(house.other_key) as other:
        assert await loras(other) == []


async def test_a_long_header_is_read_whole(client: httpx.AsyncClient) -> None:
    about = {"filler": "x" * 2 * FIRST_BYTES, "modelspec.trigger_phrase": "inkline"}
    await upload(client, "lines.safetensors", safetensors(about))
    assert (await loras(client))[0]["trigger_words"] == ["inkline"]


@pytest.mark.parametrize(
    "content",
    [
        b"x",
        b"\xff" * 100,
        safetensors(),
        (100).to_bytes(8, "little") + b"{}",
        b"\2" + b"\0" * 7 + b"[]",
    ],
)
async def test_a_file_that_says_nothing_of_itself_is_listed_too(
    client: httpx.AsyncClient, content: bytes
) -> None:
    await upload(client, "lines.safetensors", content)
    (lora,) = await loras(client)
    assert (lora["trigger_words"], lora["base_model"]) == ([], None)


def test_captions_are_counted_over_folders_and_the_most_frequent_are_first() -> None:
    counts = {"10_a": {"inkline": 9, "hill": 2}, "5_b": {"hill": 3, "inkline": 1, "lake": "x"}}
    about = {"ss_tag_frequency": json.dumps(counts), "ss_base_model_version": "sdxl_base_v1-0"}
    metadata = lora_metadata(json.dumps({"__metadata__": about}).encode())
    assert metadata == LoraMetadata(("inkline", "hill"), "sdxl_base_v1-0")


def test_there_are_not_too_many_words_and_none_twice() -> None:
    phrase = ", ".join(["same"] * 3 + [str(number) for number in range(99)])
    about = {"__metadata__": {"modelspec.trigger_phrase": phrase}}
    words = lora_metadata(json.dumps(about).encode()).trigger_words
    assert (len(words), words[:2]) == (MAX_WORDS, ("same", "0"))


@pytest.mark.parametrize(
    "header",
    ["[]", '{"__metadata__": 1}', "{", '{"__metadata__": {"ss_tag_frequency": "[1]"}}', "[" * 9999],
)
def test_a_strange_header_says_nothing(header: str) -> None:
    assert lora_metadata(header.encode()) == LoraMetadata()
