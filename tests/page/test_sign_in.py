"""Sign-in of people on the page, at a real provider."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace

import pytest
from playwright.sync_api import Page, expect

from serve_app.ingress.services.sign_in import SignIn
from serve_app.tenants.oidc import OpenIdProvider, ProviderConfig
from serve_app.tenants.sign_in import SignInStates
from tests.fakes.openid import CLIENT_ID, provider
from tests.page.darkroom import PageDarkroom, page_darkroom
from tests.page.reader import Reader

GROUPS = {"artists": {"tenant": "studio"}}


@pytest.fixture(scope="module")
def issuer() -> Iterator[str]:
    with provider() as issuer:
        yield issuer


@pytest.fixture
def served(issuer: str) -> Iterator[PageDarkroom]:
    with page_darkroom(oidc_groups=GROUPS) as darkroom:
        services = darkroom.house.services
        config = ProviderConfig(issuer, CLIENT_ID, "secret")
        states = SignInStates(b"s" * 32, services.clock)
        sign_in = SignIn(OpenIdProvider(config, services.clock), states)
        services.identity = replace(services.identity, sign_in=sign_in)
        yield darkroom


def sign_in(page: Page, person: str) -> None:
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_url("**/oauth2/authorize**")
    page.get_by_role("button", name=person).click()


def test_a_person_signs_in_works_and_signs_out(page: Page, served: PageDarkroom) -> None:
    page.goto(served.url)
    sign_in(page, "ada")
    expect(page.get_by_role("button", name="Generate")).to_be_visible()
    expect(page).to_have_url(re.compile(r"^[^?]*$"))  # neither code nor state stays in the address
    page.get_by_role("button", name="API key").click()
    leave = page.get_by_role("button", name="Sign out ada@example.org")
    expect(page.get_by_role("button", name="Forget this key")).to_be_hidden()
    key = page.evaluate("localStorage.getItem('darkroom.key')")
    leave.click()
    expect(leave).to_be_hidden()
    expect(page.get_by_role("button", name="Sign in")).to_be_visible()
    assert page.evaluate("localStorage.getItem('darkroom.key')") is None
    headers = {"authorization": f"Key {key}"}
    assert page.request.get(f"{served.url}/v1/keys/self", headers=headers).status == 401


def test_a_person_without_a_known_group_reads_why(page: Page, served: PageDarkroom) -> None:
    page.goto(served.url)
    sign_in(page, "eve")
    expect(page.get_by_role("alert")).to_contain_text("eve@example.org may not use this Darkroom")


def test_an_answer_that_this_tab_did_not_ask_for_is_refused(
    page: Page, served: PageDarkroom
) -> None:
    sent: list[str] = []
    page.on("request", lambda request: sent.append(request.url))
    page.goto(f"{served.url}/?code=stolen&state=forged")
    expect(page.get_by_role("alert")).to_contain_text("did not begin in this tab")
    assert not any(each.endswith("/v1/sign-in/finish") for each in sent)


def test_without_a_provider_there_is_only_the_key(page: Page) -> None:
    with page_darkroom() as darkroom:
        with page.expect_response("**/v1/sign-in"):
            page.goto(darkroom.url)
        expect(page.get_by_role("button", name="Open")).to_be_visible()
        expect(page.get_by_role("button", name="Sign in")).to_be_hidden()
        Reader(page, darkroom).give_key(darkroom.house.weak_key)
        expect(page.get_by_role("button", name="Generate")).to_be_visible()
