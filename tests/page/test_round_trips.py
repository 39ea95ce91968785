"""Requests that the page sends from the click on Generate until the image is shown.

Its streams carry all else: the state of the request, its previews, its result, its row in the list,
and what the next one would take.
"""

from __future__ import annotations

import re
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Page, Request, expect

from tests.page.darkroom import PageDarkroom
from tests.page.reader import FLUX, Reader, expect_images

SENT = [
    rf"POST /queue/{FLUX}",
    rf"GET /queue/{FLUX}/requests/ID/status/stream",
    r"GET /files/r/ID/1/\S+",
]
ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class Sent:
    """Requests of the page, each as its method and path."""

    def __init__(self, page: Page) -> None:
        self.requests: list[str] = []
        page.on("request", self._note)

    def _note(self, request: Request) -> None:
        path = ID.sub("ID", urlsplit(request.url).path)
        self.requests.append(f"{request.method} {path}")

    def forget(self) -> None:
        self.requests.clear()

    def expect(self, *patterns: str) -> None:
        assert len(self.requests) == len(patterns), self.requests
        for request, pattern in zip(self.requests, patterns, strict=True):
            assert re.fullmatch(pattern, request), self.requests


@pytest.mark.parametrize("prompt", ["a hill", "a zeppelin at noon"], ids=["known", "unknown words"])
def test_an_image_takes_three_requests(page: Page, installation: PageDarkroom, prompt: str) -> None:
    reader = Reader(page, installation)
    sent = Sent(page)
    reader.enter()
    reader.field("prompt").fill(prompt)
    page.wait_for_timeout(1500)  # for the estimate
    rows = reader.request_rows
    for count in (1, 2):
        sent.forget()
        expect_images(reader.generate(prompt), 1)
        expect(rows).to_have_count(count)
        expect(rows.first).to_contain_text("Done")
        expect(rows.first.locator("img")).to_be_visible()
        page.wait_for_timeout(1500)  # for what would be asked late
        sent.expect(*SENT)


def test_previews_come_with_the_stream(reader: Reader) -> None:
    reader.field("prompt").fill("a slow hill")
    reader.unfold()
    reader.field("num_inference_steps").fill("4")
    reader.page.wait_for_timeout(1500)
    sent = Sent(reader.page)
    card = reader.generate("a slow hill", num_inference_steps=4)
    expect(card.locator(".developing img")).to_have_count(1)
    expect_images(card, 1)
    sent.expect(*SENT)


def test_a_request_of_another_program_is_listed_without_a_call(waiting: Reader) -> None:
    reader, page = waiting, waiting.page
    expect(page.locator("#no-requests")).to_have_js_property("hidden", False)
    page.wait_for_timeout(1500)
    sent = Sent(page)
    headers = {"Authorization": f"Key {reader.darkroom.key}"}
    url = f"{reader.darkroom.url}/queue/{FLUX}"
    ids = [
        page.request.post(url, headers=headers, data={"prompt": prompt}).json()["request_id"]
        for prompt in ("a hill", "a lake")
    ]
    expect(reader.request_rows).to_have_count(2)
    expect(reader.request_rows.first).to_contain_text("a lake")
    cancel = f"{reader.darkroom.url}/v1/requests/{ids[0]}"
    page.request.put(f"{cancel}/cancel", headers=headers)
    expect(reader.request_rows.last).to_contain_text("Cancelled")
    page.request.delete(cancel, headers=headers)
    expect(reader.request_rows).to_have_count(1)
    sent.expect()
