"""Sign-in of people on the page, at a real provider."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, expect

from tests.fakes.openid import CLIENT_ID, provider
from tests.page.axe import axe
from tests.page.darkroom import PageDarkroom, page_darkroom
from tests.page.reader import Reader

GROUPS = {"artists": {"tenant": "studio"}}


@pytest.fixture(scope="module")
def issuer() -> Iterator[str]:
    with provider() as issuer:
        yield issuer


@pytest.fixture
def installation(issuer: str) -> Iterator[PageDarkroom]:
    settings = {"oidc_issuer": issuer, "oidc_client_id": CLIENT_ID, "oidc_groups": GROUPS}
    with page_darkroom(**settings) as darkroom:
        yield darkroom


def sign_in(page: Page, person: str) -> None:
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_url("**/oauth2/authorize**")
    page.get_by_role("button", name=person).click()


def test_a_person_signs_in_works_and_signs_out(page: Page, installation: PageDarkroom) -> None:
    page.goto(installation.url)
    expect(page.get_by_role("button", name="Sign in")).to_be_visible()
    assert axe(page) == []
    sign_in(page, "ada")
    expect(page.get_by_role("button", name="Generate")).to_be_visible()
    expect(page).to_have_url(re.compile(r"^[^?]*$"))  # neither code nor state stays in the address
    page.get_by_role("button", name="API key").click()
    leave = page.get_by_role("button", name="Sign out ada@example.org")
    expect(page.get_by_role("button", name="Forget this key")).to_be_hidden()
    assert axe(page) == []
    key = page.evaluate("localStorage.getItem('darkroom.key')")
    leave.click()
    expect(leave).to_be_hidden()
    expect(page.get_by_role("button", name="Sign in")).to_be_visible()
    assert page.evaluate("localStorage.getItem('darkroom.key')") is None
    headers = {"authorization": f"Key {key}"}
    assert page.request.get(f"{installation.url}/v1/keys/self", headers=headers).status == 401


@pytest.mark.long
def test_a_person_without_a_known_group_reads_why(page: Page, installation: PageDarkroom) -> None:
    page.goto(installation.url)
    sign_in(page, "eve")
    expect(page.get_by_role("alert")).to_contain_text("eve@example.org may not use this Darkroom")


@pytest.mark.long
def test_an_answer_that_this_tab_did_not_ask_for_is_refused(
    page: Page, installation: PageDarkroom
) -> None:
    sent: list[str] = []
    page.on("request", lambda request: sent.append(request.url))
    page.goto(f"{installation.url}/?code=stolen&state=forged")
    expect(page.get_by_role("alert")).to_contain_text("did not begin in this tab")
    assert not any(url.endswith("/v1/sign-in/finish") for url in sent)


@pytest.mark.long
def test_without_a_provider_there_is_only_the_key(page: Page) -> None:
    with page_darkroom() as darkroom:
        with page.expect_response("**/v1/sign-in"):
            page.goto(darkroom.url)
        expect(page.get_by_role("button", name="Open")).to_be_visible()
        expect(page.get_by_role("button", name="Sign in")).to_be_hidden()
        Reader(page, darkroom).give_key(darkroom.house.weak_key)
        expect(page.get_by_role("button", name="Generate")).to_be_visible()


@pytest.mark.long
def test_signing_out_goes_on_to_the_provider_if_the_operator_wants_it(
    page: Page, issuer: str
) -> None:
    settings = {"oidc_issuer": issuer, "oidc_client_id": CLIENT_ID, "oidc_groups": GROUPS}
    with page_darkroom(**settings, oidc_provider_logout=True) as darkroom:
        page.goto(darkroom.url)
        sign_in(page, "ada")
        page.get_by_role("button", name="API key").click()
        page.get_by_role("button", name="Sign out ada@example.org").click()
        page.wait_for_url(f"{issuer}/oauth2/end_session**")
        assert "client_id=darkroom" in page.url
        page.goto(darkroom.url)
        expect(page.get_by_role("button", name="Sign in")).to_be_visible()
        assert page.evaluate("localStorage.getItem('darkroom.key')") is None
