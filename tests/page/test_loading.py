"""Round trips and bytes until the page can be used: what a slow connection waits for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from playwright.sync_api import BrowserContext, CDPSession, Page, Route, expect

from tests.page.darkroom import PageDarkroom
from tests.page.reader import Reader

LATENCY_S = 0.8
BYTES_PER_S = 40_000
WITHIN_S = 3.0


class Traffic:
    """What the network brought, as the browser counts it."""

    def __init__(self, session: CDPSession) -> None:
        self.bytes = 0
        self.urls: list[str] = []
        self.initiators: dict[str, str] = {}
        session.send("Network.enable")
        session.on("Network.requestWillBeSent", self._sent)
        session.on("Network.loadingFinished", self._finished)

    def _sent(self, event: dict[str, Any]) -> None:
        self.urls.append(event["request"]["url"])
        self.initiators[event["request"]["url"]] = event["initiator"].get("url", "")

    def _finished(self, event: dict[str, Any]) -> None:
        self.bytes += event["encodedDataLength"]

    def depth(self, url: str) -> int:
        """Round trips until ``url`` is there: it, what asked for it, and so on."""
        above = self.initiators.get(url)
        return 1 + (self.depth(above) if above and above != url else 0)


def test_the_page_can_be_used_after_two_round_trips_and_few_bytes(
    context: BrowserContext, served: PageDarkroom
) -> None:
    page = context.new_page()
    traffic = Traffic(context.new_cdp_session(page))
    page.goto(served.url)
    expect(page.get_by_label("API key", exact=True)).to_be_focused()
    page.wait_for_load_state("networkidle")
    assert max(traffic.depth(url) for url in traffic.urls) == 2
    # A browser opens six connections to a server: so many files come in one round trip.
    assert len(traffic.urls) <= 1 + 6
    assert 2 * LATENCY_S + traffic.bytes / BYTES_PER_S <= WITHIN_S


def hold(page: Page, pattern: str) -> Callable[[], None]:
    """Let calls to ``pattern`` wait until the returned function is called."""
    held: list[Route] = []

    def keep(route: Route) -> None:  # Playwright takes no built-in method
        held.append(route)

    page.route(pattern, keep)

    def release() -> None:
        for each in held:
            each.continue_()
        page.unroute(pattern)

    return release


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


def test_a_prompt_that_is_typed_before_the_script_is_there_is_kept(reader: Reader) -> None:
    reader.page.evaluate("sessionStorage.clear(); localStorage.removeItem('darkroom.draft')")
    release = hold(reader.page, "**/bundle.js")
    reader.page.reload(wait_until="commit")
    early = reader.page.locator("#early-prompt")
    early.fill("a hill that could not wait")
    release()
    expect(reader.field("prompt")).to_have_value("a hill that could not wait")
    expect(reader.field("prompt")).to_be_focused()


def test_the_kept_prompt_is_not_lost_when_the_field_is_entered_early(reader: Reader) -> None:
    reader.field("prompt").fill("a hill of the last visit")
    release = hold(reader.page, "**/bundle.js")
    reader.page.reload(wait_until="commit")
    reader.page.locator("#early-prompt").focus()
    release()
    expect(reader.field("prompt")).to_have_value("a hill of the last visit")
    expect(reader.field("prompt")).to_be_focused()


def test_the_page_works_over_a_slow_connection(
    context: BrowserContext, served: PageDarkroom
) -> None:
    page = context.new_page()
    session = context.new_cdp_session(page)
    conditions = {"latency": 300, "downloadThroughput": BYTES_PER_S, "uploadThroughput": -1}
    session.send("Network.enable")
    session.send("Network.emulateNetworkConditions", {"offline": False, **conditions})
    reader = Reader(page, served)
    reader.enter()
    expect(reader.field("prompt")).to_be_visible()
