"""What the page says about a request is true within a second of the page's own time.

The page's timers stand still, and run for a second after it was told of each event. What it says
then comes from the event, or from a look that it takes within that second.
"""

from __future__ import annotations

import re
from typing import Any

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.page.darkroom import PageDarkroom
from tests.page.operator import Operator
from tests.page.reader import FLUX, Reader

HEARD = """
const own = window.fetch;
window.heard = "";
window.fetch = async (...given) => {
  const answer = await own(...given);
  if (!String(given[0]).includes("/v1/events")) return answer;
  const [shown, kept] = answer.body.tee();
  kept.pipeThrough(new TextDecoderStream()).pipeTo(
    new WritableStream({ write: (text) => { window.heard += text; } }),
  ).catch(() => {});
  return new Response(shown, { status: answer.status, headers: answer.headers });
};
"""
WAITS = r"Next in line|Requests before this one|no replica yet|Waiting"
RUNS = r"Running|Denoising|Loading the weights|Starting"
OVER = r"Done|Cancelled|Failed"

PLACES = {
    "the list": ("", "#requests"),
    "the gallery": ("view=gallery", ".view.gallery .results"),
    "its details": ("view=gallery&request=", "#details-body .state"),
}
"""Where a request is shown: the address, and the element with its state."""


class Clock:
    """The page's time, and what the server has told it."""

    def __init__(self, page: Page) -> None:
        self.page = page
        page.add_init_script(HEARD)
        page.clock.install()

    def stop(self) -> None:
        self.page.clock.pause_at(self.page.evaluate("Date.now() / 1000") + 2)

    def a_second_after(self, id_: str, state: str) -> None:
        """Let a second pass once the page has heard that the request is in this state."""
        told = f'"request_id":"{id_}","endpoint_id":"{FLUX}","state":"{state}"'
        for _ in range(600):
            if told in self.page.evaluate("heard"):
                break
            self.page.wait_for_timeout(50)
        else:
            raise AssertionError(f"never heard: {told}")
        for _ in range(10):
            self.page.clock.run_for(100)
            self.page.wait_for_timeout(100)  # for what it has asked to be answered


def submit(page: Page, darkroom: PageDarkroom, prompt: str) -> str:
    """Submit a request as another program does."""
    body: dict[str, Any] = {"prompt": prompt, "num_inference_steps": 4}
    headers = {"Authorization": f"Key {darkroom.key}"}
    answer = page.request.post(f"{darkroom.url}/queue/{FLUX}", headers=headers, data=body)
    return str(answer.json()["request_id"])


def expect_only(shown: Locator, pattern: str, *others: str) -> None:
    expect(shown).to_contain_text(re.compile(pattern), use_inner_text=True)
    for text in others:
        expect(shown).not_to_contain_text(re.compile(text), use_inner_text=True)


@pytest.mark.variants(2)
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("end", ["succeeded", "failed", "cancelled"])
def test_a_request_of_another_program_is_shown_as_it_is(
    page: Page, idle: PageDarkroom, place: str, end: str
) -> None:
    clock = Clock(page)
    Reader(page, idle).enter()
    id_ = submit(page, idle, "a held hill that will fail" if end == "failed" else "a held hill")
    address, selector = PLACES[place]
    page.goto(f"{idle.url}/#{address}{id_ if address.endswith('=') else ''}")
    shown = page.locator(selector)
    clock.stop()
    clock.a_second_after(id_, "queued")
    expect_only(shown, WAITS, RUNS, OVER)
    idle.start_painting()
    clock.a_second_after(id_, "running")
    expect_only(shown, RUNS, WAITS, OVER)
    if end == "cancelled":
        headers = {"Authorization": f"Key {idle.key}"}
        page.request.put(f"{idle.url}/v1/requests/{id_}/cancel", headers=headers)
    idle.release()
    clock.a_second_after(id_, end)
    words = {"succeeded": "Done", "failed": "Failed", "cancelled": "Cancelled"}
    if place == "the gallery":  # it shows results
        words |= {"succeeded": "1 request", "cancelled": "Your results appear here"}
    expect_only(shown, words[end], RUNS, WAITS)


def test_the_card_and_the_line_of_the_form_follow_their_request(
    page: Page, idle: PageDarkroom
) -> None:
    clock = Clock(page)
    reader = Reader(page, idle)
    reader.enter()
    card = reader.generate("a held hill")
    clock.stop()
    id_ = str(card.get_attribute("data-request"))
    line = page.locator("#estimate")
    clock.a_second_after(id_, "queued")
    expect_only(card, WAITS, RUNS)
    expect(line).to_contain_text("Requests before this one: 1.")
    idle.start_painting()
    clock.a_second_after(id_, "running")
    expect_only(card, RUNS, WAITS)
    expect(line).not_to_contain_text("Requests before this one")
    idle.release()
    clock.a_second_after(id_, "succeeded")
    expect(card.locator("img")).to_have_count(1)
    expect_only(card, "Download", RUNS, WAITS)


def test_the_operator_s_queue_follows_the_requests(page: Page, idle: PageDarkroom) -> None:
    clock = Clock(page)
    operator = Operator(page, idle)
    operator.open("Queue")
    clock.stop()
    id_ = submit(page, idle, "a held hill")
    clock.a_second_after(id_, "queued")
    expect(operator.table("Lanes").get_by_role("row")).to_have_count(2)
    idle.start_painting()
    idle.release()
    clock.a_second_after(id_, "succeeded")
    expect(operator.table("Lanes")).to_be_hidden()


@pytest.mark.long
def test_the_page_goes_on_following_when_the_form_for_the_key_is_left(
    page: Page, idle: PageDarkroom
) -> None:
    reader = Reader(page, idle)
    reader.enter()
    page.get_by_role("button", name="API key").click()
    page.get_by_role("button", name="Back").click()
    submit(page, idle, "a hill")
    expect(reader.request_rows).to_have_count(1)
    expect(reader.request_rows).to_contain_text("Waiting")
