"""List of the latest requests, and the details of one of them."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime, timedelta

import httpx
import pytest
from playwright.sync_api import Page, Route, expect

from tests.page.album import Entry
from tests.page.darkroom import PageDarkroom
from tests.page.painter import image
from tests.page.reader import PROBE, Reader, box_of, expect_images, expect_said, select_past


def submit(reader: Reader, endpoint: str, **input: object) -> str:
    """Submit a request as another program would."""
    answer = httpx.post(
        f"{reader.darkroom.url}/queue/{endpoint}",
        json=input,
        headers={"Authorization": f"Key {reader.darkroom.key}"},
        trust_env=False,
    )
    return answer.json()["request_id"]


def test_requests_of_others_with_the_same_key_are_listed_with_their_states(
    reader: Reader,
) -> None:
    expect(reader.page.get_by_text("No results yet.")).to_be_visible()
    expect(reader.page.locator("#recent")).to_be_hidden()  # it would say the same
    submit(reader, PROBE, prompt="by a program", sleep_s=0.5)
    row = reader.request_rows.first
    expect(row).to_contain_text("by a program")
    expect(row).to_have_attribute("data-state", "succeeded")


@pytest.mark.long
def test_a_row_has_a_small_image_of_its_result(reader: Reader) -> None:
    expect_images(reader.generate("a hill"), 1)
    image = reader.request_rows.first.locator("img")
    image.scroll_into_view_if_needed()
    image.evaluate("image => image.decode()")
    submit(reader, PROBE, prompt="by a program")
    expect(
        reader.request_rows.filter(has_text="by a program").locator(".dot.succeeded")
    ).to_be_visible()


def test_one_is_shown_with_its_log_its_input_and_its_output(reader: Reader) -> None:
    expect_images(reader.generate("a long stair"), 1)
    reader.request_rows.first.locator(".request").click()
    dialog = reader.page.get_by_role("dialog")
    expect(dialog).to_contain_text("Queued.")
    expect(dialog).to_contain_text("demo model, not the real FLUX.1 [schnell]")
    expect(dialog).to_contain_text('"num_inference_steps": 4')
    expect(dialog).to_contain_text('"has_nsfw_concepts"')
    expect(dialog.get_by_role("img", name="a long stair")).to_be_visible()
    reader.page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()


@pytest.mark.long
def test_only_a_click_beside_the_details_closes_them(waiting: Reader) -> None:
    page = waiting.page
    submit(waiting, PROBE, prompt="by a program")
    waiting.request_rows.first.locator(".request").click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("Next in line.")
    left, top, *_ = box_of(dialog)
    page.mouse.click(left + 8, top + 8)  # the blank border
    expect(dialog).to_be_visible()
    select_past(dialog, dialog.get_by_text("Next in line."))
    expect(dialog).to_be_visible()
    page.mouse.click(left - 30, top + 8)
    expect(dialog).to_be_hidden()


@pytest.mark.long
def test_what_is_shown_of_a_running_one_goes_on(waiting: Reader) -> None:
    submit(waiting, PROBE, prompt="by a program", sleep_s=0.3)
    waiting.request_rows.first.locator(".request").click()
    dialog = waiting.page.get_by_role("dialog")
    expect(dialog).to_contain_text("Next in line.")
    waiting.darkroom.start_painting()
    expect(dialog).to_contain_text("Done")


def test_one_can_be_cancelled_from_the_list(waiting: Reader) -> None:
    submit(waiting, PROBE, prompt="by a program")
    waiting.page.get_by_role("button", name="Cancel by a program").click()
    expect(waiting.request_rows.first).to_have_attribute("data-state", "cancelled")


@pytest.mark.long
def test_the_focus_stays_on_the_same_button_of_a_row_when_the_list_changes(waiting: Reader) -> None:
    submit(waiting, PROBE, prompt="by a program")
    cancel = waiting.page.get_by_role("button", name="Cancel by a program")
    cancel.focus()
    submit(waiting, PROBE, prompt="another one")
    expect(waiting.request_rows).to_have_count(2)
    expect(cancel).to_be_focused()
    waiting.page.keyboard.press("Enter")
    row = waiting.request_rows.last
    expect(row).to_have_attribute("data-state", "cancelled")
    expect(row.locator(".request")).to_be_focused()  # it has no other button any more


@pytest.mark.long
def test_a_cancellation_that_fails_is_seen_in_the_list_and_in_the_details(waiting: Reader) -> None:
    submit(waiting, PROBE, prompt="by a program")
    words = "This key may not cancel requests."
    waiting.page.route(
        "**/v1/requests/*/cancel", lambda route: route.fulfill(status=403, json={"detail": words})
    )
    waiting.page.get_by_role("button", name="Cancel by a program").click()
    expect_said(waiting.page, words)
    waiting.request_rows.first.locator(".request").click()
    waiting.page.get_by_role("dialog").get_by_role("button", name="Cancel").click()
    expect(waiting.page.locator("#details .toast")).to_be_visible()
    expect_said(waiting.page, words)


@pytest.mark.long
def test_the_day_of_a_request_is_named_anew_after_midnight(page: Page, idle: PageDarkroom) -> None:
    idle.hang([Entry("an old hill", timedelta(seconds=1))])
    Reader(page, idle).enter()
    days = page.locator("#requests .day")
    expect(days).to_have_text("Today")
    page.clock.set_fixed_time(datetime.now(UTC) + timedelta(days=1))
    expect(days).to_have_text("Yesterday")


@pytest.mark.long
def test_content_that_is_in_an_output_is_made_once_and_leaves_the_memory(reader: Reader) -> None:
    page = reader.page
    content = base64.b64encode(image(30, 20, 1, "image/png")).decode()
    file = {"url": f"data:image/png;base64,{content}", "content_type": "image/png"}
    output = {"images": [file], "seed": 1, "prompt": "a hill"}
    page.route("**/queue/**/requests/*", lambda route: route.fulfill(json=output))
    result = {"status": 200, "body": output}
    ended = {"status": "COMPLETED", "darkroom": {"state": "succeeded"}, "result": result}
    event = {"content_type": "text/event-stream", "body": f"data: {json.dumps(ended)}\n\n"}
    page.route("**/status/stream?*", lambda route: route.fulfill(**event))
    page.evaluate(
        """() => {
            window.live = new Set();
            const { createObjectURL: make, revokeObjectURL: end } = URL;
            URL.createObjectURL = (content) => {
                const made = make.call(URL, content);
                live.add(made);
                return made;
            };
            URL.revokeObjectURL = (made) => (live.delete(made), end.call(URL, made));
        }"""
    )
    expect_images(reader.generate("a hill"), 1)
    assert page.evaluate("live.size") == 1
    reader.request_rows.first.locator(".request").click()
    expect(page.get_by_role("dialog").get_by_role("img", name="a hill")).to_be_visible()
    assert page.evaluate("live.size") == 2
    page.keyboard.press("Escape")
    page.wait_for_function("() => live.size === 1")
    page.get_by_role("button", name="API key").click()
    page.get_by_role("button", name="Forget this key").click()
    page.wait_for_function("() => live.size === 0")


@pytest.mark.long
def test_details_do_not_show_the_output_of_those_that_were_open_before(
    page: Page, idle: PageDarkroom
) -> None:
    soon = timedelta(minutes=1)
    hill, lake = idle.hang([Entry("a hill", soon), Entry("a lake", 2 * soon)])
    reader = Reader(page, idle)
    reader.enter()
    routes: dict[str, Route] = {}

    def hold(route: Route) -> None:
        routes[route.request.url] = route

    page.route(f"**/queue/**/requests/{hill}", hold)
    page.route(f"**/v1/requests/{lake}", hold)
    dialog = page.get_by_role("dialog")
    with page.expect_request(f"**/queue/**/requests/{hill}"):
        reader.request_rows.first.locator(".request").click()
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    with page.expect_request(f"**/v1/requests/{lake}"):
        reader.request_rows.last.locator(".request").click()
    with page.expect_response(f"**/queue/**/requests/{hill}"):
        next(route for url, route in routes.items() if "/queue/" in url).continue_()
    next(route for url, route in routes.items() if "/v1/" in url).continue_()
    output = dialog.locator('[data-name="Output"]')
    expect(output).to_contain_text('"prompt": "a lake"')


def test_its_input_can_be_used_again(reader: Reader) -> None:
    submit(reader, "fal-ai/flux/schnell", prompt="by a program", num_images=3, image_size="square")
    reader.request_rows.first.locator(".request").click()
    reader.page.get_by_role("dialog").get_by_role("button", name="Use again").click()
    expect(reader.field("prompt")).to_have_value("by a program")
    expect(reader.field("num_images")).to_have_value("3")
    expect(reader.field("image_size")).to_have_value("square")


@pytest.mark.long
def test_older_ones_come_when_asked_for(reader: Reader) -> None:
    for number in range(17):
        submit(reader, PROBE, prompt=f"number {number}")
    expect(reader.request_rows).to_have_count(15)
    reader.page.get_by_role("button", name="Show older requests").click()
    expect(reader.request_rows).to_have_count(17)


@pytest.mark.long
def test_the_focus_stays_in_the_details_of_a_running_one(waiting: Reader) -> None:
    page = waiting.page
    submit(waiting, PROBE, prompt="by a program")
    waiting.request_rows.first.locator(".request").click()
    cancel = page.get_by_role("dialog").get_by_role("button", name="Cancel")
    cancel.focus()
    for _ in range(2):
        with page.expect_response("**/v1/requests/*"):
            pass
    page.evaluate("new Promise(requestAnimationFrame)")
    expect(cancel).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog")).to_contain_text("Cancelled")


@pytest.mark.long
def test_a_variation_is_not_made_of_a_part_of_the_input(page: Page, idle: PageDarkroom) -> None:
    kept = Entry("an old hill", timedelta(minutes=1), input={"guidance_scale": 9.5})
    (id_,) = idle.hang([kept])
    reader = Reader(page, idle)
    reader.enter()  # it shows the latest result, of whose input it knows the prompt
    vary = reader.sheets.get_by_role("button", name="Vary")
    expect(vary).to_be_visible()  # it has read the result
    headers = {"Authorization": f"Key {idle.key}"}
    answer = httpx.delete(f"{idle.url}/v1/requests/{id_}", headers=headers, trust_env=False)
    assert answer.status_code == 200
    vary.click()
    expect(page.locator("#form-problem")).to_be_visible()
    page.locator("#form-problem").evaluate("node => (node.hidden = true)")
    reader.sheets.get_by_role("button", name="Use again").click()
    expect(page.locator("#form-problem")).to_be_visible()
    expect(reader.field("prompt")).to_have_value("")
    expect(reader.sheets).to_have_count(1)


@pytest.mark.long
def test_a_variation_of_a_model_that_is_not_served_says_so(page: Page, idle: PageDarkroom) -> None:
    idle.hang([Entry("an old hill", timedelta(minutes=1), endpoint="house/gone")])
    reader = Reader(page, idle)
    reader.enter()
    reader.sheets.get_by_role("button", name="Vary").click()
    expect(page.locator("#form-problem")).to_have_text("This Darkroom does not serve house/gone.")


@pytest.mark.long
def test_the_code_of_a_result_has_its_whole_input_after_a_reload_too(
    page: Page, idle: PageDarkroom
) -> None:
    idle.hang([Entry("an old hill", timedelta(minutes=1), input={"guidance_scale": 9.5})])
    reader = Reader(page, idle)
    reader.enter()
    reader.sheets.get_by_role("button", name="Code").click()
    expect(page.locator("dialog pre")).to_contain_text('"guidance_scale": 9.5')
