"""View of a tenant's own usage and keys, for keys that are no operator's."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from playwright.sync_api import BrowserContext, Page, Route, expect

from tests.page.axe import look
from tests.page.darkroom import PageDarkroom
from tests.page.operator import Operator
from tests.page.reader import FLUX, Reader, box_of, expect_images, select_past

OpenContext = Callable[..., BrowserContext]


def new_key(page: Page, darkroom: PageDarkroom, *scopes: str) -> str:
    """Key of the tenant `default` with these scopes."""
    response = page.request.post(
        f"{darkroom.url}/v1/keys",
        headers={"authorization": f"Key {darkroom.key}"},
        data={"scopes": [*scopes], "alias": "+".join(scopes)},
    )
    return str(response.json()["key"])


class Member(Operator):
    """User of a tenant, with a key of these scopes."""

    def __init__(self, page: Page, darkroom: PageDarkroom, *scopes: str) -> None:
        self.page = page
        self.darkroom = darkroom
        self.key = new_key(page, darkroom, *scopes)
        page.goto(darkroom.url)
        reader = Reader(page, darkroom)
        reader.give_key(self.key)
        reader.choose(FLUX)

    def open(self, part: str) -> None:
        self.page.get_by_role("link", name="Account").click()
        tab = self.page.get_by_role("navigation", name="Parts").get_by_role("link", name=part)
        tab.click()
        expect(tab).to_have_attribute("aria-current", "page")


@pytest.mark.long
def test_the_costs_are_those_of_the_chosen_time_whatever_answer_comes_last(
    page: Page, installation: PageDarkroom
) -> None:
    member = Member(page, installation, "api")
    member.open("Usage")
    time = page.get_by_label("Time", exact=True)
    costs = page.get_by_label("Costs", exact=True)
    expect(page.get_by_text("Nothing was made in this time.")).to_be_visible()
    routes: list[Route] = []

    def answer(route: Route) -> None:
        (start,) = parse_qs(urlsplit(route.request.url).query)["start"]
        days = (datetime.now(UTC) - datetime.fromisoformat(start)).days
        if days > 60:
            routes.append(route)  # until the other choice was made
        else:
            cost = {"currency": "USD", "cost": 7.0 if days < 10 else 30.0}
            route.fulfill(json={"results": [], "costs": [cost]})

    page.route("**/v1/usage?*", answer)
    with page.expect_request("**/v1/usage?*"):
        time.select_option("90")
    time.select_option("7")
    page.wait_for_timeout(500)
    routes[0].fulfill(json={"results": [], "costs": [{"currency": "USD", "cost": 90.0}]})
    page.wait_for_timeout(500)
    expect(costs).to_have_text("7.00 USD")


def test_a_tenant_sees_what_it_used_and_nothing_of_others(
    page: Page, installation: PageDarkroom
) -> None:
    other = {"authorization": f"Key {installation.house.other_key}"}
    page.request.post(f"{installation.url}/run/test/probe", headers=other, data={})
    member = Member(page, installation, "api")
    urls: list[str] = []
    page.on("request", lambda request: urls.append(request.url))
    expect_images(Reader(page, installation).generate("a hill"), 1)
    member.open("Usage")
    expect(page.get_by_role("link", name="Operate")).to_be_hidden()
    expect(page.get_by_role("link", name="Keys")).to_be_hidden()
    expect(member.row("By endpoint", FLUX)).to_contain_text("1")
    expect(member.table("By endpoint").get_by_role("row")).to_have_count(2)
    expect(member.table("Requests by day").get_by_role("row")).to_have_count(1)
    with page.expect_download() as saved:
        page.get_by_role("button", name="Download as CSV").click()
    head, line = saved.value.path().read_text().splitlines()
    assert head.startswith("day,tenant,key_id,endpoint_id,")
    assert f",default,{member.key.partition(':')[0]},{FLUX}," in line
    assert not any("/v1/tenants" in url or "/v1/usage/report" in url for url in urls)


def test_a_key_sees_only_the_parts_of_its_scopes(page: Page, installation: PageDarkroom) -> None:
    Member(page, installation, "submit", "read")
    expect(page.get_by_role("link", name="Account")).to_be_hidden()
    page.goto(f"{installation.url}/#view=account&part=keys")
    expect(
        page.get_by_text("needs a key with the scope usage, files or tenant-admin")
    ).to_be_visible()
    expect(page.get_by_role("navigation", name="Parts")).to_be_hidden()


@pytest.mark.long
def test_the_address_of_a_part_that_the_key_may_not_see_shows_another_one(
    page: Page, installation: PageDarkroom
) -> None:
    Member(page, installation, "api")
    page.goto(f"{installation.url}/#view=account&part=keys")
    tab = page.get_by_role("navigation", name="Parts").get_by_role("link", name="Usage")
    expect(tab).to_have_attribute("aria-current", "page")


def test_a_tenant_admin_manages_the_keys_of_its_tenant(
    page: Page, installation: PageDarkroom
) -> None:
    member = Member(page, installation, "api", "tenant-admin")
    member.open("Keys")
    expect(page.get_by_role("heading", name="Keys of default")).to_be_visible()
    expect(page.get_by_role("button", name="Create a tenant")).to_have_count(0)
    page.get_by_role("button", name="Create a key").click()
    expect(member.dialog.get_by_label("Tenant", exact=True)).to_have_count(0)
    expect(member.dialog.get_by_label("operator:")).to_have_count(0)
    expect(member.dialog.get_by_label("tenant-admin:")).not_to_be_checked()
    member.dialog.get_by_label("Name").fill("the web app")
    member.dialog.get_by_role("button", name="Create it").click()
    secret = member.dialog.locator(".secret").inner_text()
    member.dialog.get_by_role("button", name="Close").click()
    header = {"authorization": f"Key {secret}"}
    own = page.request.get(f"{installation.url}/v1/keys/self", headers=header).json()
    assert (own["tenant"], own["scopes"]) == ("default", ["api"])
    key = member.row("Keys", "the web app")
    key.get_by_role("button", name="Rotate").click()
    member.dialog.get_by_role("button", name="Rotate it").click()
    expect(member.dialog.locator(".secret")).to_be_visible()
    member.dialog.get_by_role("button", name="Close").click()
    expect(key).to_have_count(2)
    key.filter(has_text="rotated").get_by_role("button", name="Revoke").click()
    member.dialog.get_by_role("button", name="Revoke it").click()
    expect(key.filter(has_text="revoked")).to_have_count(1)
    assert page.request.get(f"{installation.url}/v1/keys/self", headers=header).status == 401


@pytest.mark.long
def test_a_new_key_is_not_lost_by_a_click_beside_it(page: Page, installation: PageDarkroom) -> None:
    member = Member(page, installation, "api", "tenant-admin")
    member.open("Keys")
    page.get_by_role("button", name="Create a key").click()
    member.dialog.get_by_label("Name").fill("the web app")
    left, top, *_ = box_of(member.dialog)
    page.mouse.click(left - 30, top + 8)
    expect(member.dialog.get_by_label("Name")).to_have_value("the web app")
    member.dialog.get_by_role("button", name="Create it").click()
    secret = member.dialog.locator(".secret")
    expect(secret).to_be_visible()
    select_past(member.dialog, secret)
    left, top, *_ = box_of(member.dialog)
    page.mouse.click(left + 8, top + 8)  # the blank border
    page.mouse.click(left - 30, top + 8)
    expect(secret).to_be_visible()


@pytest.mark.long
def test_a_number_that_cannot_be_read_is_not_taken_for_an_empty_one(
    page: Page, installation: PageDarkroom
) -> None:
    member = Member(page, installation, "api", "tenant-admin")
    member.open("Keys")
    page.get_by_role("button", name="Create a key").click()
    days = member.dialog.get_by_label("Days until it expires")
    days.press_sequentially("30-")
    member.dialog.get_by_role("button", name="Create it").click()
    expect(member.dialog.get_by_role("alert")).to_contain_text(
        "Days until it expires is not a number."
    )
    expect(days).to_be_focused()
    days.fill("30")
    member.dialog.get_by_role("button", name="Create it").click()
    expect(member.dialog.locator(".secret")).to_be_visible()


@pytest.mark.long
@pytest.mark.parametrize("works", [True, False])
def test_a_dialog_that_is_closed_too_early_still_says_how_it_ended(
    page: Page, installation: PageDarkroom, works: bool
) -> None:
    routes: list[Route] = []

    def hold(route: Route) -> None:
        routes.append(route)

    page.route("**/v1/keys/*/rotate", hold)
    new_key(page, installation, "read")
    member = Member(page, installation, "api", "tenant-admin")
    member.open("Keys")
    key = member.row("Keys", "read")
    with page.expect_request("**/rotate"):
        key.get_by_role("button", name="Rotate").click()
        member.dialog.get_by_role("button", name="Rotate it").click()
    member.dialog.get_by_role("button", name="Close").click()
    expect(member.dialog).to_be_hidden()
    if works:
        routes[0].continue_()
        expect(member.dialog.locator(".secret")).to_be_visible()
        expect(key).to_have_count(2)
    else:
        routes[0].fulfill(status=503, json={"detail": "PostgreSQL is away."})
        expect(member.dialog.get_by_role("alert")).to_contain_text("PostgreSQL is away.")
        expect(member.dialog.get_by_role("button", name="Rotate it")).to_be_enabled()


@pytest.mark.long
def test_a_key_of_an_operator_stays_out_of_the_reach_of_a_tenant_admin(
    page: Page, installation: PageDarkroom
) -> None:
    beyond = new_key(page, installation, "operator").partition(":")[0]
    member = Member(page, installation, "api", "tenant-admin")
    member.open("Keys")
    member.row("Keys", beyond).get_by_role("button", name="Revoke").click()
    member.dialog.get_by_role("button", name="Revoke it").click()
    expect(member.dialog.get_by_role("alert")).to_contain_text("lacks `operator`")


WEIGHTS = "style.safetensors"


def test_weights_are_registered_by_a_file_or_a_repository_and_removed(
    page: Page, installation: PageDarkroom, tmp_path: Path
) -> None:
    (tmp_path / WEIGHTS).write_bytes(b"not checked by this test")
    member = Member(page, installation, "api")
    member.open("Weights")
    expect(page.get_by_text("There are no weights.")).to_be_visible()
    page.get_by_role("button", name="Register weights").click()
    member.dialog.get_by_label("Name").fill("style")
    member.dialog.get_by_label("Model that they are for").select_option(FLUX)
    member.dialog.get_by_role("button", name="Register them").click()
    expect(member.dialog.get_by_role("alert")).to_contain_text("Choose either a file")
    member.dialog.get_by_label("File", exact=True).set_input_files(tmp_path / WEIGHTS)
    member.dialog.get_by_role("button", name="Register them").click()
    member.expect_said("The weights style are being checked.")
    style = member.row("Weights", "weights:style")
    expect(style).to_contain_text("waiting")
    expect(style).to_contain_text(FLUX)
    page.get_by_role("button", name="Register weights").click()
    member.dialog.get_by_label("Name").fill("faces")
    member.dialog.get_by_label("repository").fill("owner/faces@main")
    member.dialog.get_by_label("Kind").select_option("lora")
    member.dialog.get_by_label("Private endpoint").fill("faces")
    member.dialog.get_by_role("button", name="Register them").click()
    faces = member.row("Weights", "weights:faces")
    expect(faces).to_contain_text("default/faces")
    faces.get_by_role("button", name="Delete").click()
    expect(member.dialog).to_contain_text("Their private endpoint ends.")
    member.dialog.get_by_role("button", name="Delete it").click()
    member.expect_said("The set of weights faces is deleted.")
    expect(faces).to_have_count(0)
    expect(style).to_be_visible()


@pytest.mark.long
def test_a_file_that_is_dropped_on_a_field_of_a_dialog_stays_there(
    page: Page, installation: PageDarkroom, tmp_path: Path
) -> None:
    (tmp_path / WEIGHTS).write_bytes(b"not checked by this test")
    member = Member(page, installation, "api")
    member.open("Weights")
    page.get_by_role("button", name="Register weights").click()
    field = member.dialog.get_by_label("File", exact=True)
    box = field.bounding_box()
    assert box is not None
    files = {"items": [], "files": [str(tmp_path / WEIGHTS)], "dragOperationsMask": 1}
    at = {"x": box["x"] + 20, "y": box["y"] + 10, "data": files}
    session = page.context.new_cdp_session(page)
    for kind in ("dragEnter", "dragOver", "drop"):
        session.send("Input.dispatchDragEvent", {"type": kind, **at})
    expect(field).to_have_value(f"C:\\fakepath\\{WEIGHTS}")
    expect(page.get_by_role("dialog")).to_have_count(1)


@pytest.mark.long
def test_every_text_can_be_read_and_the_keyboard_reaches_the_parts_also_on_a_phone(
    open_context: OpenContext, installation: PageDarkroom
) -> None:
    phone = open_context(viewport={"width": 360, "height": 740}, has_touch=True)
    page = phone.new_page()
    member = Member(page, installation, "api", "tenant-admin")
    expect_images(Reader(page, installation).generate("a hill"), 1)
    for part in ("Usage", "Keys", "Resources", "Weights"):
        member.open(part)
        expect(page.locator(".part [aria-busy]")).to_have_count(0)
        look(page)
    usage = page.get_by_role("navigation", name="Parts").get_by_role("link", name="Usage")
    usage.focus()
    page.keyboard.press("Enter")
    expect(usage).to_have_attribute("aria-current", "page")
    for _ in range(4):  # over the other parts
        page.keyboard.press("Tab")
    expect(page.get_by_label("Time", exact=True)).to_be_focused()
