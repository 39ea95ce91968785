"""What a request will take, before it is submitted."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Page, Request, expect

from tests.page.darkroom import PageDarkroom, page_darkroom
from tests.page.reader import FLUX, PROBE, Reader, expect_images


def estimate_of(text: str, request: Request) -> bool:
    """True for the call about an input with ``text``: an earlier one may still be on its way."""
    return request.url.endswith("/v1/estimate") and text in (request.post_data or "")


def test_the_form_says_what_a_request_takes_once_one_has_run(reader: Reader) -> None:
    line = reader.page.locator("#estimate")
    expect_images(reader.generate("a hill"), 1)
    reader.field("prompt").fill("a lake")
    expect(line).to_contain_text("Takes about")


PRICES = {
    FLUX: {"unit": "image", "amount": "0.02", "currency": "EUR"},
    PROBE: {"unit": "gpu_second", "amount": "0.0004", "currency": "EUR"},
}


def test_the_form_says_what_a_request_costs_as_far_as_its_input_says(page: Page) -> None:
    with page_darkroom(prices=PRICES) as served:
        reader = Reader(page, served)
        reader.enter()
        line = page.locator("#estimate")
        reader.field("prompt").fill("a hill")
        expect(line).to_contain_text("Costs 0.02 EUR.")
        reader.field("num_images").fill("3")
        expect(line).to_contain_text("Costs 0.06 EUR.")
        expect_images(reader.generate("a lake", num_images=2), 2)
        reader.field("prompt").fill("a lake at night")
        expect(line).to_contain_text(re.compile(r"Takes about .* s and costs 0\.04 EUR\."))
        with page.expect_request(lambda request: estimate_of(PROBE, request)) as asked:
            reader.choose(PROBE)  # nobody knows how many seconds it takes
        headers = {"authorization": f"Key {served.key}"}
        answer = page.request.post(
            asked.value.url, headers=headers, data=asked.value.post_data_json
        )
        assert answer.json()["price"]["cost"] == 0
        expect(line).not_to_contain_text("EUR")
        page.goto(f"{served.url}/#view=models&id={FLUX}")
        expect(page.get_by_text("0.02 EUR per image")).to_be_visible()


@pytest.mark.long
@pytest.mark.parametrize(
    ("amount", "words"),
    [(12, "12.00 EUR"), (0.5, "0.50 EUR"), (0.003, "0.003 EUR"), (0.00123456, "0.00123 EUR")],
)
def test_small_amounts_of_money_have_more_decimals(
    reader: Reader, amount: float, words: str
) -> None:
    script = 'async (amount) => (await import("/page/interface/words.js")).money(amount, "EUR")'
    assert reader.page.evaluate(script, amount) == words


@pytest.mark.long
@pytest.mark.parametrize(
    ("length", "words"),
    [(9.97, "10 s"), (89.7, "1 min 30 s"), (119.7, "2 min 0 s"), (3599.6, "60 min 0 s")],
)
def test_times_are_rounded_before_they_are_split(reader: Reader, length: float, words: str) -> None:
    script = 'async (length) => (await import("/page/interface/words.js")).seconds(length)'
    assert reader.page.evaluate(script, length) == words


@pytest.mark.long
def test_the_form_says_that_a_paused_model_will_wait(reader: Reader) -> None:
    expect_images(reader.generate("a hill"), 1)
    paused = reader.page.request.put(
        f"{reader.darkroom.url}/v1/endpoints/{FLUX}/pause",
        headers={"authorization": f"Key {reader.darkroom.key}"},
    )
    assert paused.ok
    reader.field("prompt").fill("a lake")
    expect(reader.page.locator("#estimate")).to_contain_text("An operator has paused this model.")


@pytest.mark.long
def test_an_input_that_is_not_complete_has_no_estimate(reader: Reader) -> None:
    expect_images(reader.generate("a hill"), 1)
    line = reader.page.locator("#estimate")
    reader.field("prompt").fill("a lake")
    expect(line).to_contain_text("Takes about")
    reader.field("prompt").fill("")
    expect(line).to_be_empty()


def test_a_first_visit_leaves_no_error_in_the_console(
    page: Page, installation: PageDarkroom
) -> None:
    messages: list[str] = []
    page.on("console", lambda message: messages.append(f"{message.text} {message.location}"))
    reader = Reader(page, installation)
    reader.enter()
    expect_images(reader.generate("a hill"), 1)
    reader.field("prompt").fill("")
    with page.expect_response("**/v1/estimate"):
        reader.field("prompt").fill("a lake")
    assert messages == []


@pytest.mark.long
def test_a_file_in_the_input_is_not_sent_to_be_estimated(reader: Reader) -> None:
    with reader.page.expect_request(lambda request: estimate_of("data:", request)) as sent:
        reader.field("prompt").fill("data:image/png;base64," + "A" * 100_000)
    body = sent.value.post_data_json
    assert body["input"]["prompt"] == "data:image/png;base64,"


@pytest.mark.long
def test_an_estimate_that_got_no_answer_is_asked_for_again(
    page: Page, installation: PageDarkroom
) -> None:
    page.clock.install()
    reader = Reader(page, installation)
    reader.enter()
    expect_images(reader.generate("a hill"), 1)
    page.route("**/v1/estimate", lambda route: route.fulfill(status=503, json={"detail": "Busy."}))
    with page.expect_response(lambda response: estimate_of("a lake", response.request)):
        reader.field("prompt").fill("a lake")
    line = page.locator("#estimate")
    expect(line).to_have_text("")
    page.unroute_all()
    page.clock.run_for(20_000)
    expect(line).to_contain_text("Takes about")
