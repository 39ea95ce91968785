"""Round trips and bytes until the page can be used: what a slow connection waits for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import BrowserContext, CDPSession, Page, Route, expect

from tests.page.darkroom import PageDarkroom
from tests.page.reader import Reader

LATENCY_S = 0.8
BYTES_PER_S = 40_000
WITHIN_S = 3.05

BLOCKING = """() => performance.getEntriesByType("resource")
  .filter(({ renderBlockingStatus: blocks }) => blocks === "blocking").map(({ name }) => name)"""


class Traffic:
    """What the network brought, as the browser counts it."""

    def __init__(self, session: CDPSession) -> None:
        self.urls: list[str] = []
        self.initiators: dict[str, str] = {}
        self._paths: dict[str, str] = {}  # by the id of the request
        self._bytes: Counter[str] = Counter()
        session.send("Network.enable")
        session.on("Network.requestWillBeSent", self._sent)
        session.on("Network.loadingFinished", self._finished)

    def _sent(self, event: dict[str, Any]) -> None:
        self.urls.append(event["request"]["url"])
        self._paths[event["requestId"]] = urlsplit(event["request"]["url"]).path
        self.initiators[event["request"]["url"]] = event["initiator"].get("url", "")

    def _finished(self, event: dict[str, Any]) -> None:
        self._bytes[self._paths.get(event["requestId"], "")] += event["encodedDataLength"]

    def bytes_of(self, path: str) -> int:
        """Bytes of the answer, with its headers."""
        return self._bytes[path]

    def depth(self, url: str) -> int:
        """Round trips until ``url`` is there: it, what asked for it, and so on."""
        above = self.initiators.get(url)
        return 1 + (self.depth(above) if above and above != url else 0)


@pytest.mark.parametrize("known", [False, True], ids=["new", "with a key"])
def test_the_page_is_drawn_after_one_round_trip_and_can_be_used_after_two(
    context: BrowserContext, installation: PageDarkroom, known: bool
) -> None:
    page = context.new_page()
    session = context.new_cdp_session(page)
    if known:
        Reader(page, installation).enter()
        session.send("Network.setCacheDisabled", {"cacheDisabled": True})
    traffic = Traffic(session)
    page.goto(installation.url)
    expect(page.locator("#generate" if known else "#key")).to_be_visible()
    # A page with a key never becomes idle: it follows the changes of its requests.
    if known:  # the list of requests has come, which the empty stage hides
        expect(page.locator("#no-requests")).to_have_js_property("hidden", False)
    page.wait_for_timeout(1000)  # for what it loads beside
    assert page.evaluate(BLOCKING) == []
    drawn_s = LATENCY_S + traffic.bytes_of("/") / BYTES_PER_S
    assert drawn_s <= 1.2  # the key or the prompt can be typed
    files = [url for url in traffic.urls if "/v1/" not in url]
    assert max(traffic.depth(url) for url in files) == 2
    # A browser opens six connections to a server: so many files come in one round trip.
    assert len(files) <= 1 + 6
    whole = sum(traffic.bytes_of(urlsplit(url).path) for url in files)
    assert 2 * LATENCY_S + whole / BYTES_PER_S <= WITHIN_S


def hold(page: Page, pattern: str) -> Callable[[], None]:
    """Let calls to ``pattern`` wait until the returned function is called."""
    routes: list[Route] = []
    released = False

    def keep(route: Route) -> None:
        if released:  # a call that began before the pattern was gone
            route.continue_()
        else:
            routes.append(route)

    page.route(pattern, keep)

    def release() -> None:
        nonlocal released
        released = True
        for route in routes:
            route.continue_()
        page.unroute(pattern)

    return release


@pytest.mark.long
def test_the_form_of_the_last_model_does_not_wait_for_the_server(reader: Reader) -> None:
    release = hold(reader.page, "**/v1/**")
    reader.page.reload()
    expect(reader.field("image_size")).to_be_visible()
    reader.field("prompt").fill("a hill")
    reader.field("prompt").focus()
    release()
    expect(reader.page.get_by_text("1 model is not served here")).to_be_visible()
    expect(reader.field("prompt")).to_have_value("a hill")
    expect(reader.field("prompt")).to_be_focused()


@pytest.mark.long
def test_a_prompt_that_is_typed_before_the_script_is_there_is_kept(reader: Reader) -> None:
    reader.page.evaluate("sessionStorage.clear(); localStorage.removeItem('darkroom.draft')")
    release = hold(reader.page, "**/page/**")  # only the page itself is there
    reader.page.reload(wait_until="commit")
    early = reader.page.locator("#early-prompt")
    early.fill("a hill that could not wait")
    release()
    expect(reader.field("prompt")).to_have_value("a hill that could not wait")
    expect(reader.field("prompt")).to_be_focused()


@pytest.mark.long
def test_a_key_that_is_typed_before_the_script_is_there_is_kept(
    page: Page, installation: PageDarkroom
) -> None:
    release = hold(page, "**/page/**")
    page.goto(installation.url, wait_until="commit")
    page.get_by_label("API key", exact=True).fill(installation.key)
    with page.expect_response("**/v1/sign-in"):  # the script runs
        release()
    page.get_by_role("button", name="Open").click()
    expect(page.get_by_role("button", name="Generate")).to_be_visible()


@pytest.mark.long
def test_the_kept_prompt_is_not_lost_when_the_field_is_entered_early(reader: Reader) -> None:
    reader.field("prompt").fill("a hill of the last visit")
    release = hold(reader.page, "**/bundle.js")
    reader.page.reload(wait_until="commit")
    reader.page.locator("#early-prompt").focus()
    release()
    expect(reader.field("prompt")).to_have_value("a hill of the last visit")
    expect(reader.field("prompt")).to_be_focused()


def test_the_page_works_over_a_slow_connection(
    context: BrowserContext, installation: PageDarkroom
) -> None:
    page = context.new_page()
    session = context.new_cdp_session(page)
    conditions = {
        "latency": LATENCY_S * 1000,
        "downloadThroughput": BYTES_PER_S,
        "uploadThroughput": BYTES_PER_S,
    }
    session.send("Network.enable")
    session.send("Network.emulateNetworkConditions", {"offline": False, **conditions})
    reader = Reader(page, installation)
    reader.enter()
    expect(reader.field("prompt")).to_be_visible()
