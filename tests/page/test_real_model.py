"""Offer of a real model that runs without a GPU, where demo models are served."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
from playwright.sync_api import BrowserContext, Locator, Page, expect

from serve_app.catalog.catalog import load
from serve_app.domain.progress import Loading, Stage, to_plain
from serve_app.settings import PoolConfig
from tests.ingress.house import DEMO
from tests.page.axe import look
from tests.page.darkroom import PageDarkroom, page_darkroom
from tests.page.operator import POOL, REPLICA, give_pool
from tests.page.reader import FLUX, Reader

SDXS = "darkroom/sdxs"
BESIDE = load(None, demo=True, demo_dir=DEMO, families=("flux", "generic"))
POOLS = {POOL: PoolConfig(families=("flux", "generic"), num_gpus=0)}
FACTS = "SDXS-512 DreamShaper (CreativeML Open RAIL++-M, 1.8 GB, about 10 s a result)"


@pytest.fixture
def served() -> Iterator[PageDarkroom]:
    with page_darkroom(catalog=BESIDE, painting=False, pools=POOLS) as darkroom:
        yield darkroom


@pytest.fixture
def replicas(served: PageDarkroom) -> list[Mapping[str, Any]]:
    pools = served.house.services.pools
    found = give_pool(served)
    served.house.services.pools = pools  # the family of the real model too
    found[:] = [replica()]
    return found


def replica(on_disk: tuple[str, ...] = (), done: int | None = None) -> Mapping[str, Any]:
    loading = [] if done is None else [Loading((SDXS,), Stage.DOWNLOADING, done, 100)]
    return {**REPLICA, "hot": [], "on_disk": [*on_disk], "loading": to_plain(loading)}


def offer_in(page: Page, place: str) -> Locator:
    return page.locator(f"{place} .real-model")


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
    replicas: list[Mapping[str, Any]], page: Page, served: PageDarkroom
) -> None:
    page.clock.install()
    Reader(page, served).enter()
    page.goto(f"{served.url}/#view=models")
    offer = offer_in(page, "#views")
    with page.expect_request("**/v1/warm") as asked:
        offer.get_by_role("button", name="Download now").click()
    assert asked.value.post_data_json == {"endpoint_id": SDXS, "level": "disk"}
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


def test_a_key_that_may_not_download_is_told_that_the_first_request_does(
    replicas: list[Mapping[str, Any]], page: Page, served: PageDarkroom
) -> None:
    own = {"authorization": f"Key {served.key}"}
    guest = {"tenant": "guest", "scopes": ["api"]}
    made = page.request.post(f"{served.url}/v1/keys", headers=own, data=guest).json()
    reader = Reader(page, served)
    page.goto(f"{served.url}/#model={FLUX}")
    reader.give_key(made["key"])
    offer = offer_in(page, "#form")
    expect(offer).to_contain_text("Its first request downloads it.")
    expect(offer.get_by_role("button")).to_be_hidden()


def test_without_a_real_model_nothing_is_offered(page: Page) -> None:
    catalog = load(None, demo=True, demo_dir=DEMO, families=("flux",))
    with page_darkroom(catalog=catalog, painting=False) as darkroom:
        Reader(page, darkroom).enter()
        expect(page.locator("#model-demo")).to_be_visible()
        expect(offer_in(page, "#form")).to_be_hidden()


def test_the_offer_can_be_read_and_fits_on_a_phone(
    open_context: Callable[..., BrowserContext],
    served: PageDarkroom,
    replicas: list[Mapping[str, Any]],
) -> None:
    replicas[:] = [replica(done=25)]
    page = open_context(viewport={"width": 375, "height": 800}).new_page()
    Reader(page, served).enter()
    for place in ("#form", "#views"):
        if place == "#views":
            page.goto(f"{served.url}/#view=models")
        expect(offer_in(page, place).get_by_role("progressbar")).to_be_visible()
        look(page)
