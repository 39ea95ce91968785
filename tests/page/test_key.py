from __future__ import annotations

import pytest
from playwright.sync_api import Page, expect

from tests.page.darkroom import PageDarkroom
from tests.page.reader import FLUX, Reader, expect_images


def test_without_a_key_the_page_asks_for_it_and_says_where_to_find_it(
    page: Page, installation: PageDarkroom
) -> None:
    page.goto(installation.url)
    expect(page.get_by_role("heading", name="Your API key")).to_be_visible()
    expect(page.get_by_text("darkroom env")).to_be_visible()
    expect(page.get_by_label("API key", exact=True)).to_be_focused()
    expect(page.locator("#work")).to_be_hidden()


@pytest.mark.long
@pytest.mark.parametrize("pasted", ["{}", "  {}\n", "export FAL_KEY='{}'", "Authorization: Key {}"])
def test_a_key_is_found_in_what_was_pasted(
    page: Page, installation: PageDarkroom, pasted: str
) -> None:
    page.goto(installation.url)
    Reader(page, installation).give_key(pasted.format(installation.key))
    expect(page.get_by_role("button", name="Generate")).to_be_visible()


@pytest.mark.long
def test_a_malformed_key_is_reported_before_it_is_sent(
    page: Page, installation: PageDarkroom
) -> None:
    page.goto(installation.url)
    Reader(page, installation).give_key("hello")
    expect(page.get_by_role("alert")).to_contain_text("This is not a Darkroom key")


def test_a_wrong_key_says_so(page: Page, installation: PageDarkroom) -> None:
    page.goto(installation.url)
    Reader(page, installation).give_key(f"dk_0123:{'0' * 64}")
    expect(page.get_by_role("alert")).to_contain_text("This key is not valid here")
    Reader(page, installation).give_key(installation.key)
    expect(page.get_by_role("button", name="Generate")).to_be_visible()


def test_the_key_is_kept_until_it_is_forgotten(reader: Reader) -> None:
    page = reader.page
    page.reload()
    expect(page.get_by_role("button", name="Generate")).to_be_visible()
    page.get_by_role("button", name="API key").click()
    page.get_by_role("button", name="Back").click()
    page.get_by_role("button", name="API key").click()
    page.get_by_role("button", name="Forget this key").click()
    page.reload()
    expect(page.get_by_role("heading", name="Your API key")).to_be_visible()


def test_escape_leaves_the_form_for_the_key_where_there_is_a_way_back(
    page: Page, installation: PageDarkroom
) -> None:
    reader = Reader(page, installation)
    page.goto(installation.url)
    page.keyboard.press("Escape")
    expect(page.get_by_label("API key", exact=True)).to_be_visible()
    reader.enter()
    reader.field("prompt").fill("a hill")
    page.get_by_role("button", name="API key").click()
    expect(page.get_by_label("API key", exact=True)).to_be_focused()
    page.keyboard.press("Escape")
    expect(page.get_by_label("API key", exact=True)).to_be_hidden()
    expect(reader.field("prompt")).to_have_value("a hill")


@pytest.mark.long
def test_a_kept_key_that_is_not_valid_any_more_is_asked_for_again(
    page: Page, installation: PageDarkroom
) -> None:
    page.goto(installation.url)
    page.evaluate("localStorage.setItem('darkroom.key', 'dk_old:' + '0'.repeat(64))")
    page.reload()
    expect(page.get_by_role("alert")).to_contain_text("not valid")


@pytest.mark.long
def test_the_key_is_in_no_address_and_in_no_text(reader: Reader) -> None:
    reader.page.get_by_role("button", name="Code").first.click()
    assert reader.darkroom.key not in reader.page.content()
    assert reader.darkroom.key not in reader.page.url


@pytest.mark.long
def test_a_forgotten_key_leaves_no_list_of_its_requests(reader: Reader) -> None:
    reader.generate("a hidden hill")
    expect(reader.request_rows).to_have_count(1)
    reader.page.get_by_role("button", name="API key").click()
    reader.page.get_by_role("button", name="Forget this key").click()
    expect(reader.page.get_by_role("heading", name="Your API key")).to_be_visible()
    assert "a hidden hill" not in reader.page.content()


