"""Earlier prompts, wildcards, the title of the page, and notifications."""

from __future__ import annotations

import re
from typing import Any

import pytest
from playwright.sync_api import expect

from tests.page.reader import Reader, expect_images, expect_phase

pytestmark = pytest.mark.long

HIDE = "Object.defineProperty(document, 'hidden', {{ value: {}, configurable: true }})"
NOTIFICATIONS = """() => {
    window.shown = [];
    window.Notification = class extends EventTarget {
        static permission = "default";
        static async requestPermission() { return this.permission = "granted"; }
        constructor(title, { body } = {}) {
            super();
            if (Notification.permission === "granted") shown.push(body);
        }
    };
}"""


def test_an_earlier_prompt_is_found_by_its_words(reader: Reader) -> None:
    expect_images(reader.generate("a hill in the fog"), 1)
    expect_images(reader.generate("a lake at night"), 1)
    reader.page.reload()
    prompt = reader.field("prompt")
    prompt.fill("")
    prompt.press("ArrowUp")
    menu = reader.page.get_by_role("dialog", name="Earlier prompts")
    expect(menu.locator(".target")).to_have_text(["a lake at night", "a hill in the fog"])
    menu.get_by_label("Search prompts").fill("FOG hill")
    reader.page.keyboard.press("Enter")
    expect(menu).to_be_hidden()
    expect(prompt).to_have_value("a hill in the fog")
    expect(prompt).to_be_focused()


def test_earlier_prompts_are_forgotten_on_request_and_with_the_key(reader: Reader) -> None:
    expect_images(reader.generate("a hill in the fog"), 1)
    reader.page.get_by_role("button", name="Earlier prompts").click()
    menu = reader.page.get_by_role("dialog", name="Earlier prompts")
    menu.get_by_role("button", name="Forget them").click()
    expect(menu).to_contain_text("None yet.")
    reader.page.keyboard.press("Escape")
    expect_images(reader.generate("a lake"), 1)
    assert reader.page.evaluate("localStorage.getItem('darkroom.prompts')") == '["a lake"]'
    reader.page.get_by_role("button", name="API key").click()
    reader.page.get_by_role("button", name="Forget this key").click()
    kept = reader.page.evaluate("Object.keys(localStorage)")
    assert not {"darkroom.prompts", "darkroom.loras", "darkroom.draft"} & set(kept)


def test_a_wildcard_becomes_one_of_its_words_for_each_request(reader: Reader) -> None:
    reader.field("prompt").fill("a {red|blue} hill, {x}")
    reader.page.get_by_role("button", name="Generate").click()
    expect(reader.sheets.first.get_by_role("heading")).to_have_text(
        re.compile(r"^a (red|blue) hill, \{x\}$")
    )
    expect(reader.field("prompt")).to_have_value("a {red|blue} hill, {x}")


@pytest.mark.parametrize(
    ("prompt", "chance", "expected"),
    [
        ("a {red|blue} hill", 0.0, "a red hill"),
        ("a {red| blue } hill", 0.9, "a blue hill"),
        ("{a|b {c|d}}", 0.9, "b d"),
        ("a {|very} hill", 0.0, "a  hill"),
        ('{"a": 1} {x}', 0.5, '{"a": 1} {x}'),
    ],
)
def test_wildcards_may_be_inside_of_others(
    reader: Reader, prompt: str, chance: float, expected: str
) -> None:
    call: Any = [prompt, chance]
    expansion = reader.page.evaluate(
        """async ([prompt, chance]) => {
            const { expanded } = await import("/page/form/wildcards.js");
            return expanded(prompt, () => chance);
        }""",
        call,
    )
    assert expansion == expected


def test_the_title_shows_how_far_a_request_is_and_what_ended_unseen(waiting: Reader) -> None:
    sheet = waiting.generate("a slow hill")
    expect(waiting.page).to_have_title("0 % · Darkroom")
    waiting.darkroom.start_painting()  # type: ignore[union-attr]
    expect(waiting.page).to_have_title(re.compile(r"[1-9]\d* % · Darkroom"))
    waiting.page.evaluate(HIDE.format("true"))
    expect_phase(sheet, "succeeded")
    expect(waiting.page).to_have_title("✓ Darkroom")
    waiting.page.evaluate(HIDE.format("false"))
    waiting.page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    expect(waiting.page).to_have_title("Darkroom")


def ends_unseen(waiting: Reader) -> None:
    """A long request ends while the page is hidden, after its user has asked for notifications."""
    page = waiting.page
    page.clock.install()
    sheet = waiting.generate("a hill")
    expect_phase(sheet, "queued")
    notify = sheet.get_by_role("button", name="Notify me")
    expect(notify).to_be_hidden()
    page.clock.fast_forward(25_000)
    notify.click()
    expect(notify).to_be_hidden()
    page.evaluate(HIDE.format("true"))
    waiting.darkroom.start_painting()  # type: ignore[union-attr]
    expect_phase(sheet, "succeeded")


def test_the_end_of_a_long_request_is_a_notification_if_the_user_has_asked_for_it(
    waiting: Reader,
) -> None:
    page = waiting.page
    page.evaluate("delete Navigator.prototype.serviceWorker")
    page.evaluate(NOTIFICATIONS)
    ends_unseen(waiting)
    page.wait_for_function("() => shown.length > 0")
    assert page.evaluate("shown") == ["a hill"]


def test_a_service_worker_shows_the_notification_and_its_click_opens_the_request(
    waiting: Reader,
) -> None:
    page = waiting.page
    page.evaluate(
        """() => {
            let asked = false;
            Object.defineProperty(Notification, "permission", {
                get: () => asked ? "granted" : "default",
            });
            Notification.requestPermission = async () => {
                asked = true;
                return "granted";
            };
            window.shown = [];
            // A browser without windows denies the permission whatever it is asked.
            ServiceWorkerRegistration.prototype.showNotification = async function (title, words) {
                if (this.active === null) throw new TypeError("There is no active worker.");
                shown.push(words);
            };
        }"""
    )
    with page.context.expect_event("serviceworker") as started:
        ends_unseen(waiting)
    page.wait_for_function("() => shown.length > 0")
    (words,) = page.evaluate("shown")
    assert words["body"] == "a hill"
    # Only a user can click on it. Without that, the browser refuses the focus.
    started.value.evaluate(
        """data => {
            const click = new Event("notificationclick");
            const waitUntil = (done) => done.catch(() => {});
            const notification = { close() {}, data };
            self.dispatchEvent(Object.assign(click, { notification, waitUntil }));
        }""",
        words["data"],
    )
    page.evaluate(HIDE.format("false"))  # as the focus does
    expect(page.get_by_role("dialog")).to_contain_text("a hill")
    assert "request=" in page.url


def test_notifications_are_not_offered_where_nothing_can_show_them(waiting: Reader) -> None:
    page = waiting.page
    page.evaluate("delete Navigator.prototype.serviceWorker")
    page.evaluate(
        """() => {
            window.Notification = class {
                static permission = "default";
                constructor() { throw new TypeError("Illegal constructor."); }
            };
        }"""
    )
    page.clock.install()
    sheet = waiting.generate("a hill")
    expect_phase(sheet, "queued")
    page.clock.fast_forward(25_000)
    expect(sheet.locator(".elapsed")).to_have_text(re.compile(r"^(2[5-9]|[3-9]\d) s$|min"))
    expect(sheet.get_by_role("button", name="Notify me")).to_be_hidden()
