"""Offer of a real model that runs without a GPU, where demo models are served."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
from playwright.sync_api import BrowserContext, Locator, Page, expect

from serve_app.catalog.catalog import load
from serve_app.domain.preflight import Download, HubState, MachineFacts
from serve_app.domain.progress import Loading, Stage, to_plain
from serve_app.ingress.services.preflights import Preflights
from serve_app.settings import PoolConfig
from tests.ingress.house import DEMO
from tests.page.axe import look
from tests.page.darkroom import PageDarkroom, page_darkroom
from tests.page.operator import POOL, REPLICA, give_pool
from tests.page.reader import FLUX, Reader

SDXS = "darkroom/sdxs"
BESIDE = load(None, demo=True, demo_dir=DEMO, families=("flux", "generic"))
POOLS = {POOL: PoolConfig(families=("flux", "generic"), num_gpus=0)}
FACTS = "SDXS-512 DreamShaper (CreativeML Open RAIL++-M; about 1.8 GB; about 10 s for each image)"


@pytest.fixture
def installation() -> Iterator[PageDarkroom]:
    with page_darkroom(catalog=BESIDE, painting=False, pools=POOLS) as darkroom:
        yield darkroom


@pytest.fixture
def replicas(installation: PageDarkroom) -> list[Mapping[str, Any]]:
    pools = installation.house.services.pools
    roster = give_pool(installation)
    installation.house.services.pools = pools  # the family of the real model too
    roster[:] = [replica()]
    return roster


def replica(on_disk: tuple[str, ...] = (), done: int | None = None) -> Mapping[str, Any]:
    loading = [] if done is None else [Loading((SDXS,), Stage.DOWNLOADING, done, 100)]
    return {**REPLICA, "hot": [], "on_disk": [*on_disk], "loading": to_plain(loading)}


def offer_in(page: Page, place: str) -> Locator:
    return page.locator(f"{place} .real-model")


@pytest.mark.long
def test_the_form_of_a_demo_model_offers_a_real_one_and_leads_to_it(
    replicas: list[Mapping[str, Any]], reader: Reader
) -> None:
    offer = offer_in(reader.page, "#form")
    expect(offer).to_contain_text(f"A real model runs here without a GPU: {FACTS}.")
    offer.get_by_role("link", name="Try it").click()
    expect(reader.page.get_by_label("Model", exact=True)).to_have_value(SDXS)
    expect(offer).to_be_hidden()
    expect(reader.page.locator("#model-demo")).to_be_hidden()
    reader.choose(FLUX)
    expect(offer).to_be_visible()


def test_its_download_is_one_click_and_shows_how_far_it_is(
    replicas: list[Mapping[str, Any]], page: Page, installation: PageDarkroom
) -> None:
    page.clock.install()
    Reader(page, installation).enter()
    page.goto(f"{installation.url}/#view=models")
    offer = offer_in(page, "#views")
    with page.expect_request("**/v1/warm") as warm_call:
        offer.get_by_role("button", name="Download now").click()
    assert warm_call.value.post_data_json == {"endpoint_id": SDXS, "level": "disk"}
    expect(offer.get_by_role("link", name="Try it")).to_be_focused()
    replicas[:] = [replica(done=25)]
    page.clock.run_for(6000)
    expect(offer.get_by_role("progressbar")).to_have_js_property("value", 0.25)
    expect(offer).to_contain_text("downloading")
    replicas[:] = [replica(on_disk=(SDXS,))]
    page.clock.run_for(6000)
    expect(offer).to_contain_text("Its weights are here.")
    expect(offer.get_by_role("progressbar")).to_be_hidden()
    expect(offer.get_by_role("button")).to_be_hidden()


@pytest.mark.long
def test_a_key_that_may_not_download_is_told_that_the_first_request_does(
    replicas: list[Mapping[str, Any]], page: Page, installation: PageDarkroom
) -> None:
    own = {"authorization": f"Key {installation.key}"}
    guest = {"tenant": "guest", "scopes": ["api"]}
    guest_key = page.request.post(f"{installation.url}/v1/keys", headers=own, data=guest).json()
    reader = Reader(page, installation)
    page.goto(f"{installation.url}/#model={FLUX}")
    reader.give_key(guest_key["key"])
    offer = offer_in(page, "#form")
    expect(offer).to_contain_text("Its first request downloads it, unless its weights are here.")
    expect(offer.get_by_role("button")).to_be_hidden()


@pytest.mark.long
def test_without_a_real_model_nothing_is_offered(page: Page) -> None:
    catalog = load(None, demo=True, demo_dir=DEMO, families=("flux",))
    with page_darkroom(catalog=catalog, painting=False) as darkroom:
        Reader(page, darkroom).enter()
        expect(page.locator("#model-demo")).to_be_visible()
        expect(offer_in(page, "#form")).to_be_hidden()


@pytest.mark.long
def test_the_offer_can_be_read_and_fits_on_a_phone(
    open_context: Callable[..., BrowserContext],
    installation: PageDarkroom,
    replicas: list[Mapping[str, Any]],
) -> None:
    replicas[:] = [replica(done=25)]
    page = open_context(viewport={"width": 375, "height": 800}).new_page()
    Reader(page, installation).enter()
    for place in ("#form", "#views"):
        if place == "#views":
            page.goto(f"{installation.url}/#view=models")
        expect(offer_in(page, place).get_by_role("progressbar")).to_be_visible()
        look(page)


def hub_says(darkroom: PageDarkroom, download: Download) -> None:
    services = darkroom.house.services
    services.preflights = Preflights(
        lambda wanted: {endpoint.id: download for endpoint in wanted},
        lambda: MachineFacts(0, 16 * 10**9, 100 * 10**9),
        lambda: 1,
        services.clock,
    )


SIZE = 1_800_000_000


def test_words_that_the_demo_does_not_know_lead_to_the_same_prompt_on_a_real_model(
    installation: PageDarkroom, page: Page
) -> None:
    hub_says(installation, Download(SIZE, SIZE, HubState.GIVES))
    installation.start_painting()
    reader = Reader(page, installation)
    reader.enter(FLUX)
    card = reader.generate("a cat on a red sofa")
    notice = card.locator(".unknown")
    expect(notice).to_contain_text("The demo model does not know: cat, sofa.")
    expect(notice).to_contain_text("1.8 GB to download; about 10 s for each image")
    look(page)
    with page.expect_request(f"**/queue/{SDXS}") as submission:
        notice.get_by_role("button", name="Draw it with SDXS-512 DreamShaper").click()
    assert submission.value.post_data_json == {"prompt": "a cat on a red sofa"}
    drawn = page.locator(".sheet").first
    expect(drawn).to_contain_text("SDXS-512 DreamShaper")
    expect(drawn.locator("img")).to_be_visible()
    expect(drawn.locator(".unknown")).to_have_count(0)
    page.reload()
    expect(page.locator(".sheet").last.locator(".unknown")).to_contain_text("cat, sofa")


@pytest.mark.long
def test_known_words_need_no_other_model(installation: PageDarkroom, page: Page) -> None:
    installation.start_painting()
    reader = Reader(page, installation)
    reader.enter(FLUX)
    card = reader.generate("a red star")
    expect(card.locator("img")).to_be_visible()
    expect(card.locator(".unknown")).to_have_count(0)


@pytest.mark.long
def test_what_cannot_be_had_is_said_in_place_of_a_button(
    installation: PageDarkroom, page: Page
) -> None:
    words = "the hub cannot be reached from here"
    problem = "The hub cannot be reached: a long reason."
    hub_says(installation, Download(None, None, HubState.UNREACHABLE, "unknown", None, problem))
    installation.start_painting()
    reader = Reader(page, installation)
    reader.enter(FLUX)
    notice = reader.generate("a cat").locator(".unknown")
    expect(notice).to_contain_text(f"It is not available now: {words}")
    expect(notice.get_by_role("button")).to_have_count(0)
    expect(offer_in(page, "#form")).to_contain_text(words)
    expect(offer_in(page, "#form").get_by_text("Try it")).to_be_hidden()
    page.goto(f"{installation.url}/#view=models&id={SDXS}")
    expect(page.get_by_role("region", name="What the real model needs")).to_contain_text(words)
