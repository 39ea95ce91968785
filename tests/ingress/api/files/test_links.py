"""Signed URLs: made and revoked by calls."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from serve_app.domain.media.file_access import Revocation
from serve_app.ingress.services.file_access import STALE_S
from serve_app.tenants.scopes import READ
from tests.fakes.clock import FakeClock
from tests.ingress.api.files.private import bare, generate, lifecycle, upload_file, without_key
from tests.ingress.house import ORIGIN, House, build_house
from tests.ingress.replicate.test_webhooks import wait_until_delivered
from tests.webhooks.receiver import Receiver

SIGN, REVOKE = "/v1/files/sign", "/v1/files/revoke"


async def sign_link(client: httpx.AsyncClient, path: str, **body: Any) -> dict[str, Any]:
    answer = await client.post(SIGN, json={"path": path, **body})
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_a_signed_url_is_valid_as_long_as_was_asked_for() -> None:
    clock = FakeClock()
    async with (
        build_house(clock=clock) as house,
        house.client() as client,
        without_key(house) as guest,
    ):
        url = bare(await upload_file(client, lifecycle("hide")))
        hour = await sign_link(client, url, expires_in=3600)
        ever = await sign_link(client, url.removeprefix(ORIGIN))
        assert hour["expires_at"] == "2030-01-01T01:00:00+00:00"
        assert ever["expires_at"] is None
        for seconds, statuses in ((3599, [200, 200]), (1, [404, 200]), (1e8, [404, 200])):
            clock.advance(seconds)
            await house.services.files.access.refresh()
            codes = [(await guest.get(link["url"])).status_code for link in (hour, ever)]
            assert codes == statuses


async def test_one_url_is_revoked_and_the_others_stay(
    house: House, client: httpx.AsyncClient
) -> None:
    url = await upload_file(client, lifecycle("forbid"))
    first, second = [(await sign_link(client, url))["url"] for _ in range(2)]
    answer = await client.post(REVOKE, json={"url": first})
    assert (answer.status_code, answer.json()) == (200, {"revoked": "one"})
    async with without_key(house) as guest:
        refused = await guest.get(first)
        assert (refused.status_code, "was revoked" in refused.json()["detail"]) == (403, True)
        assert [(await guest.get(address)).status_code for address in (second, url)] == [200, 200]
    again = await client.post(REVOKE, json={"url": first})
    assert again.status_code == 200, "a repeat has no effect"


async def test_all_urls_of_a_file_are_revoked_and_new_ones_are_valid(
    house: House, client: httpx.AsyncClient
) -> None:
    id_, result = await generate(client, lifecycle("forbid"))
    url = result["images"][0]["url"]
    ever = (await sign_link(client, url))["url"]
    for _ in range(2):
        answer = await client.post(REVOKE, json={"path": bare(url)})
        assert (answer.status_code, answer.json()) == (200, {"revoked": "all"})
        async with without_key(house) as guest:
            assert [(await guest.get(address)).status_code for address in (url, ever)] == [403, 403]
            again = (await client.get(f"/queue/test/probe/requests/{id_}")).json()
            url, ever = again["images"][0]["url"], (await sign_link(client, url))["url"]
            assert [(await guest.get(address)).status_code for address in (url, ever)] == [200, 200]


async def test_the_url_of_a_result_is_revoked_alone_and_the_next_read_has_another(
    house: House, client: httpx.AsyncClient
) -> None:
    id_, result = await generate(client, lifecycle("forbid"))
    url = result["images"][0]["url"]
    assert (await client.post(REVOKE, json={"url": url})).status_code == 200
    again = (await client.get(f"/queue/test/probe/requests/{id_}")).json()["images"][0]["url"]
    async with without_key(house) as guest:
        assert (await guest.get(url)).status_code == 403
        assert (await guest.get(again)).status_code == 200


async def test_revocations_are_in_the_audit(house: House, client: httpx.AsyncClient) -> None:
    url = (await sign_link(client, await upload_file(client, lifecycle("forbid"))))["url"]
    await client.post(REVOKE, json={"url": url})
    await client.post(REVOKE, json={"path": url})
    acts = (await client.get("/v1/audit")).json()["acts"]
    urls = [act["detail"]["urls"] for act in acts if act["action"] == "file.revoke"]
    assert urls == ["all", "one"]


async def test_another_process_learns_of_a_revocation_by_its_rounds(
    house: House, client: httpx.AsyncClient
) -> None:
    """The round is a look into the book, which is called here."""
    url = await upload_file(client, lifecycle("forbid"))
    key = bare(url).partition("/files/")[2]
    access = house.services.files.access
    signature = url.partition("signature=")[2]
    place = (key, signature)
    revoked = Revocation(1, key, signature, 0, None)
    house.rules._revoked[place] = ("default", revoked)
    async with without_key(house) as guest:
        await access.refresh()
        assert (await guest.get(url)).status_code == 403


async def test_signed_urls_are_refused_when_it_is_unknown_for_long_what_was_revoked() -> None:
    clock = FakeClock()
    async with (
        build_house(clock=clock) as house,
        house.client() as client,
        without_key(house) as guest,
    ):
        url = await upload_file(client, lifecycle("forbid"))
        access = house.services.files.access
        await access.aclose()  # as if no round ended
        clock.advance(STALE_S)
        assert (await guest.get(url)).status_code == 200
        clock.advance(1)
        answer = await guest.get(url)
        assert (answer.status_code, "cannot be checked" in answer.json()["detail"]) == (503, True)
        await access.refresh()
        assert (await guest.get(url)).status_code == 200


async def test_only_the_owner_signs_and_revokes(house: House, client: httpx.AsyncClient) -> None:
    url = await upload_file(client, lifecycle("forbid", friend="allow"))
    missing = "/files/p/AAAAAAAAAAAAAAAAAAAAAA/u/x/a.png"
    for tenant in ("friend", "stranger"):
        async with house.client(str(await house.keys.create(tenant))) as caller:
            for path, body in (
                (SIGN, {"path": url}),
                (REVOKE, {"path": url}),
                (REVOKE, {"url": url}),
            ):
                answer = await caller.post(path, json=body)
                none = await caller.post(path, json=dict.fromkeys(body, f"{missing}?signature=x"))
                assert (answer.status_code, answer.text) == (404, none.text)
    reader = str(await house.keys.create("default", scopes=frozenset({READ})))
    async with house.client(reader) as caller:
        assert (await caller.post(SIGN, json={"path": url})).status_code == 403
    async with house.client() as operator:  # of another tenant
        theirs = await upload_file(operator, lifecycle("forbid"))
        async with house.client(house.other_key) as other:
            assert (await other.post(SIGN, json={"path": theirs})).status_code == 200


@pytest.mark.parametrize(
    ("path", "body", "field", "words"),
    [
        (SIGN, {"path": "/files/u/abc/a.png"}, "path", "is public"),
        (SIGN, {"path": "/files/../a"}, "path", "names no file"),
        (SIGN, {"path": ""}, "path", "names no file"),
        (SIGN, {}, "path", "Field required"),
        (SIGN, {"path": "/files/p/a/u/b/c.png", "expires_in": 0}, "expires_in", "greater"),
        (SIGN, {"path": "/files/p/a/u/b/c.png", "expires_in": 1e12}, "expires_in", "less"),
        (REVOKE, {}, "url", "Give `url`"),
        (REVOKE, {"url": "x", "path": "y"}, "url", "Give `url`"),
        (REVOKE, {"url": "/files/p/a/u/b/c.png"}, "url", "has no signature"),
        (REVOKE, {"path": "/files/r/b/c.png"}, "path", "is public"),
    ],
)
async def test_a_call_that_is_wrong_is_refused_and_its_field_named(
    client: httpx.AsyncClient, path: str, body: dict[str, Any], field: str, words: str
) -> None:
    answer = await client.post(path, json=body)
    assert answer.status_code == 422
    (problem,) = answer.json()["detail"]
    assert problem["loc"] == ["body", field]
    assert words in problem["msg"]


async def test_a_file_that_is_gone_is_not_signed_and_a_forged_url_not_revoked(
    house: House, client: httpx.AsyncClient
) -> None:
    url = await upload_file(client, lifecycle("forbid"))
    forged = await client.post(REVOKE, json={"url": f"{bare(url)}?signature=x"})
    assert forged.status_code == 403
    house.storage.objects.clear()
    assert (await client.post(SIGN, json={"path": url})).status_code == 404


async def test_a_webhook_that_is_sent_again_has_urls_that_are_valid_then() -> None:
    clock = FakeClock()
    async with (
        Receiver() as receiver,
        build_house(
            clock=clock, files="private", deliver=True, allow_private_webhooks=True
        ) as house,
        house.client() as client,
    ):
        target = {"fal_webhook": receiver.url()}
        answer = await client.post("/queue/test/probe", json={"artifacts": 1}, params=target)
        id_ = answer.json()["request_id"]
        await wait_until_delivered(client, id_)
        clock.advance(20 * 3600)
        await house.services.files.access.refresh()
        (await client.put(f"/v1/requests/{id_}/webhook/redeliver")).raise_for_status()
        first, again = await receiver.until(2)
        async with without_key(house) as guest:
            statuses = [(await guest.get(_url_in(x.body))).status_code for x in (first, again)]
        assert statuses == [403, 200]
        assert bare(_url_in(again.body)) == bare(_url_in(first.body))


def _url_in(body: bytes) -> str:
    return str(json.loads(body)["payload"]["images"][0]["url"])


async def test_a_signed_url_is_in_the_audit_log_with_its_time_and_once_a_minute() -> None:
    clock = FakeClock()
    async with build_house(clock=clock) as house, house.client() as client:
        url = bare(await upload_file(client, lifecycle("hide")))
        for _ in range(2):
            await sign_link(client, url)
        link = await sign_link(client, url, expires_in=60)
        clock.advance(61)
        await sign_link(client, url)
        refused = await client.post(SIGN, json={"path": "/files/p/none/u/none.png"})
        assert refused.status_code in {404, 422}
        acts = (await client.get("/v1/audit")).json()["acts"]
    entries = [act for act in acts if act["action"] == "file.sign"]
    assert [entry["detail"]["expires_in"] for entry in entries] == [None, 60.0, None]
    assert {entry["subject"] for entry in entries} == {url.partition("/files/")[2]}
    assert {entry["detail"]["tenant"] for entry in entries} == {"default"}
    assert link["url"] not in str(entries)