def test_another_key_does_not_show_the_requests_of_the_one_before(
    page: Page, installation: PageDarkroom
) -> None:
    reader = Reader(page, installation)
    reader.enter()
    reader.generate("a hidden hill")
    expect(reader.request_rows).to_have_count(1)
    refusal = {"detail": "This key may not list requests."}
    page.route("**/v1/requests?*", lambda route: route.fulfill(status=403, json=refusal))
    page.get_by_role("button", name="API key").click()
    reader.give_key(installation.house.other_key)
    expect(page.get_by_role("button", name="Generate")).to_be_visible()
    expect(reader.request_rows).to_have_count(0)


@pytest.mark.long
def test_a_wrong_key_takes_nothing_from_one_that_works(reader: Reader) -> None:
    page = reader.page
    expect_images(reader.generate("a lake"), 1)
    expect_images(reader.generate("a river"), 1)  # the latest one is shown on an empty stage too
    lake = reader.sheets.filter(has_text="a lake")
    page.get_by_role("button", name="API key").click()
    reader.give_key(f"dk_0123:{'0' * 64}")
    expect(page.get_by_role("alert")).to_contain_text("This key is not valid here")
    page.get_by_role("button", name="Back").click()
    expect(page.get_by_role("button", name="Generate")).to_be_visible()
    assert lake.is_visible()  # the same card, with its picture
    expect_images(reader.generate("a hill"), 1)
    page.reload()
    expect(page.get_by_role("button", name="Generate")).to_be_visible()


@pytest.mark.long
def test_a_key_that_ends_is_asked_for_in_front_of_what_is_open(
    page: Page, installation: PageDarkroom
) -> None:
    headers = {"Authorization": f"Key {installation.key}"}
    keys = f"{installation.url}/v1/keys"
    made = page.request.post(keys, headers=headers, data={}).json()
    reader = Reader(page, installation)
    page.goto(installation.url)
    reader.give_key(made["key"])
    reader.choose(FLUX)
    expect_images(reader.generate("a hill"), 1)
    page.locator("#code-button").click()
    expect(page.get_by_role("dialog")).to_be_visible()
    assert page.request.delete(f"{keys}/{made['key_id']}", headers=headers).ok
    expect(page.get_by_role("alert")).to_contain_text("no longer valid")
    expect(page.get_by_role("dialog")).to_have_count(0)
    reader.give_key(reader.darkroom.key)
    expect(page.get_by_role("button", name="Generate")).to_be_visible()


def test_a_request_is_not_followed_with_a_key_that_has_ended(
    page: Page, idle: PageDarkroom
) -> None:
    """Each such call counts as a failed login, and is in the audit log."""
    headers = {"Authorization": f"Key {idle.key}"}
    keys = f"{idle.url}/v1/keys"
    made, later = (page.request.post(keys, headers=headers, data={}).json() for _ in range(2))
    reader = Reader(page, idle)
    page.goto(idle.url)
    reader.give_key(made["key"])
    reader.choose(FLUX)
    reader.generate("a hill")
    refused: list[str] = []
    page.on("response", lambda answer: refused.append(answer.url) if answer.status == 401 else None)
    assert page.request.delete(f"{keys}/{made['key_id']}", headers=headers).ok
    expect(page.get_by_role("alert")).to_contain_text("no longer valid")
    page.wait_for_timeout(500)  # for calls that were on their way
    refused.clear()
    page.wait_for_timeout(4000)
    assert refused == []
    reader.give_key(later["key"])
    expect(reader.sheets).to_have_count(0)


@pytest.mark.long
def test_a_key_that_is_forgotten_in_one_tab_is_forgotten_in_the_others(reader: Reader) -> None:
    other = Reader(reader.page.context.new_page(), reader.darkroom)
    other.page.goto(reader.darkroom.url)
    other.field("prompt").fill("a secret hill")
    other.page.locator("#code-button").click()
    expect(other.page.get_by_role("dialog")).to_be_visible()
    reader.page.get_by_role("button", name="API key").click()
    reader.page.get_by_role("button", name="Forget this key").click()
    expect(other.page.get_by_role("heading", name="Your API key")).to_be_visible()
    expect(other.page.get_by_role("dialog")).to_have_count(0)
    other.page.close(run_before_unload=True)
    reader.page.wait_for_timeout(500)  # what the tab would write when it closes
    assert "secret" not in reader.page.evaluate("JSON.stringify([localStorage, sessionStorage])")
