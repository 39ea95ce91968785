"""fal's header for the bucket of a client that the files of a request go to."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import AsyncIterator, Sequence
from typing import Any

import httpx
import pytest

from serve_app.domain.request import RequestFilter
from serve_app.ingress.submission.upload_policy import MAX_BYTES
from tests.captured_logs import CapturedLogs
from tests.fakes.upload_policies import BUCKET, SIGNATURE, sign_policy
from tests.ingress.house import House, build_house

NAME = "X-App-Fal-Upload-Policy"
FLUX = "/run/fal-ai/flux/schnell"


async def names(host: str, port: int) -> Sequence[str]:
    del port
    if host == "127.0.0.1":
        return [host]
    return ["10.0.0.7"] if host.startswith("inside") else ["52.219.1.1"]


@pytest.fixture
async def house() -> AsyncIterator[House]:
    async with build_house(names=names) as house:
        yield house


@pytest.fixture
async def client(house: House) -> AsyncIterator[httpx.AsyncClient]:
    async with house.client() as client:
        yield client


def headers(value: Any = None, **more: str) -> dict[str, str]:
    return {NAME: json.dumps(sign_policy() if value is None else value), **more}


async def test_results_name_the_files_in_the_bucket(
    house: House, client: httpx.AsyncClient, caplog: CapturedLogs
) -> None:
    caplog.set_level(logging.DEBUG)
    body = {"prompt": "a circle", "num_images": 2, "output_format": "png"}
    answer = await client.post(FLUX, json=body, headers=headers())
    assert answer.status_code == 200, answer.text
    request_id = answer.headers["x-fal-request-id"]
    images = answer.json()["images"]
    assert [image["url"] for image in images] == [
        f"{BUCKET}out/{request_id}-{number}.png" for number in range(2)
    ]
    shown = (await client.get(f"/v1/requests/{request_id}")).json()
    assert [file["url"] for file in shown["files"]] == [image["url"] for image in images]
    assert all(file.get("thumbnail_url") is None for file in shown["files"])
    page = await client.get("/v1/requests")
    await house.services.background.join()
    for told in (answer.text, json.dumps(shown), page.text, caplog.text):
        assert SIGNATURE not in told
    deleted = await client.delete(f"/v1/requests/{request_id}")
    assert deleted.status_code == 200
    assert "amazonaws" not in deleted.text


async def test_an_outcome_in_someones_bucket_is_given_to_no_one_else(
    client: httpx.AsyncClient,
) -> None:
    parameters = {"prompt": "a circle", "seed": 1}
    shared = {"X-Darkroom-Cache": "allow"}
    hits: list[bool] = []
    for sent in (headers(**shared), headers(**shared), shared, headers(**shared), shared):
        answer = await client.post(FLUX, json=parameters, headers=sent)
        assert answer.status_code == 200
        hits.append("x-darkroom-cache" in answer.headers)
    assert hits == [False, False, False, False, True]


async def test_a_repeat_with_a_new_signature_is_the_same_request(
    house: House, client: httpx.AsyncClient
) -> None:
    again = {"Idempotency-Key": "once"}
    first = await client.post(FLUX, json={"prompt": "a"}, headers=headers(**again))
    fresh = sign_policy(valid_s=7200, **{"x-amz-signature": "beef" * 16})
    second = await client.post(FLUX, json={"prompt": "a"}, headers=headers(fresh, **again))
    assert second.json() == first.json()
    assert len(house.replica.ran) == 1
    elsewhere = sign_policy(key="elsewhere/${filename}", conditions=[])
    other = await client.post(FLUX, json={"prompt": "a"}, headers=headers(elsewhere, **again))
    assert other.status_code == 422


def _without(name: str) -> Any:
    value = sign_policy()
    del value["fields"][name]
    return value


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("no JSON", "should be JSON"),
        ([], "should be JSON"),
        ({"url": BUCKET}, "an object `fields`"),
        ({"url": 1, "fields": {}}, "a text `url`"),
        (_without("key"), "should have ${filename}"),
        (sign_policy(key="out/image.png"), "should have ${filename}"),
        (sign_policy(key="../${filename}"), "`..`"),
        (_without("policy"), "fields.policy"),
        (sign_policy(policy="bm8="), "fields.policy"),
        (sign_policy(conditions=[["content-length-range", 0, math.inf]]), "fields.policy"),
        (sign_policy(conditions=[{"key": "out/${filename}"}]), "does not allow keys"),
        (sign_policy(conditions=[["starts-with", "$key", "in/"]]), "does not allow keys"),
        (sign_policy(Key="out/${filename}"), "at once"),
        (sign_policy(file="x"), "at once"),
        (sign_policy(acl="a\r\nb"), "invalid name or value"),
        (sign_policy(valid_s=-1), "expired"),
        (sign_policy(**{"Content-Type": "text/html"}), "does not allow files of image/"),
        (sign_policy() | {"url": "ftp://acme.example.com/"}, "https: URL"),
        (sign_policy() | {"url": "http://acme.example.com/"}, "https: URL"),
        (sign_policy() | {"url": f"{BUCKET}?a=b"}, "query"),
        (sign_policy() | {"url": "https://a:b@acme.example.com/"}, "credentials"),
        (sign_policy() | {"url": "https://acme.example.com/%2e%2e/b"}, "`..`"),
        (sign_policy() | {"url": "https://inside.example.com/"}, "private address"),
        (sign_policy() | {"url": "https://127.0.0.1/"}, "private address"),
        (sign_policy(key="${filename}" + "x" * MAX_BYTES), "at most"),
    ],
)
async def test_a_policy_that_cannot_be_used_is_refused_before_anything_is_queued(
    house: House, client: httpx.AsyncClient, value: Any, reason: str
) -> None:
    text = value if value == "no JSON" else json.dumps(value)
    answer = await client.post(FLUX, json={"prompt": "a"}, headers={NAME: text})
    assert answer.status_code == 422, answer.text
    (problem,) = answer.json()["detail"]
    assert problem["loc"] == ["header", NAME]
    assert reason in answer.text
    assert SIGNATURE not in answer.text
    assert (await house.queue.gallery.search(RequestFilter("default"), 10)).requests == []


@pytest.mark.parametrize(
    ("body", "more", "reason"),
    [
        ({"sync_mode": True}, {}, "`sync_mode`"),
        ({"draft": {"count": 1}}, {}, "`draft`"),
        (
            {},
            {"X-Fal-Object-Lifecycle-Preference": '{"initial_acl": {"default": "forbid"}}'},
            "`initial_acl`",
        ),
    ],
)
async def test_what_contradicts_a_bucket_is_refused(
    client: httpx.AsyncClient, body: dict[str, Any], more: dict[str, str], reason: str
) -> None:
    answer = await client.post(FLUX, json={"prompt": "a", **body}, headers=headers(**more))
    assert answer.status_code == 422
    assert reason in answer.text


async def test_a_bucket_at_a_private_address_is_allowed_by_the_operator() -> None:
    async with build_house(names=names, allow_private_urls=True) as house, house.client() as client:
        value = sign_policy() | {"url": "http://inside.example.com/acme"}
        answer = await client.post(FLUX, json={"prompt": "a"}, headers=headers(value))
        assert answer.status_code == 200, answer.text
        assert answer.json()["images"][0]["url"].startswith("http://inside.example.com/acme/out/")


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/openai/v1/images/generations", {"prompt": "a", "model": "fal-ai/flux/schnell"}),
        (
            "/replicate/v1/predictions",
            {"version": "fal-ai/flux/schnell", "input": {"prompt": "a"}},
        ),
    ],
)
async def test_other_protocols_refuse_it_so_that_no_file_ends_up_here(
    client: httpx.AsyncClient, path: str, body: Any
) -> None:
    answer = await client.post(path, json=body, headers=headers())
    assert "works with fal's protocol only" in answer.text, (answer.status_code, answer.text)
    assert answer.is_client_error
