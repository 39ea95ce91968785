"""Sign-in of people at a real provider, and calls with its tokens."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from serve_app.ingress.services.address_rates import BURST
from serve_app.ingress.services.sign_in import SignIn
from serve_app.tenants.oidc import CLOCK_SKEW_S, STALE_S, OpenIdProvider, ProviderConfig
from serve_app.tenants.sign_in import BEGUN_VALID_S, SignInStates
from tests.fakes.clock import FakeClock
from tests.fakes.openid import CLIENT_ID, agree, provider, signed_token
from tests.ingress.house import House, build_house
from tests.ingress.socket import connect

GROUPS = {
    "artists": {"tenant": "studio", "scopes": ["submit", "read"], "endpoints": ["test/*"]},
    "operators": {"tenant": "default", "scopes": ["admin"]},
}
HOUR_S = 3600
SECRET = "secret"


@pytest.fixture(scope="module")
def issuer() -> Iterator[str]:
    with provider() as issuer:
        yield issuer


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(datetime.now(UTC))


@pytest.fixture
async def house(issuer: str, clock: FakeClock) -> AsyncIterator[House]:
    async with build_house(clock=clock, replica=False, oidc_groups=GROUPS) as house:
        use(house, issuer, clock)
        yield house


def use(house: House, issuer: str, clock: FakeClock, secret: str = SECRET, **settings: Any) -> None:
    """Let people sign in to ``house`` at the provider."""
    config = ProviderConfig(issuer, CLIENT_ID, secret, **settings)
    sign_in = SignIn(OpenIdProvider(config, clock), SignInStates(b"s" * 32, clock))
    house.services.identity = replace(house.services.identity, sign_in=sign_in)


async def begin(client: httpx.AsyncClient) -> dict[str, str]:
    answer = await client.post("/v1/sign-in")
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


async def come_back(
    client: httpx.AsyncClient, begun: dict[str, str], person: str, **other: str
) -> httpx.Response:
    back = await agree(begun["url"], person)
    body = {"code": back["code"], "state": back["state"], "secret": begun["secret"], **other}
    return await client.post("/v1/sign-in/finish", json=body)


def browser(house: House) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(house.app)
    return httpx.AsyncClient(transport=transport, base_url="http://testserver")


def bearer(house: House, token: str) -> httpx.AsyncClient:
    client = browser(house)
    client.headers["authorization"] = f"Bearer {token}"
    return client


async def test_without_a_provider_nobody_signs_in() -> None:
    async with build_house(replica=False) as house, browser(house) as client:
        assert (await client.get("/v1/sign-in")).json() == {"available": False}
        assert (await client.post("/v1/sign-in")).status_code == 404
        refused = await bearer(house, "a.b.c").get("/v1/requests")
        assert (refused.status_code, "malformed" in refused.text) == (401, True)


async def test_a_person_gets_a_key_with_the_rights_of_its_group(house: House) -> None:
    async with browser(house) as client:
        assert (await client.get("/v1/sign-in")).json() == {"available": True}
        answer = await come_back(client, await begin(client), "ada")
        assert answer.status_code == 201, answer.text
    session = answer.json()
    assert (session["person"], session["tenant"]) == ("ada@example.org", "studio")
    async with house.client(session["key"]) as ada:
        own = (await ada.get("/v1/keys/self")).json()
        assert (own["scopes"], own["endpoints"]) == (["read", "submit"], ["test/*"])
        assert (await ada.post("/queue/test/probe", json={})).status_code == 200
    async with house.client() as admin:
        shown = (await admin.get("/v1/keys?tenant=studio")).json()["keys"]
        assert [(entry["kind"], entry["person"]) for entry in shown] == [
            ("person", session["person"])
        ]
        acts = (await admin.get("/v1/audit")).json()["acts"]
        (act,) = [entry for entry in acts if entry["action"] == "sign-in"]
        assert (act["subject"], act["actor"]) == ("ada@example.org", session["key_id"])
        assert act["detail"]["sub"] == "ada", "people may change their names"


async def test_a_person_makes_no_key_that_outlives_the_sign_in(
    issuer: str, clock: FakeClock
) -> None:
    groups = {"artists": {"tenant": "studio", "scopes": ["api", "tenant-admin"]}}
    later, sooner = clock.now() + timedelta(days=9), clock.now() + timedelta(minutes=5)
    async with build_house(clock=clock, oidc_groups=groups) as house, browser(house) as client:
        use(house, issuer, clock)
        key = (await come_back(client, await begin(client), "ada")).json()["key"]
        lasting = await house.keys.create("studio")
        async with house.client(key) as ada:
            for expires_at in (None, later.isoformat()):
                refused = await ada.post("/v1/keys", json={"expires_at": expires_at})
                assert refused.status_code == 403, refused.text
                assert "DARKROOM_OIDC_LASTING_KEYS" in refused.json()["message"]
            assert (await ada.post(f"/v1/keys/{lasting.id}/rotate", json={})).status_code == 403
            answer = await ada.post("/v1/keys", json={"expires_at": sooner.isoformat()})
            assert answer.status_code == 201, answer.text
            rotated = await ada.post(f"/v1/keys/{answer.json()['key_id']}/rotate", json={})
            assert rotated.status_code == 201, rotated.text
        token = await signed_token(issuer, "ada")
        async with bearer(house, token) as program:
            assert (await program.post("/v1/keys", json={})).status_code == 403


async def test_a_person_makes_lasting_keys_where_the_operator_allows_it(
    issuer: str, clock: FakeClock
) -> None:
    groups = {"artists": {"tenant": "studio", "scopes": ["api", "tenant-admin"]}}
    allowed: dict[str, Any] = {"oidc_groups": groups, "oidc_lasting_keys": True}
    async with build_house(clock=clock, **allowed) as house, browser(house) as client:
        use(house, issuer, clock)
        key = (await come_back(client, await begin(client), "ada")).json()["key"]
        async with house.client(key) as ada:
            assert (await ada.post("/v1/keys", json={})).status_code == 201


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/v1/sign-in/device", None),
        ("POST", "/v1/sign-in/links/take", {"token": "x" * 32}),
        ("GET", f"/v1/shared/{'x' * 32}", None),
    ],
)
async def test_calls_without_a_key_that_check_a_secret_have_a_rate(
    house: House, clock: FakeClock, method: str, path: str, body: Any
) -> None:
    async with browser(house) as client:
        statuses = [
            (await client.request(method, path, json=body)).status_code for _ in range(BURST)
        ]
        assert 429 not in statuses
        refused = await client.request(method, path, json=body)
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
        clock.advance(1)
        assert (await client.request(method, path, json=body)).status_code == statuses[0]


async def test_the_provider_is_asked_with_pkce_a_nonce_and_a_state(house: House) -> None:
    async with browser(house) as client:
        begun = await begin(client)
    query = {name: values[0] for name, values in parse_qs(urlsplit(begun["url"]).query).items()}
    assert query["code_challenge_method"] == "S256"
    assert query["redirect_uri"] == "http://testserver/"
    assert query["state"] == begun["state"]
    assert {"code_challenge", "nonce"} <= query.keys()
    assert begun["secret"] not in begun["url"]


async def test_a_session_ends_by_itself_and_by_signing_out(house: House, clock: FakeClock) -> None:
    async with browser(house) as client:
        key = (await come_back(client, await begin(client), "ada")).json()["key"]
        other = (await come_back(client, await begin(client), "ada")).json()["key"]
    async with house.client(key) as ada:
        assert (await ada.delete("/v1/sign-in")).status_code == 204
        assert (await ada.get("/v1/keys/self")).status_code == 401
    async with house.client(other) as ada:
        assert (await ada.get("/v1/keys/self")).status_code == 200
        clock.advance(8 * HOUR_S)
        assert (await ada.get("/v1/keys/self")).status_code == 401
    async with house.client() as admin:  # no sign-in
        assert (await admin.delete("/v1/sign-in")).status_code == 403


async def test_a_session_is_revoked_by_an_operator(house: House) -> None:
    async with browser(house) as client:
        session = (await come_back(client, await begin(client), "ada")).json()
    async with house.client() as admin, house.client(session["key"]) as ada:
        assert (await admin.delete(f"/v1/keys/{session['key_id']}")).status_code == 204
        assert (await ada.get("/v1/keys/self")).status_code == 401


async def test_a_session_is_not_prolonged_by_a_rotation(house: House) -> None:
    async with browser(house) as client:
        session = (await come_back(client, await begin(client), "bob")).json()
    async with house.client(session["key"]) as bob:
        refused = await bob.post(f"/v1/keys/{session['key_id']}/rotate", json={})
    assert (refused.status_code, "Sign in again" in refused.text) == (403, True)


async def test_a_forged_state_is_refused(house: House, clock: FakeClock) -> None:
    other = SignInStates(b"o" * 32, clock).begin()
    async with browser(house) as client:
        begun = await begin(client)
        for state in (other.state, "x", begun["state"][:-4] + "AAAA"):
            answer = await come_back(client, begun, "ada", state=state)
            assert (answer.status_code, "did not begin here" in answer.text) == (401, True)


async def test_another_browser_cannot_use_what_this_one_began(house: House) -> None:
    async with browser(house) as client:
        mine, theirs = await begin(client), await begin(client)
        answer = await come_back(client, mine, "ada", secret=theirs["secret"])
    assert (answer.status_code, "another browser" in answer.text) == (401, True)


async def test_a_callback_that_is_replayed_is_refused(house: House) -> None:
    async with browser(house) as client:
        begun = await begin(client)
        back = await agree(begun["url"], "ada")
        body = {**back, "secret": begun["secret"]}
        assert (await client.post("/v1/sign-in/finish", json=body)).status_code == 201
        again = await client.post("/v1/sign-in/finish", json=body)
    assert (again.status_code, "used before" in again.text) == (401, True)


async def test_a_provider_that_refuses_darkroom_itself_is_told_apart(
    house: House, issuer: str, clock: FakeClock
) -> None:
    use(house, issuer, clock, secret="")  # this provider has no clients without a secret
    async with browser(house) as client:
        answer = await come_back(client, await begin(client), "ada")
    assert (answer.status_code, answer.json()["code"]) == (500, "misconfigured")
    assert "DARKROOM_OIDC_CLIENT_SECRET" in answer.json()["detail"]


async def test_a_code_of_another_sign_in_is_refused(house: House) -> None:
    async with browser(house) as client:
        mine, theirs = await begin(client), await begin(client)
        code = (await agree(theirs["url"], "bob"))["code"]
        answer = await come_back(client, mine, "ada", code=code)
    assert (answer.status_code, "another sign-in" in answer.text) == (401, True)


async def test_a_sign_in_that_took_too_long_is_refused(house: House, clock: FakeClock) -> None:
    async with browser(house) as client:
        begun = await begin(client)
        clock.advance(BEGUN_VALID_S)
        answer = await come_back(client, begun, "ada")
    assert (answer.status_code, "too long" in answer.text) == (401, True)


@pytest.mark.parametrize(("person", "words"), [("eve", "strangers"), ("zoe", "none")])
async def test_a_person_without_a_known_group_is_told_so(
    house: House, person: str, words: str
) -> None:
    async with browser(house) as client:
        answer = await come_back(client, await begin(client), person)
    assert answer.status_code == 403
    assert f"{person}@example.org may not use this Darkroom" in answer.json()["detail"]
    assert words in answer.json()["detail"]


async def test_failed_sign_ins_are_counted_as_failed_logins(house: House) -> None:
    async with browser(house) as client:
        await client.post("/v1/sign-in/finish", json={"code": "c", "state": "s", "secret": "x"})
    await house.services.audit.write()
    async with house.client() as admin:
        acts = (await admin.get("/v1/audit")).json()["acts"]
    assert [act["action"] for act in acts] == ["login.fail"]


async def test_refused_people_are_failed_logins_by_the_providers_id(
    house: House, issuer: str
) -> None:
    async with browser(house) as client:  # without a group
        assert (await come_back(client, await begin(client), "eve")).status_code == 403
    async with bearer(house, await signed_token(issuer, "zoe")) as zoe:
        assert (await zoe.get("/v1/keys/self")).status_code == 403
    house.services.identity.tenants.disabled |= {"studio"}
    async with browser(house) as client:
        assert (await come_back(client, await begin(client), "ada")).status_code == 403
    async with bearer(house, await signed_token(issuer, "ada")) as ada:
        assert (await ada.get("/v1/keys/self")).status_code == 403
    await house.services.audit.write()
    async with house.client() as admin:
        (act,) = (await admin.get("/v1/audit")).json()["acts"]
    assert act["action"] == "login.fail"
    assert act["detail"] == {"number": 4, "key_ids": ["oidc:eve", "oidc:zoe", "oidc:ada"]}


async def test_a_program_calls_with_a_token_of_the_provider(house: House, issuer: str) -> None:
    async with bearer(house, await signed_token(issuer, "ada")) as ada:
        assert (await ada.post("/queue/test/probe", json={})).status_code == 200
        own = (await ada.get("/v1/keys/self")).json()
        assert (own["key_id"], own["tenant"]) == ("oidc:ada", "studio")
        refused = await ada.post("/queue/fal-ai/flux/schnell", json={"prompt": "x"})
        assert (refused.status_code, "only test/*" in refused.text) == (403, True)
        refused = await ada.post("/rest/tokens", json={"allowed_apps": ["probe"]})
        assert (refused.status_code, "API keys only" in refused.text) == (400, True)
    async with bearer(house, await signed_token(issuer, "eve")) as eve:
        assert (await eve.get("/v1/keys/self")).status_code == 403


async def test_a_session_of_a_program_is_open_until_its_tenant_is_disabled(
    issuer: str, clock: FakeClock
) -> None:
    async with build_house(clock=clock, oidc_groups=GROUPS) as house, house.client() as admin:
        use(house, issuer, clock)
        assert (await admin.post("/v1/tenants", json={"tenant": "studio"})).status_code == 201
        headers = {"authorization": f"Bearer {await signed_token(issuer, 'ada')}"}
        async with connect(house, key=None, headers=headers) as opened:
            opened.send(echo=1)
            assert (await opened.hear())["echo"] == 1
            with pytest.raises(TimeoutError):  # it was checked a few times
                await opened.hear(within_s=0.3)
            await admin.put("/v1/tenants/studio/disable", json={})
            assert "The tenant studio is disabled." in (await opened.hear())["reason"]
            assert await opened.end() == 1008


async def test_a_token_for_another_audience_is_refused(house: House, issuer: str) -> None:
    token = await signed_token(issuer, "ada", "another-program")
    async with bearer(house, token) as ada:
        refused = await ada.get("/v1/keys/self")
    assert (refused.status_code, "another audience" in refused.text) == (401, True)


async def test_a_further_audience_may_be_named(house: House, issuer: str, clock: FakeClock) -> None:
    use(house, issuer, clock, audiences=("another-program",))
    async with bearer(house, await signed_token(issuer, "ada", "another-program")) as ada:
        assert (await ada.get("/v1/keys/self")).status_code == 200


async def test_an_expired_token_is_refused_after_the_skew_of_clocks(
    house: House, issuer: str, clock: FakeClock
) -> None:
    async with bearer(house, await signed_token(issuer, "ada")) as ada:
        clock.advance(HOUR_S + CLOCK_SKEW_S - 5)
        assert (await ada.get("/v1/keys/self")).status_code == 200
        clock.advance(10)
        refused = await ada.get("/v1/keys/self")
    assert (refused.status_code, "has expired" in refused.text) == (401, True)


async def test_a_token_from_the_future_is_refused(house: House, issuer: str) -> None:
    past = FakeClock(datetime.fromtimestamp(datetime.now(UTC).timestamp() - HOUR_S, UTC))
    use(house, issuer, past)
    async with bearer(house, await signed_token(issuer, "ada")) as ada:
        refused = await ada.get("/v1/keys/self")
    assert (refused.status_code, "clocks" in refused.text) == (401, True)


async def test_a_token_of_another_provider_is_refused(house: House) -> None:
    with provider() as other:
        token = await signed_token(other, "bob")
    async with bearer(house, token) as bob:
        refused = await bob.get("/v1/keys/self")
    assert (refused.status_code, "signature" in refused.text) == (401, True)


async def test_the_tokens_of_a_disabled_tenant_are_refused(house: House, issuer: str) -> None:
    async with house.client() as admin, browser(house) as client:
        answer = await admin.post("/v1/tenants", json={"tenant": "studio"})
        assert answer.status_code == 201
        await admin.put("/v1/tenants/studio/disable", json={})
        async with bearer(house, await signed_token(issuer, "ada")) as ada:
            assert (await ada.get("/v1/keys/self")).json()["code"] == "tenant_disabled"
        assert (await come_back(client, await begin(client), "ada")).status_code == 403


@pytest.mark.long
async def test_while_the_provider_is_down_keys_work_and_sign_ins_are_told_when_to_retry(
    clock: FakeClock,
) -> None:
    async with build_house(clock=clock, replica=False, oidc_groups=GROUPS) as house:
        use(house, "http://127.0.0.1:9", clock)
        async with browser(house) as client, house.client() as admin:
            answer = await client.post("/v1/sign-in")
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "10")
            assert answer.json()["code"] == "provider_unavailable"
            assert (await bearer(house, "a.b.c").get("/v1/keys/self")).status_code == 503
            assert (await admin.get("/v1/requests")).status_code == 200


@pytest.mark.long
async def test_tokens_are_checked_with_known_keys_while_the_provider_is_down(
    clock: FakeClock,
) -> None:
    async with build_house(clock=clock, replica=False, oidc_groups=GROUPS) as house:
        with provider() as issuer:
            use(house, issuer, clock)
            token = await signed_token(issuer, "ada")
            async with bearer(house, token) as ada:
                assert (await ada.get("/v1/keys/self")).status_code == 200
        async with bearer(house, token) as ada:
            clock.advance(HOUR_S)  # the keys are asked for again
            assert (await ada.get("/v1/keys/self")).status_code == 200
            clock.advance(STALE_S)
            assert (await ada.get("/v1/keys/self")).status_code == 503
