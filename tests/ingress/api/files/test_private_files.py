"""Private files: who reads them, by fal's access rules and by the default of a tenant."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from serve_app.tenants.scopes import API, FILES, OPERATOR
from tests.fakes.clock import FakeClock
from tests.fakes.storage import FakeStorage
from tests.ingress.api.files.private import (
    ACL,
    CONTENT,
    bare,
    generate,
    lifecycle,
    statuses,
    upload_file,
    without_key,
)
from tests.ingress.fal.test_uploads import disposal
from tests.ingress.house import ORIGIN, OTHERS, House, build_house
from tests.ingress.replicate.test_webhooks import wait_until_delivered
from tests.webhooks.receiver import Receiver

FORBIDDEN = {"owner": 200, "reader": 403, "stranger": 403, "friend": 403, "guest": 403}
OPEN = {"owner": 200, "reader": 403, "friend": 200, "guest": 200}
HIDDEN = {"owner": 200, "reader": 403, "stranger": 404, "friend": 404, "guest": 404}


@pytest.fixture
async def private() -> AsyncIterator[House]:
    """House whose files are private by default."""
    async with build_house(files="private") as house:
        yield house


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        (lifecycle("forbid"), FORBIDDEN),
        (lifecycle("hide"), HIDDEN),
        (lifecycle("forbid", friend="allow"), FORBIDDEN | {"friend": 200}),
        (lifecycle("forbid", friend="hide"), FORBIDDEN | {"friend": 404}),
        (lifecycle("hide", friend="allow", x="forbid"), HIDDEN | {"friend": 200}),
        (lifecycle("allow", stranger="hide"), OPEN | {"stranger": 404}),
        (lifecycle(None, stranger="forbid"), OPEN | {"stranger": 403}),
        (lifecycle("hide", default="forbid"), HIDDEN),
    ],
)  # fmt: skip
async def test_rules_of_a_request_and_of_an_upload_are_kept(
    house: House, client: httpx.AsyncClient, rules: dict[str, str], expected: dict[str, int]
) -> None:
    _, result = await generate(client, rules)
    for url in (result["images"][0]["url"], await upload_file(client, rules)):
        assert "signature=" in url
        assert await statuses(house, bare(url)) == expected
        assert set((await statuses(house, url)).values()) == {200}, "the signature is enough"


@pytest.mark.parametrize("rules", [lifecycle("allow"), lifecycle("allow", friend="allow"), {}])
async def test_files_that_everyone_may_read_are_as_always(
    house: House, client: httpx.AsyncClient, rules: dict[str, str]
) -> None:
    _, result = await generate(client, rules)
    for url in (result["images"][0]["url"], await upload_file(client, rules)):
        assert "?" not in url
        assert "/files/p/" not in url
        async with without_key(house) as guest:
            answer = await guest.get(url)
            assert (answer.status_code, "immutable" in answer.headers["cache-control"]) == (
                200,
                True,
            )
    assert house.rules.reads == 0, "no look into the database"


async def test_a_hidden_file_is_answered_like_one_that_does_not_exist(
    house: House, client: httpx.AsyncClient
) -> None:
    url = bare(await upload_file(client, lifecycle("hide")))
    async with house.client(house.other_key) as other, without_key(house) as guest:
        operator_less = str(await house.keys.create("stranger"))
        other.headers["authorization"] = f"Key {operator_less}"
        for reader in (other, guest):
            missing = await reader.get(f"{url[:-9]}aaaaa.png")
            invented = await reader.get("/files/p/AAAAAAAAAAAAAAAAAAAAAA/u/x/a.png")
            hidden = await reader.get(url)
            forged = await reader.get(url, params={"signature": "x"})
            assert [answer.status_code for answer in (missing, invented, hidden, forged)] == [
                404
            ] * 4
            assert missing.text == invented.text == hidden.text == forged.text


async def test_thumbnails_are_as_private_as_their_files(
    house: House, client: httpx.AsyncClient
) -> None:
    id_, _ = await generate(client, lifecycle("forbid"), thumbnails=True)
    (file,) = (await client.get(f"/v1/requests/{id_}")).json()["files"]
    for url in (file["url"], file["thumbnail"]["url"]):
        async with without_key(house) as guest:
            assert (await guest.get(url)).status_code == 200
            assert (await guest.get(bare(url))).status_code == 403


async def test_an_operator_reads_a_private_file_and_is_in_the_audit(
    house: House, client: httpx.AsyncClient
) -> None:
    url = bare(await upload_file(client, lifecycle("hide")))
    key = str(await house.keys.create("ops", scopes=frozenset({OPERATOR})))
    async with house.client(key) as operator:
        assert (await operator.get(url)).content == CONTENT
        entries = (await operator.get("/v1/audit", params={"action": "tenant.read"})).json()
        assert [act["subject"] for act in entries["acts"]] == ["default"]


async def test_an_upload_token_of_an_operator_reads_the_files_of_its_own_tenant_alone(
    house: House, client: httpx.AsyncClient
) -> None:
    others = bare(await upload_file(client, lifecycle("hide")))
    key = str(await house.keys.create("ops", scopes=frozenset({OPERATOR, FILES})))
    async with house.client(key) as operator, without_key(house) as holder:
        own = bare(await upload_file(operator, lifecycle("hide")))
        token = (await operator.post("/rest/storage/auth/token", json={})).json()["token"]
        bearer = {"authorization": f"Bearer {token}"}
        assert (await holder.get(own, headers=bearer)).content == CONTENT
        assert (await holder.get(others, headers=bearer)).status_code == 404


async def test_a_wrong_key_is_refused_and_an_upload_token_reads(
    house: House, client: httpx.AsyncClient
) -> None:
    url = bare(await upload_file(client, lifecycle("forbid")))
    token = (await client.post("/rest/storage/auth/token", json={})).json()["token"]
    async with without_key(house) as guest:
        for header, status in (
            ("Key nobody:0123", 401),
            ("Bearer a.b.c", 401),
            ("Bearer darkroom-reader.a.b.c", 403),
            (f"Bearer {token}", 200),
        ):
            answer = await guest.get(url, headers={"authorization": header})
            assert (answer.status_code, header) == (status, header)


async def test_a_key_of_other_endpoints_does_not_read_files_of_a_request(
    house: House, client: httpx.AsyncClient
) -> None:
    _, result = await generate(client, lifecycle("forbid"))
    output_url, sent = (
        bare(result["images"][0]["url"]),
        bare(await upload_file(client, lifecycle("forbid"))),
    )
    key = str(await house.keys.create("default", scopes=frozenset({API}), endpoints=["test/other"]))
    async with house.client(key) as limited:
        assert (await limited.get(output_url)).status_code == 403
        assert (await limited.get(sent)).status_code == 200


async def test_ranges_and_head_work_and_nothing_is_cached(
    house: House, client: httpx.AsyncClient
) -> None:
    url = await upload_file(client, lifecycle("forbid"))
    async with without_key(house) as guest:
        answer = await guest.get(url, headers={"Range": "bytes=10-19"})
        assert (answer.status_code, answer.content) == (206, CONTENT[10:20])
        assert answer.headers["content-range"] == "bytes 10-19/200"
        assert answer.headers["cache-control"] == "private, no-store"
        head = await guest.head(url)
        assert (head.status_code, head.headers["content-length"]) == (200, "200")
        assert (await guest.head(bare(url))).status_code == 403
        refused = await guest.get(bare(url))
        assert (
            "cache-control" not in refused.headers or "no-store" in refused.headers["cache-control"]
        )


class Redirecting(FakeStorage):
    """Storage that serves files itself."""

    def link(self, key: str, media_type: str, disposition: str, valid_s: float) -> str:
        return f"https://bucket.example/{key}?valid={valid_s:g}"


async def test_a_redirect_to_storage_ends_with_the_signed_url_and_is_not_cached() -> None:
    clock = FakeClock()
    storage = Redirecting(b"k" * 32, ORIGIN, clock)
    async with build_house(clock=clock, storage=storage) as house, house.client() as client:
        url = await upload_file(client, lifecycle("forbid"))
        body = {"path": url, "expires_in": 10}
        short = (await client.post("/v1/files/sign", json=body)).json()["url"]
        async with without_key(house) as guest:
            for signed, valid in ((url, "60"), (short, "10")):
                answer = await guest.get(signed)
                assert answer.status_code == 307
                assert answer.headers["location"].endswith(f"?valid={valid}")
                assert answer.headers["cache-control"] == "private, no-store"
            assert (await guest.get(bare(url))).status_code == 403


async def test_a_result_is_signed_again_at_each_read() -> None:
    clock = FakeClock()
    async with build_house(clock=clock, files="private") as house, house.client() as client:
        id_, result = await generate(client)
        first = result["images"][0]["url"]
        async with without_key(house) as guest:
            clock.advance(3599)
            await house.services.files.access.refresh()
            assert (await guest.get(first)).status_code == 200, "an hour at least"
            clock.advance(901)
            await house.services.files.access.refresh()
            expired = await guest.get(first)
            assert (expired.status_code, "expired at" in expired.json()["detail"]) == (403, True)
            again = (await client.get(f"/queue/test/probe/requests/{id_}")).json()
            assert bare(again["images"][0]["url"]) == bare(first)
            assert (await guest.get(again["images"][0]["url"])).status_code == 200


async def test_files_of_a_share_link_are_read_no_longer_than_the_link() -> None:
    clock = FakeClock()
    async with build_house(clock=clock, files="private") as house, house.client() as client:
        id_, _ = await generate(client)
        path = f"/v1/requests/{id_}/share"
        link = (await client.post(path, json={"expires_in_s": 60})).json()["url"]
        async with without_key(house) as guest:
            (file,) = (await guest.get(link)).json()["files"]
            assert (await guest.get(file["url"])).status_code == 200
            clock.advance(61)
            assert (await guest.get(link)).status_code == 404
            await house.services.files.access.refresh()
            assert (await guest.get(file["url"])).status_code == 403


async def test_reads_one_after_the_other_give_the_same_url(private: House) -> None:
    async with private.client() as client:
        id_, result = await generate(client)
        again = (await client.get(f"/queue/test/probe/requests/{id_}")).json()
        assert again == result


async def test_a_tenant_has_a_default_of_its_own(house: House, client: httpx.AsyncClient) -> None:
    limits = {"files": "private", "file_url_valid_s": 60}
    answer = await client.post("/v1/tenants", json={"tenant": "closed", "limits": limits})
    assert answer.status_code == 201, answer.text
    assert answer.json()["limits"]["files"] == {"value": "private", "source": "api"}
    key = str(await house.keys.create("closed"))
    async with house.client(key) as closed, without_key(house) as guest:
        url = (await generate(closed))[1]["images"][0]["url"]
        assert (await guest.get(bare(url))).status_code == 403
        assert (await guest.get(url)).status_code == 200
        open_url = await upload_file(closed, lifecycle("allow"))
        assert (await guest.get(bare(open_url))).status_code == 200, "fal's rules come first"
        with_rule = await upload_file(closed, lifecycle(None, friend="allow"))
        assert (await guest.get(bare(with_rule))).status_code == 403, "the rest is the default"
        change = {"limits": {"files": None}}
        assert (await client.patch("/v1/tenants/closed", json=change)).status_code == 200
        assert (await guest.get(await upload_file(closed, {}))).status_code == 200
        assert (await guest.get(bare(url))).status_code == 403, "earlier files stay as they are"


@pytest.mark.parametrize(
    "limits", [{"files": "secret"}, {"file_url_valid_s": 5}, {"file_url_valid_s": "x"}]
)
async def test_a_default_that_is_none_is_refused_by_name(
    client: httpx.AsyncClient, limits: dict[str, Any]
) -> None:
    answer = await client.post("/v1/tenants", json={"tenant": "t", "limits": limits})
    assert answer.status_code == 422
    assert answer.json()["detail"][0]["loc"][:3] == ["body", "limits", *limits]


HISTORY = "/v1/models/requests/by-endpoint"


async def test_every_protocol_gives_urls_that_work(private: House) -> None:
    async with private.client() as client, without_key(private) as guest:
        id_, _ = await generate(client, thumbnails=True, prompt="x")
        share = (await client.post(f"/v1/requests/{id_}/share", json={})).json()["url"]
        answers = [
            await client.get(f"/v1/requests/{id_}"),
            await client.get("/v1/requests"),
            await client.get(
                "/v1/models/requests/by-endpoint?endpoint_id=test/probe&expand=payloads"
            ),
            await client.get(f"/replicate/v1/predictions/{id_}"),
            await client.get("/replicate/v1/predictions"),
            await client.post("/run/test/probe", json={"artifacts": 1}),
            await client.post("/run/test/probe/stream", json={"artifacts": 1}),
            await guest.get(share),
        ]
        for answer in answers:
            assert answer.status_code < 300, answer.text
            urls = set(_urls(answer))
            assert urls, answer.text
            for url in urls:
                assert (await guest.get(url)).status_code == 200, answer.request.url
                assert (await guest.get(bare(url))).status_code == 403
        zipped = await client.post("/v1/requests/zip", json={"request_ids": [id_]})
        assert zipped.content.startswith(b"PK")


def _urls(answer: httpx.Response) -> list[str]:
    """URLs of files in JSON, or in the events of a stream."""
    text = answer.text
    if text.startswith(("data:", ":", "event:")):
        lines = [line[5:] for line in text.splitlines() if line.startswith("data:")]
        return [url for line in lines for url in _in(json.loads(line))]
    return _in(answer.json())


def _in(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [url for inner in value.values() for url in _in(inner)]
    if isinstance(value, list):
        return [url for inner in value for url in _in(inner)]
    return [value] if isinstance(value, str) and "/files/" in value else []


async def test_private_files_are_inputs_of_those_who_may_read_them(
    house: House, client: httpx.AsyncClient
) -> None:
    rules = lifecycle("forbid", friend="allow")
    url = await upload_file(client, rules)
    stranger, friend = [str(await house.keys.create(tenant)) for tenant in ("stranger", "friend")]
    cases = [
        (house.weak_key, bare(url), 200),
        (friend, bare(url), 200),
        (stranger, bare(url), 403),
        (stranger, url, 200),  # a signed URL may be given to anyone
        (stranger, f"{bare(url)}?signature=x", 403),
        (house.weak_key, f"{bare(url)}?signature=x", 200),
        (stranger, url.replace("testserver", "elsewhere").partition("?")[0], 403),
    ]
    for key, file_url, status in cases:
        async with house.client(key) as caller:
            for body in ({"echo": file_url}, {"echo": {"deep": [{"url": file_url}]}}):
                answer = await caller.post("/queue/test/probe", json=body)
                assert answer.status_code == status, (file_url, answer.text)
                if status != 200:
                    field = "echo" if body["echo"] == file_url else "echo.deep.0.url"
                    assert answer.json()["detail"].startswith(f"{field}: ")


async def test_a_hidden_input_is_accepted_like_one_that_does_not_exist(
    house: House, client: httpx.AsyncClient
) -> None:
    """Its replica is answered that there is none."""
    url = bare(await upload_file(client, lifecycle("hide")))
    async with house.client(str(await house.keys.create("stranger"))) as stranger:
        for file_url in (url, f"{url[:-9]}aaaaa.png"):
            answer = await stranger.post("/queue/test/probe", json={"echo": file_url})
            assert answer.status_code == 200, answer.text
    token = house.services.files.access.signer.reader_token("stranger", 60)
    async with without_key(house) as replica:
        header = {"authorization": f"Bearer {token}"}
        assert (await replica.get(url, headers=header)).status_code == 404


async def test_a_replica_reads_what_the_tenant_of_its_request_may_read(
    house: House, client: httpx.AsyncClient
) -> None:
    url = bare(await upload_file(client, lifecycle("forbid", friend="allow")))
    signer = house.services.files.access.signer
    async with without_key(house) as replica:
        for tenant, status in (("default", 200), ("friend", 200), ("stranger", 403)):
            header = {"authorization": f"Bearer {signer.reader_token(tenant, 60)}"}
            assert (await replica.get(url, headers=header)).status_code == status


async def test_an_outcome_is_shared_only_with_the_same_readers(client: httpx.AsyncClient) -> None:
    shared = {"X-Darkroom-Cache": "allow"}
    hits: list[bool] = []
    for rules in ({}, lifecycle("forbid"), lifecycle("forbid"), lifecycle("hide"), {}):
        answer = await client.post("/run/test/probe", json={"seed": 1}, headers=shared | rules)
        assert answer.status_code == 200
        hits.append("x-darkroom-cache" in answer.headers)
    assert hits == [False, False, True, False, True]


async def test_the_files_of_a_deleted_request_are_gone(
    house: House, client: httpx.AsyncClient
) -> None:
    id_, result = await generate(client, lifecycle("forbid"), thumbnails=True)
    assert len(house.storage.objects) == 2
    assert (await client.delete(f"/v1/requests/{id_}")).status_code == 200
    assert house.storage.objects == {}
    assert (await client.get(result["images"][0]["url"])).status_code == 404


async def test_a_private_upload_in_parts_and_by_a_url_works_and_is_deleted_by_its_key(
    house: House, client: httpx.AsyncClient
) -> None:
    fields = {"file_name": "a.png", "content_type": "image/png"}
    for how in ("initiate", "initiate-multipart"):
        place = (
            await client.post(
                f"/rest/storage/upload/{how}", json=fields, headers=lifecycle("forbid")
            )
        ).json()
        async with without_key(house) as guest:
            if how == "initiate":
                assert (await guest.put(place["upload_url"], content=CONTENT)).status_code == 200
            else:
                part = await guest.put(f"{place['upload_url']}/1", content=CONTENT)
                joined = await guest.post(
                    f"{place['upload_url']}/complete", json={"parts": [part.json()]}
                )
                assert joined.status_code == 200, joined.text
            assert (await guest.get(place["file_url"])).content == CONTENT
            assert (await guest.get(bare(place["file_url"]))).status_code == 403
        key = bare(place["file_url"]).partition("/files/")[2]
        assert (await client.delete(f"/v1/uploads/{key}")).status_code in (200, 204)
        assert (await client.get(place["file_url"])).status_code == 404


@pytest.mark.parametrize(
    "acl",
    [
        {"default": "secret"},
        {"rules": [{"user": "x"}]},
        {"rules": [{"user": "x", "decision": "maybe"}]},
        {"rules": [{"user": "", "decision": "allow"}]},
        {"rules": [{"user": f"u{n}", "decision": "allow"} for n in range(101)]},
        {"readers": []},
        [],
    ],
)
async def test_rules_that_are_wrong_are_refused_and_named(
    house: House, client: httpx.AsyncClient, acl: Any
) -> None:
    headers = {ACL: json.dumps({"initial_acl": acl})}
    for answer in (
        await client.post("/cdn/files/upload", content=CONTENT, headers=headers),
        await client.post("/queue/test/probe", json={}, headers=headers),
    ):
        assert answer.status_code == 422
        (problem,) = answer.json()["detail"]
        assert problem["loc"] == ["header", ACL]
        assert "initial_acl" in problem["msg"]
    assert house.storage.objects == {}


async def test_other_protocols_give_signed_urls_too() -> None:
    async with build_house(files="private", catalog=OTHERS) as house, house.client() as client:
        body = {"model": "test/images", "prompt": "x", "response_format": "url"}
        image = await client.post("/openai/v1/images/generations", json=body)
        call = {"name": "generate", "arguments": {"model": "test/images", "input": {"prompt": "x"}}}
        rpc = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": call}
        accept = {"accept": "application/json, text/event-stream"}
        tool = await client.post("/mcp", json=rpc, headers=accept)
        prediction = await client.post(
            "/replicate/v1/models/test/images/predictions",
            json={"input": {"prompt": "x"}},
            headers={"prefer": "wait"},
        )
        async with without_key(house) as guest:
            for answer in (image, tool, prediction):
                urls = re.findall(r'http://testserver/files/p/[^"\\ ]+', answer.text)
                assert urls or "data:image" in answer.text, answer.text
                for url in urls:
                    assert (await guest.get(url)).status_code == 200, url
                    assert (await guest.get(bare(url))).status_code == 403


async def test_webhooks_have_signed_urls() -> None:
    async with (
        Receiver() as receiver,
        build_house(
            files="private", deliver=True, allow_private_webhooks=True, webhook_waits_s=(0.0,)
        ) as house,
        house.client() as client,
        without_key(house) as guest,
    ):
        answer = await client.post(
            "/queue/test/probe", json={"artifacts": 1}, params={"fal_webhook": receiver.url()}
        )
        await wait_until_delivered(client, answer.json()["request_id"])
        (sent,) = receiver.received
        (url,) = _in(json.loads(sent.body))
        assert (await guest.get(url)).status_code == 200
        assert (await guest.get(bare(url))).status_code == 403


async def test_a_private_upload_is_deleted_when_its_time_is_over() -> None:
    clock = FakeClock()
    async with build_house(clock=clock) as house, house.client() as client:
        value = {"expiration_duration_seconds": 60, "initial_acl": {"default": "hide"}}
        url = bare(await upload_file(client, {ACL: json.dumps(value)}))
        assert (await client.get(url)).status_code == 200
        clock.advance(61)
        await disposal(house).delete_garbage_uploads()
        assert (await client.get(url)).status_code == 404
        assert house.storage.objects == {}
