"""Sign-in of programs without a browser, and signing out at the provider too."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from tests.fakes.clock import FakeClock
from tests.fakes.openid import provider
from tests.fakes.openid_device import DeviceProvider, device_provider
from tests.ingress.api.test_sign_in import GROUPS, begin, browser, come_back, use
from tests.ingress.house import House, build_house


@pytest.fixture
def openid() -> Iterator[DeviceProvider]:
    with device_provider() as openid:
        yield openid


@pytest.fixture
async def house(openid: DeviceProvider) -> AsyncIterator[House]:
    clock = FakeClock(datetime.now(UTC))
    async with build_house(clock=clock, replica=False, oidc_groups=GROUPS) as house:
        use(house, openid.issuer, clock)
        yield house


async def begin_sign_in(client: httpx.AsyncClient) -> dict[str, Any]:
    answer = await client.post("/v1/sign-in/device")
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


async def ask(client: httpx.AsyncClient, device: dict[str, Any]) -> httpx.Response:
    body = {"device_code": device["device_code"]}
    return await client.post("/v1/sign-in/device/finish", json=body)


async def test_a_program_gets_a_key_once_the_person_has_signed_in(
    house: House, openid: DeviceProvider
) -> None:
    async with browser(house) as client:
        device = await begin_sign_in(client)
        assert device["url"] == f"{openid.issuer}/enter"
        assert device["url_with_code"].endswith(device["user_code"])
        assert (device["ask_every_s"], device["valid_s"]) == (7, 900)
        waiting = await ask(client, device)
        assert (waiting.status_code, waiting.json()) == (202, {"pending": True, "slower": False})
        openid.agree("ada")
        answer = await ask(client, device)
        assert answer.status_code == 201, answer.text
        again = await ask(client, device)
        assert (again.status_code, "used before" in again.text) == (401, True)
    assert (answer.json()["person"], answer.json()["tenant"]) == ("ada@example.org", "studio")
    async with house.client(answer.json()["key"]) as ada:
        own = (await ada.get("/v1/keys/self")).json()
        assert (own["scopes"], own["endpoints"]) == (["read", "submit"], ["test/*"])
    async with house.client() as admin:
        acts = (await admin.get("/v1/audit")).json()["acts"]
        assert [act["subject"] for act in acts if act["action"] == "sign-in"] == ["ada@example.org"]


async def test_a_provider_that_names_no_interval_is_asked_every_five_seconds(
    house: House, openid: DeviceProvider
) -> None:
    openid.interval = None
    async with browser(house) as client:
        assert (await begin_sign_in(client))["ask_every_s"] == 5


async def test_a_provider_that_wants_more_patience_gets_it(
    house: House, openid: DeviceProvider
) -> None:
    openid.slow = 1
    async with browser(house) as client:
        device = await begin_sign_in(client)
        assert (await ask(client, device)).json() == {"pending": True, "slower": True}
        assert (await ask(client, device)).json() == {"pending": True, "slower": False}


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [("access_denied", 403, "refused at the provider"), ("expired_token", 401, "took too long")],
)
async def test_a_sign_in_that_has_ended_says_why(
    house: House, openid: DeviceProvider, error: str, status: int, words: str
) -> None:
    async with browser(house) as client:
        device = await begin_sign_in(client)
        openid.end(error)
        answer = await ask(client, device)
    assert (answer.status_code, words in answer.text) == (status, True)
    await house.services.audit.write()
    async with house.client() as admin:
        assert [act["action"] for act in (await admin.get("/v1/audit")).json()["acts"]] == [
            "login.fail"
        ]


async def test_a_person_without_a_known_group_gets_no_key(
    house: House, openid: DeviceProvider
) -> None:
    async with browser(house) as client:
        device = await begin_sign_in(client)
        openid.agree("eve")
        answer = await ask(client, device)
    assert (answer.status_code, "strangers" in answer.text) == (403, True)


async def test_a_provider_without_such_sign_ins_is_said(
    house: House, openid: DeviceProvider
) -> None:
    openid.offers_devices = False
    async with browser(house) as client:
        answer = await client.post("/v1/sign-in/device")
    assert (answer.status_code, "--key" in answer.text) == (400, True)


async def test_a_provider_that_refuses_darkroom_itself_is_told_apart(
    house: House, openid: DeviceProvider
) -> None:
    use(house, openid.issuer, FakeClock(datetime.now(UTC)), secret="wrong")
    async with browser(house) as client:
        answer = await client.post("/v1/sign-in/device")
    assert (answer.status_code, answer.json()["code"]) == (500, "misconfigured")
    assert "invalid_client" in answer.text


async def test_without_a_provider_no_program_signs_in() -> None:
    async with build_house(replica=False) as house, browser(house) as client:
        assert (await client.post("/v1/sign-in/device")).status_code == 404
        assert (await ask(client, {"device_code": "x"})).status_code == 404


async def test_signing_out_goes_on_to_the_provider_if_the_operator_wants_it() -> None:
    clock = FakeClock(datetime.now(UTC))
    settings = {"oidc_groups": GROUPS, "oidc_provider_logout": True}
    with provider() as issuer:
        async with build_house(clock=clock, replica=False, **settings) as house:
            use(house, issuer, clock)
            async with browser(house) as client:
                key = (await come_back(client, await begin(client), "ada")).json()["key"]
            async with house.client(key) as ada:
                ended = await ada.delete("/v1/sign-in")
                assert ended.status_code == 200, ended.text
                assert (await ada.get("/v1/keys/self")).status_code == 401
            url = ended.json()["provider_logout_url"]
            assert url.startswith(issuer)
            query = parse_qs(urlsplit(url).query)
            assert query["post_logout_redirect_uri"] == ["http://testserver/"]
            async with httpx.AsyncClient(trust_env=False) as person:
                page = await person.get(url)
                assert page.status_code == 200, page.text
                back = await person.post(
                    f"{issuer}/oauth2/end_session/confirm",
                    data={"redirect_uri": "http://testserver/"},
                )
            assert back.headers["location"] == "http://testserver/"


async def test_signing_out_does_not_wait_for_a_provider_that_is_away(
    openid: DeviceProvider,
) -> None:
    clock = FakeClock(datetime.now(UTC))
    settings = {"oidc_groups": GROUPS, "oidc_provider_logout": True}
    async with build_house(clock=clock, replica=False, **settings) as house:
        use(house, openid.issuer, clock)
        async with browser(house) as client:
            device = await begin_sign_in(client)
            openid.agree("ada")
            key = (await ask(client, device)).json()["key"]
        use(house, "http://127.0.0.1:1", clock)
        async with house.client(key) as ada:
            assert (await ada.delete("/v1/sign-in")).status_code == 204
