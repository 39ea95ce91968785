"""Share links over HTTP."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from serve_app.ingress.api.gallery.shares import without_secrets
from tests.ingress.api.test_gallery import run_request
from tests.ingress.house import House


async def share_request(client: httpx.AsyncClient, request_id: str, **body: Any) -> dict[str, Any]:
    answer = await client.post(f"/v1/requests/{request_id}/share", json=body)
    assert answer.status_code == 201, answer.text
    return answer.json()


def anonymous(house: House) -> httpx.AsyncClient:
    client = house.client()
    del client.headers["authorization"]
    return client


async def test_who_has_the_link_reads_the_request_and_its_files_without_a_key(
    house: House,
) -> None:
    async with house.client(house.weak_key) as client, anonymous(house) as guest:
        id_ = await run_request(client, prompt="a red circle", artifacts=1, thumbnails=True)
        await run_request(client, prompt="private", artifacts=1)
        link = await share_request(client, id_)
        answer = await guest.get(link["url"])
        assert answer.status_code == 200
        assert answer.headers["cache-control"] == "private, no-store"
        assert answer.headers["referrer-policy"] == "no-referrer"
        shown = answer.json()
        assert (shown["endpoint_id"], shown["state"]) == ("test/probe", "succeeded")
        assert shown["input"]["prompt"] == "a red circle"
        (file,) = shown["files"]
        for url in (file["url"], file["thumbnail"]["url"]):
            assert (await guest.get(url)).status_code == 200
        assert (await guest.get(f"/v1/requests/{id_}")).status_code == 401


async def test_a_link_is_listed_without_its_token_and_ends_when_it_is_revoked(
    house: House,
) -> None:
    async with house.client() as client, house.client(house.other_key) as other:
        id_ = await run_request(client)
        first, second = await share_request(client, id_), await share_request(client, id_)
        listed = (await client.get("/v1/shares")).json()["shares"]
        assert [share["share_id"] for share in listed] == [second["share_id"], first["share_id"]]
        assert first["url"].rpartition("/")[2] not in str(listed)
        path = f"/v1/shares/{first['share_id']}"
        assert (await other.get("/v1/shares")).json()["shares"] == []
        assert (await other.delete(path)).status_code == 404
        assert (await client.get(first["url"])).status_code == 200
        assert (await client.delete(path)).status_code == 204
        assert (await client.delete(path)).status_code == 404
        assert (await client.get(first["url"])).status_code == 404
        assert (await client.get(second["url"])).status_code == 200
        acts = (await client.get("/v1/audit")).json()["acts"]
        assert [act["action"] for act in acts[:3]] == [
            "share.revoke",
            "share.create",
            "share.create",
        ]
        assert acts[0]["subject"] == first["share_id"]
        assert acts[0]["detail"]["request_id"] == id_


async def test_a_browser_that_opens_a_link_gets_a_page_without_data(house: House) -> None:
    async with house.client() as client, anonymous(house) as guest:
        id_ = await run_request(client, prompt="a red circle")
        link = await share_request(client, id_)
        browser = {"accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
        answer = await guest.get(link["url"], headers=browser)
        assert answer.headers["content-type"] == "text/html; charset=utf-8"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert "accept" in answer.headers["vary"]
        assert "content-security-policy" in answer.headers
        assert "a red circle" not in answer.text


async def test_only_the_owner_of_a_request_shares_it(house: House) -> None:
    async with house.client() as client, house.client(house.other_key) as other:
        id_ = await run_request(client)
        answer = await other.post(f"/v1/requests/{id_}/share", json={})
        assert answer.status_code == 404


async def test_a_deleted_request_is_no_longer_shared(client: httpx.AsyncClient) -> None:
    id_ = await run_request(client)
    link = await share_request(client, id_)
    await client.delete(f"/v1/requests/{id_}")
    assert (await client.get(link["url"])).status_code == 404
    assert (await client.get("/v1/shares")).json()["shares"] == []


@pytest.mark.parametrize("body", [{"expires_in_s": 1}, {"expires_in_s": 1e9}, {"days": 1}, []])
async def test_a_wrong_body_is_refused(client: httpx.AsyncClient, body: Any) -> None:
    id_ = await run_request(client)
    answer = await client.post(f"/v1/requests/{id_}/share", json=body)
    assert answer.status_code == 422


SECRET = "hunter2"
BUCKET = "https://bucket.s3.amazonaws.com/in.png"


async def test_a_link_shows_no_signature_token_or_password_of_the_inputs_urls(
    house: House,
) -> None:
    urls = [
        f"{BUCKET}?X-Amz-Credential=AKIA%2F{SECRET}&X-Amz-Signature={SECRET}",
        f"HTTPS://ann:{SECRET}@hub.example.org/lora.safetensors?token={SECRET}#{SECRET}",
        f"s3://{SECRET}@bucket/in.png?sig={SECRET}",
    ]
    echo = {
        "image_url": urls[0],
        "loras": [{"path": urls[1], "scale": 0.5}, {"path": "owner/name@v1"}],
        "deep": [[{"url": urls[2], urls[0]: None}], True, 7],
        "words": f"Like {urls[0]} and\n{urls[1]} is it? #yes",
        "inline": "data:image/png;base64,AAAA",
    }
    async with house.client() as client, anonymous(house) as guest:
        id_ = await run_request(client, echo=echo)
        link = await share_request(client, id_)
        answer = await guest.get(link["url"])
        own = (await client.get(f"/v1/requests/{id_}")).json()
    assert SECRET not in answer.text
    lora = "HTTPS://hub.example.org/lora.safetensors"
    assert answer.json()["input"]["echo"] == {
        "image_url": BUCKET,
        "loras": [{"path": lora, "scale": 0.5}, {"path": "owner/name@v1"}],
        "deep": [[{"url": "s3://bucket/in.png", BUCKET: None}], True, 7],
        "words": f"Like {BUCKET} and\n{lora} is it? #yes",
        "inline": "data:image/png;base64,AAAA",
    }
    assert own["input"]["echo"] == echo


@pytest.mark.parametrize("text", ["a.-+" * 500_000, "https://" * 250_000, "http://@" * 250_000])
def test_urls_of_long_inputs_are_found_in_linear_time(text: str) -> None:
    assert len(str(without_secrets(text))) <= len(text)  # or the timeout of tests ends it
