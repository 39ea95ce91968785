"""Operator's view: models, webhooks, storage and health."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta

import pytest
from playwright.sync_api import Page, Request, Route, expect

from serve_app.catalog.catalog import StoredEntry, combine_entries, read_file
from serve_app.catalog.entries import EntryBuilder
from serve_app.diagnosis import checks
from serve_app.domain.errors import StorageFull
from serve_app.ingress.services.health import Health, Readiness
from tests.ingress.house import DEMO, MODELS
from tests.page.album import Entry
from tests.page.axe import axe
from tests.page.darkroom import PageDarkroom, page_darkroom
from tests.page.operator import Operator, give_pool
from tests.page.reader import FLUX
from tests.page.test_operator import HIDE

pytestmark = pytest.mark.long

OPEN = {"family": "probe", "schema": "open", "weights": {"directory": "/srv/weights/portraits"}}
BUILDER = EntryBuilder(demo=True, demo_dir=DEMO)
DOCUMENTED = combine_entries(read_file(MODELS), BUILDER, [StoredEntry("house/portraits", OPEN)])


@pytest.fixture
def installation() -> Iterator[PageDarkroom]:
    with page_darkroom(models=MODELS, documented=DOCUMENTED) as darkroom:
        yield darkroom


@pytest.fixture
def operator(page: Page, installation: PageDarkroom) -> Operator:
    give_pool(installation)
    return Operator(page, installation)


def test_a_model_is_checked_added_and_removed(operator: Operator) -> None:
    operator.open("Models")
    page, dialog = operator.page, operator.dialog
    page.get_by_role("button", name="Add a model").click()
    dialog.get_by_role("button", name="Add it").click()
    expect(dialog.get_by_role("alert")).to_contain_text("Id is required")
    assert axe(page) == []
    dialog.get_by_label("Id", exact=True).fill("house/portraits")
    dialog.get_by_label("Weights", exact=True).fill("owner/name")
    dialog.get_by_label("Like").select_option("test/deep/path/probe")
    dialog.get_by_role("button", name="Add it").click()
    expect(dialog.get_by_role("alert")).to_contain_text("40 digits of the commit")
    dialog.get_by_label("Weights", exact=True).fill("/srv/weights/portraits")
    dialog.get_by_label("Only check it").check()
    dialog.get_by_role("button", name="Add it").click()
    operator.expect_said("has no mistake and would be served by the pool studio")
    expect(operator.row("Models", "house/portraits")).to_have_count(0)
    page.get_by_role("button", name="Add a model").click()
    dialog.get_by_label("Id", exact=True).fill("house/portraits")
    dialog.get_by_label("Weights", exact=True).fill("/srv/weights/portraits")
    dialog.get_by_label("Like").select_option("test/deep/path/probe")
    dialog.get_by_role("button", name="Add it").click()
    operator.expect_said("house/portraits is served by the pool studio.")
    model = operator.row("Models", "house/portraits")
    expect(model).to_contain_text("added here")
    model.get_by_role("button", name="Remove").click()
    dialog.get_by_role("button", name="Remove it").click()
    operator.expect_said("house/portraits is removed.")
    expect(model).to_have_count(0)


def test_a_model_that_a_colleague_has_just_added_is_not_replaced(operator: Operator) -> None:
    operator.open("Models")
    page, dialog = operator.page, operator.dialog
    page.get_by_role("button", name="Add a model").click()
    path = f"{operator.darkroom.url}/v1/models/entries/house/portraits"
    own = {"authorization": f"Key {operator.darkroom.key}"}
    theirs = OPEN | {"display_name": "Theirs"}
    assert page.request.put(path, headers=own, data=theirs).status == 200
    dialog.get_by_label("Id", exact=True).fill("house/portraits")
    dialog.get_by_label("Weights", exact=True).fill("/srv/weights/others")
    dialog.get_by_label("Like").select_option("test/deep/path/probe")
    dialog.get_by_role("button", name="Add it").click()
    expect(dialog.get_by_role("alert")).to_contain_text("There is a model house/portraits already")
    assert page.request.get(path, headers=own).json()["entry"] == theirs


def test_models_show_what_is_being_loaded_and_weights_are_downloaded(operator: Operator) -> None:
    operator.open("Models")
    expect(operator.row("Models", FLUX)).to_contain_text("loading, 25 %")
    expect(operator.row("Models", FLUX).get_by_role("button", name="Download")).to_have_count(0)
    own = {"authorization": f"Key {operator.darkroom.key}"}
    entry = f"{operator.darkroom.url}/v1/models/entries/house/portraits"
    assert operator.page.request.put(entry, headers=own, data=OPEN).ok
    portraits = operator.row("Models", "house/portraits")
    portraits.get_by_role("button", name="Download").click()
    operator.dialog.get_by_role("button", name="Download").click()
    operator.expect_said("The weights of house/portraits are kept on disk.")
    operator.open("Pools")
    expect(operator.row("Warm targets", "house/portraits")).to_contain_text("disk")


def test_a_webhook_is_listed_with_its_tries_and_sent_again(operator: Operator) -> None:
    url = operator.darkroom.url
    own = {"authorization": f"Key {operator.darkroom.key}"}
    sent = operator.page.request.post(
        f"{url}/run/test/probe?fal_webhook=https://example.com/hook", headers=own, data={}
    )
    assert sent.ok, sent.text()
    operator.open("Webhooks")
    delivery = operator.row("Deliveries", "https://example.com/hook")
    expect(delivery).to_contain_text("Pending")
    delivery.get_by_role("button", name="Log").click()
    expect(operator.dialog).to_contain_text("It was not tried yet.")
    operator.page.keyboard.press("Escape")
    delivery.get_by_role("button", name="Send again").click()
    operator.dialog.get_by_role("button", name="Send it again").click()
    operator.expect_said("The webhook is sent again.")
    operator.page.get_by_label("State").select_option("Given up")
    expect(operator.page.get_by_text("No webhook was sent.")).to_be_visible()


def test_a_test_to_a_forbidden_address_says_why(operator: Operator) -> None:
    operator.open("Webhooks")
    operator.page.get_by_role("button", name="Send a test").click()
    operator.dialog.get_by_label("URL").fill("http://127.0.0.1:9/hook")
    operator.dialog.get_by_role("button", name="Send it").click()
    expect(operator.dialog.get_by_role("alert")).to_contain_text(re.compile("^url names the host"))


def test_the_signing_key_is_rotated_after_a_question(operator: Operator) -> None:
    operator.open("Webhooks")
    operator.page.get_by_role("button", name="Rotate the signing key").click()
    operator.dialog.get_by_role("button", name="Rotate it").click()
    operator.expect_said("A new signing key is announced. There are 2 keys now.")


def test_the_storage_is_shown_by_kind_and_tenant(operator: Operator) -> None:
    film = Entry("a film", timedelta(minutes=1), content=bytes(2_000_000), extension="webm")
    operator.darkroom.hang([film])
    operator.open("Storage")
    videos = operator.row("By kind", "Videos")
    for words in ("1", "2.0 MB", "100 %"):
        expect(videos).to_contain_text(words)
    expect(operator.row("By tenant", "default")).to_contain_text("Videos 2.0 MB")
    expect(operator.row("Places", "own")).to_contain_text("artifacts")
    tenants = operator.row("Places", "own").get_by_role("cell").last
    expect(tenants).to_have_text("all others")
    expect(operator.page.get_by_text("Their files: for ever")).to_be_visible()

    def only_its_own(route: Route) -> None:
        response = route.fetch()
        use = response.json()
        use["locations"] = [each for each in use["locations"] if not each["id"]]
        route.fulfill(response=response, json=use)

    operator.page.route("**/v1/storage", only_its_own)
    operator.open("Audit")
    operator.open("Storage")
    expect(tenants).to_have_text("all")


def test_a_part_that_is_opened_in_a_background_tab_is_filled_when_it_is_seen(
    operator: Operator,
) -> None:
    page = operator.page
    urls: list[str] = []

    def note(request: Request) -> None:
        if request.url.endswith("/v1/storage"):
            urls.append(request.url)

    page.on("request", note)
    page.evaluate(HIDE, True)
    operator.open("Storage")
    expect(page.locator(".part [aria-busy]")).to_have_count(1)
    said = "part => getComputedStyle(part, '::before').content"
    assert page.locator(".part").evaluate(said) == '"Loading …"'
    assert urls == []
    page.evaluate(HIDE, False)
    expect(operator.row("Places", "own")).to_contain_text("artifacts")
    page.evaluate(HIDE, True)
    page.evaluate(HIDE, False)  # it is not asked for again each time
    operator.open("Audit")
    expect(page.locator(".part [aria-busy]")).to_have_count(0)
    assert len(urls) == 1


def test_the_health_says_what_fails(operator: Operator) -> None:
    operator.open("Health")
    expect(operator.row("Checks", "storage")).to_contain_text("ok")
    expect(operator.page.get_by_text("Healthy")).to_be_visible()
    services = operator.darkroom.house.services

    async def full() -> None:
        raise StorageFull("The disk of the artifacts is full.")

    async def unplaceable(_hosted: object) -> dict[str, str]:
        return {"studio": "Pool studio: a replica needs 1 GPU, but none is free."}

    readiness = Readiness({"storage": full}, services.clock)
    services.health = Health(readiness, placement_problems=unplaceable)
    operator.page.get_by_role("button", name="Check again").click()
    expect(operator.row("Checks", "storage")).to_contain_text("The disk of the artifacts is full.")
    expect(operator.row("Checks", "pool studio")).to_contain_text("needs 1 GPU")
    expect(operator.page.get_by_text("2 problems")).to_be_visible()


def test_the_health_shows_what_started_and_ended_and_why(operator: Operator) -> None:
    ended = {
        "at": "2026-11-23T09:59:58+00:00",
        "kind": "replica",
        "name": "r-0",
        "pool": "studio",
        "node": "10.0.0.7",
        "version": "",
        "event": "ended",
        "reason": "its node failed",
    }
    started = ended | {"kind": "ingress", "name": "i-1", "pool": "", "event": "started"}
    started |= {"version": "0.1.0", "reason": "the first one here"}

    async def events() -> list[dict[str, str]]:
        return [ended, started]

    services = operator.darkroom.house.services
    services.health = replace(services.health, events=events)
    operator.open("Health")
    expect(operator.row("Starts and ends", "r-0")).to_contain_text("its node failed")
    row = operator.row("Starts and ends", "i-1")
    expect(row).to_contain_text("version 0.1.0 · the first one here")


def test_the_health_shows_what_the_doctor_finds_on_the_server(
    operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    operator.open("Health")
    expect(operator.row("Doctor", "packages")).to_contain_text("torch")
    expect(operator.row("Doctor", "retention")).to_contain_text("the audit log 365 days")
    doctor = operator.page.get_by_role("region", name="Doctor")
    expect(doctor.locator("code", has_text="darkroom models --all")).to_be_visible()
    expect(doctor).not_to_contain_text("`")
    expect(operator.page.get_by_text("Healthy")).to_be_visible()
    assert axe(operator.page) == []
    monkeypatch.setattr(checks, "MIN_MEMORY_BYTES", 2**60)
    operator.page.get_by_role("button", name="Check again").click()
    expect(operator.row("Doctor", "memory")).to_contain_text("Use a machine with more memory.")
    expect(operator.page.get_by_text("1 problem", exact=True)).to_be_visible()
