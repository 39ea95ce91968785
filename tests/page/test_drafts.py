"""Drafts on the page: how they are made, their light table, and what goes on from them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import BrowserContext, Locator, Page, Route, expect

from serve_app.catalog.fields.drafts import UNCHANGEABLE
from tests.page.axe import look
from tests.page.darkroom import PageDarkroom
from tests.page.reader import PROBE, Reader, expect_images, expect_phase

pytestmark = pytest.mark.long

OpenContext = Callable[..., BrowserContext]


def draft(reader: Reader, prompt: str = "a hill", seed: int = 10) -> Locator:
    """Make four drafts; returns their light table."""
    if not reader.page.locator("#more").evaluate("node => node.open"):
        reader.unfold()
    reader.field("prompt").fill(prompt)
    reader.field("seed").fill(str(seed))
    reader.page.get_by_role("button", name="Draft", exact=True).click()
    table = reader.page.locator(".light-table")
    expect(table.locator(".preview")).to_have_count(4)
    return table


def preview(table: Locator, number: int) -> Locator:
    return table.locator(".preview").nth(number - 1)


def follow_inputs(reader: Reader) -> list[Any]:
    """Follow the inputs that the page submits from now on."""
    bodies: list[Any] = []

    def note(route: Route) -> None:
        if route.request.method == "POST":
            bodies.append(route.request.post_data_json)
        route.continue_()

    reader.page.route("**/queue/**", note)
    return bodies


def test_drafts_are_made_with_the_number_and_the_steps_that_this_browser_remembers(
    reader: Reader,
) -> None:
    page = reader.page
    page.get_by_role("button", name="Draft settings").click()
    page.get_by_role("radio", name="2", exact=True).check()
    page.get_by_label("Steps of each").fill("50")
    page.keyboard.press("Escape")
    expect(page.get_by_role("group", name="Draft settings")).to_be_hidden()
    expect(page.get_by_role("button", name="Draft settings")).to_be_focused()
    page.reload()
    sent = follow_inputs(reader)
    reader.field("prompt").fill("a hill")
    reader.field("num_images").fill("3")
    page.keyboard.press("Control+Shift+Enter")
    table = page.get_by_role("list", name="2 drafts")
    expect(table.get_by_role("listitem")).to_have_count(2)
    assert sent[0]["draft"] == {"count": 2, "until": 0.5}
    assert "num_images" not in sent[0]
    expect(page.locator(".light-table")).to_contain_text("2 of 4 steps · kept until")
    expect(page.locator(".light-table")).to_contain_text("tomorrow")


def test_a_model_that_makes_no_drafts_has_no_button_for_them(reader: Reader) -> None:
    expect(reader.page.get_by_role("button", name="Draft", exact=True)).to_be_visible()
    reader.choose(PROBE)
    expect(reader.page.get_by_role("button", name="Draft", exact=True)).to_be_hidden()


def test_each_preview_has_a_name_and_is_an_image(reader: Reader) -> None:
    table = draft(reader)
    expect(preview(table, 3)).to_have_accessible_name("Draft 3, seed 12, 1 of 4 steps")
    for image in table.locator("img").all():
        image.evaluate("image => image.decode()")


def test_a_long_seed_of_a_draft_is_short_until_it_is_pressed(reader: Reader) -> None:
    table = draft(reader, seed=4_000_000_000)
    tile = table.get_by_role("listitem").nth(1)
    expect(tile.locator(".facts")).to_have_text("Seed 400…0001")
    tile.get_by_role("button", name="Whole seed 4000000001").click()
    expect(tile.locator(".facts")).to_have_text("Seed 4000000001")


def test_a_draft_is_finished_as_it_is_and_each_card_leads_to_the_other(reader: Reader) -> None:
    table = draft(reader)
    sent = follow_inputs(reader)
    table.get_by_role("button", name="Finish draft 3").click()
    expect(table.get_by_role("button", name="Draft 3: Finished. Go to the result")).to_be_visible()
    assert sent[0]["seed"] == 12
    assert "draft" not in sent[0]
    sheet = reader.page.locator(".sheet[data-from]")
    expect_images(sheet, 1)
    sheet.get_by_role("button", name="from draft 3").click()
    expect(preview(table, 3)).to_be_focused()
    table.get_by_role("button", name="Draft 3: Finished").click()
    expect(sheet.locator(":focus")).to_have_count(1)


def test_several_drafts_are_selected_and_finished_together(reader: Reader) -> None:
    table = draft(reader)
    finish = table.get_by_role("button", name="Finish selected")
    expect(finish).to_be_disabled()
    preview(table, 1).click()
    preview(table, 2).focus()
    reader.page.keyboard.press("Space")
    expect(preview(table, 2)).to_have_attribute("aria-pressed", "true")
    table.get_by_role("button", name="Finish selected (2)").click()
    expect(reader.page.locator(".sheet[data-from][data-phase='succeeded']")).to_have_count(2)
    expect(finish).to_be_disabled()


def test_the_keyboard_moves_between_previews_finishes_changes_and_drops(reader: Reader) -> None:
    table = draft(reader)
    press = reader.page.keyboard.press
    preview(table, 1).focus()
    press("ArrowRight")
    press("ArrowDown")
    expect(preview(table, 4)).to_be_focused()
    press("Delete")
    expect(preview(table, 4)).to_have_accessible_name("Draft 4, seed 13, 1 of 4 steps, dropped")
    expect(table).to_contain_text("3 drafts")
    press("ArrowLeft")
    press("Enter")
    expect(table.get_by_role("button", name="Draft 3: Finished")).to_be_visible()
    press("Home")
    press("f")
    expect(reader.page.get_by_role("group", name="From draft 1")).to_be_visible()
    expect(reader.field("prompt")).to_be_focused()


def test_a_changed_draft_keeps_what_it_has_decided(reader: Reader) -> None:
    table = draft(reader)
    reader.field("seed").fill("99")
    sent = follow_inputs(reader)
    table.get_by_role("button", name="Change draft 2").click()
    chip = reader.page.get_by_role("group", name="From draft 2")
    expect(reader.field("seed")).to_have_value("11")
    for name in ("seed", "image_size", "num_images", "num_inference_steps"):
        expect(reader.field(name)).to_be_disabled()
    expect(reader.field("seed")).to_have_accessible_description(
        re.compile("^The draft decides this.")
    )
    expect(reader.page.get_by_role("button", name="Draft", exact=True)).to_be_disabled()
    chip.get_by_label("New noise").fill("0.3")
    expect(chip).to_contain_text("30 %")
    reader.field("prompt").fill("a hill at night")
    reader.page.get_by_role("button", name="Generate").click()
    sheet = reader.page.locator(".sheet[data-from]")
    expect_images(sheet, 1)
    expect(sheet).to_contain_text("from draft 2 of 4")
    assert (sent[0]["prompt"], sent[0]["seed"]) == ("a hill at night", 11)
    assert sent[0]["new_noise"] == pytest.approx(0.3)
    chip.get_by_role("button", name="Do not go on from the draft").click()
    expect(chip).to_be_hidden()
    expect(reader.field("seed")).to_be_enabled()


def test_undo_brings_back_also_the_draft_that_the_form_went_on_from(reader: Reader) -> None:
    table = draft(reader)
    table.get_by_role("button", name="Change draft 2").click()
    chip = reader.page.get_by_role("group", name="From draft 2")
    chip.get_by_label("New noise").fill("0.3")
    reader.field("prompt").fill("a hill at night")
    table.get_by_role("button", name="Change draft 3").click()
    expect(reader.page.get_by_role("group", name="From draft 3")).to_be_visible()
    reader.page.get_by_role("button", name="Undo").click()
    expect(chip).to_contain_text("30 %")
    expect(reader.field("prompt")).to_have_value("a hill at night")
    expect(reader.field("seed")).to_have_value("11")
    expect(reader.field("seed")).to_be_disabled()
    sent = follow_inputs(reader)
    reader.page.get_by_role("button", name="Generate").click()
    expect_images(reader.page.locator(".sheet[data-from]"), 1)
    assert (sent[0]["prompt"], sent[0]["seed"]) == ("a hill at night", 11)
    assert sent[0]["new_noise"] == pytest.approx(0.3)


def test_fields_that_a_draft_decides_are_those_of_the_server(page: Page, reader: Reader) -> None:
    assert reader.darkroom
    decided = page.evaluate("import('/page/drafts/going_on.js').then(({ DECIDED }) => DECIDED)")
    assert set(decided) == {*UNCHANGEABLE, "seed"}


def test_a_field_that_is_emptied_is_not_the_drafts(page: Page, reader: Reader) -> None:
    assert reader.darkroom
    applied = page.evaluate(
        """async () => {
            const { GoingOn } = await import("/page/drafts/going_on.js");
            const field = (name, kind) => ({ field: { name, kind }, row: document.body });
            const kinds = { negative_prompt: "text", loras: "rows", prompt: "prompt" };
            const base = { prompt: "a", negative_prompt: "b", loras: [{ path: "c" }] };
            const form = { rows: Object.entries(kinds).map(([name, kind]) => field(name, kind)) };
            return new GoingOn({ form, id: "x", base, left: () => {} }).applied({ prompt: "d" });
        }"""
    )
    assert applied == {"prompt": "d", "negative_prompt": "", "loras": [], "from_draft": "x"}


def test_the_light_table_is_there_again_after_a_reload(reader: Reader) -> None:
    table = draft(reader)
    table.get_by_role("button", name="Drop draft 4").click()
    expect(table).to_contain_text("Dropped")
    reader.page.reload()
    expect(preview(table, 4)).to_have_accessible_name("Draft 4, seed 13, 1 of 4 steps, dropped")
    table.get_by_role("button", name="Finish draft 1").click()
    expect(table.get_by_role("button", name="Draft 1: Finished")).to_be_visible()


@pytest.mark.parametrize("way", ["details", "gallery"])
def test_drafts_that_another_tab_made_are_finished_here(reader: Reader, way: str) -> None:
    page = reader.page
    table = draft(reader)
    request_id = reader.sheets.first.get_attribute("data-request")
    expect_images(reader.generate("a lake"), 1)  # this is what a new tab shows
    page.evaluate("sessionStorage.clear()")
    page.reload()
    expect_images(reader.sheets.first, 1)
    expect(table).to_have_count(0)
    if way == "details":
        reader.request_rows.filter(has_text="a hill").get_by_role("button").first.click()
        page.get_by_role("dialog").get_by_role("button", name="Drafts").click()
    else:
        page.get_by_role("link", name="Gallery").click()
        page.locator(".tile a").last.click()
        page.get_by_role("group", name="Make more").get_by_role("button", name="Drafts").click()
    expect(page.get_by_role("dialog")).to_have_count(0)
    expect(table.locator(".preview")).to_have_count(4)
    assert reader.sheets.first.get_attribute("data-request") == request_id
    table.get_by_role("button", name="Finish draft 2").click()
    expect(table.get_by_role("button", name="Draft 2: Finished")).to_be_visible()


def test_expired_drafts_say_so_and_cannot_be_finished(reader: Reader) -> None:
    table = draft(reader)

    def expire(output: Any) -> Any:
        for expired in output["drafts"]:
            expired["expires_at"] = "2020-01-01T00:00:00Z"
        return output

    reader.change_output(reader.sheets.first.get_attribute("data-request") or "", expire)
    reader.page.reload()
    expect(table).to_contain_text("None of these drafts is kept any more.")
    expect(table.get_by_text("Expired", exact=True)).to_have_count(4)
    expect(table.get_by_role("button", name="Finish draft")).to_have_count(0)


@pytest.mark.parametrize("noise", [0, 0.3])
def test_what_was_made_of_an_expired_draft_is_made_again_from_the_first_step(
    reader: Reader, noise: float
) -> None:
    table = draft(reader)
    table.get_by_role("button", name="Change draft 2").click()
    chip = reader.page.get_by_role("group", name="From draft 2")
    chip.get_by_label("New noise").fill(str(noise))
    reader.page.get_by_role("button", name="Generate").click()
    sheet = reader.page.locator(".sheet[data-from]")
    expect_images(sheet, 1)
    used = sheet.get_attribute("data-from") or ""
    path = f"**/v1/drafts/{used}"
    missing = {"error_type": "not_found", "message": "There is no draft."}
    reader.page.route(path, lambda route: route.fulfill(status=404, json=missing))
    chip.get_by_role("button", name="Do not go on from the draft").click()
    sheet.get_by_role("button", name="Use again").click()
    problem = reader.page.locator("#form-problem")
    expect(problem).to_contain_text("Its draft has expired")
    expect(problem).to_contain_text("another result" if noise else "the same result")
    expect(reader.page.get_by_role("group", name="From a draft")).to_have_count(0)
    expect(reader.field("seed")).to_be_enabled()
    sent = follow_inputs(reader)
    reader.page.get_by_role("button", name="Generate").click()
    expect(reader.sheets).to_have_count(3)
    expect_images(reader.sheets.first, 1)
    assert (sent[0]["prompt"], sent[0]["seed"]) == ("a hill", 11)
    assert not sent[0].keys() & {"from_draft", "new_noise", "noise_seed"}


def test_a_draft_that_is_refused_says_why_at_its_place(reader: Reader) -> None:
    table = draft(reader)
    problem = {"loc": ["body", "from_draft"], "msg": "The endpoint was changed", "type": "x"}

    def refuse(route: Route) -> None:
        route.fulfill(status=422, body=json.dumps({"detail": [problem]}))

    reader.page.route("**/queue/fal-ai/flux/schnell", refuse)
    table.get_by_role("button", name="Finish draft 1").click()
    expect(table.get_by_role("listitem").first).to_contain_text("The endpoint was changed")
    table.get_by_role("button", name="Change draft 1").click()
    expect(reader.page.get_by_role("group", name="From draft 1")).to_be_visible()
    reader.page.get_by_role("button", name="Generate").click()
    expect(reader.page.locator("#form-problem")).to_have_text("The endpoint was changed")


def test_a_grid_of_a_changed_draft_varies_only_what_is_free(reader: Reader) -> None:
    table = draft(reader)
    sent = follow_inputs(reader)
    table.get_by_role("button", name="Change draft 1").click()
    expect(reader.page.get_by_role("group", name="From draft 1")).to_be_visible()
    reader.page.get_by_role("button", name="Grid", exact=True).click()
    grid = reader.page.get_by_role("dialog", name="Grid")
    columns = grid.get_by_label("Columns", exact=True)
    assert "Seed" not in columns.locator("option").all_inner_texts()
    columns.select_option(label="Guidance")
    grid.get_by_label("Values of Guidance").fill("2, 4")
    grid.get_by_role("button", name="Start").click()
    expect(reader.page.locator("td .sheet[data-phase='succeeded']")).to_have_count(2)
    assert [(fields["guidance_scale"], fields["seed"]) for fields in sent] == [(2, 10), (4, 10)]
    assert all(fields["from_draft"] for fields in sent)


def test_a_variation_of_a_finished_draft_has_new_noise(reader: Reader) -> None:
    table = draft(reader)
    table.get_by_role("button", name="Finish draft 1").click()
    sheets = reader.page.locator(".sheet[data-from]")
    expect_images(sheets, 1)
    sent = follow_inputs(reader)
    sheets.get_by_role("button", name="Vary").click()
    expect(sheets).to_have_count(2)
    expect_phase(sheets.first, "succeeded")
    assert sent[0]["new_noise"] == pytest.approx(0.3)
    sheets.first.get_by_role("button", name="Use again").click()
    chip = reader.page.get_by_role("group", name="From draft 1")
    expect(chip).to_contain_text("30 %")
    reader.page.get_by_role("button", name="Generate").click()
    expect(sheets).to_have_count(3)
    assert isinstance(sent[1]["noise_seed"], int)


def test_new_noise_with_the_seed_0_is_the_same_again(reader: Reader) -> None:
    table = draft(reader)
    table.get_by_role("button", name="Finish draft 1").click()
    sheets = reader.page.locator(".sheet[data-from]")
    expect_images(sheets, 1)
    sheets.get_by_role("button", name="Vary").click()
    expect(sheets).to_have_count(2)
    expect_phase(sheets.first, "succeeded")

    def with_seed_0(route: Route) -> None:
        response = route.fetch()
        body = response.json()
        route.fulfill(response=response, json={**body, "input": {**body["input"], "noise_seed": 0}})

    reader.page.route(f"**/v1/requests/{sheets.first.get_attribute('data-request')}", with_seed_0)
    sheets.first.get_by_role("button", name="Use again").click()
    expect(reader.page.get_by_role("group", name="From draft 1")).to_contain_text("30 %")
    sent = follow_inputs(reader)
    reader.page.get_by_role("button", name="Generate").click()
    expect(sheets).to_have_count(3)
    assert sent[0]["noise_seed"] == 0


def test_more_drafts_have_other_seeds(reader: Reader) -> None:
    table = draft(reader)
    sent = follow_inputs(reader)
    table.get_by_role("button", name="More drafts").click()
    expect(reader.page.locator(".light-table")).to_have_count(2)
    assert sent[0]["draft"]["count"] == 4
    assert "seed" not in sent[0]


def test_drafts_can_be_read_and_fit_on_a_phone(
    open_context: OpenContext, installation: PageDarkroom
) -> None:
    phone = open_context(viewport={"width": 360, "height": 740}, has_touch=True)
    reader = Reader(phone.new_page(), installation)
    reader.enter()
    table = draft(reader)
    reader.page.get_by_role("button", name="Draft settings").click()
    expect(reader.page.get_by_role("group", name="Draft settings")).to_be_visible()
    preview(table, 1).click()
    table.get_by_role("button", name="Drop draft 2").click()
    expect(table).to_contain_text("Dropped")
    table.get_by_role("button", name="Finish draft 3").click()
    expect(table.get_by_role("button", name="Draft 3: Finished")).to_be_visible()
    table.get_by_role("button", name="Change draft 1").click()
    expect(reader.page.get_by_role("group", name="From draft 1")).to_be_visible()
    look(reader.page)


def test_at_twice_the_size_the_settings_of_drafts_cover_no_field(
    open_context: OpenContext, installation: PageDarkroom
) -> None:
    reader = Reader(open_context(viewport={"width": 720, "height": 450}).new_page(), installation)
    reader.enter()
    table = draft(reader)
    reader.page.get_by_role("button", name="Draft settings").click()
    table.get_by_role("button", name="Change draft 2").click()
    expect(reader.page.get_by_role("group", name="From draft 2")).to_be_attached()
    prompt = reader.field("prompt")
    expect(prompt).to_be_focused()
    covered = """field => {
        const { left, top, width, height } = field.getBoundingClientRect();
        return document.elementFromPoint(left + width / 2, top + height / 2) !== field;
    }"""
    assert not prompt.evaluate(covered)
    settings = reader.page.get_by_role("group", name="Draft settings")
    expect(settings).to_be_hidden()  # a draft of a draft cannot be made
    expect(reader.page.get_by_role("button", name="Draft settings")).to_be_disabled()
    reader.page.get_by_role("button", name="Do not go on from the draft").click()
    expect(settings).to_be_visible()


@pytest.mark.parametrize(("field", "kind"), [("videos", "video"), ("audio", "audio")])
def test_videos_and_audio_are_previews_too(
    page: Page, reader: Reader, field: str, kind: str
) -> None:
    assert reader.darkroom
    page.evaluate(
        """async ([field, kind]) => {
            const { LightTable } = await import("/page/drafts/light_table.js");
            const type = { video: "video/mp4", audio: "audio/wav" }[kind];
            const drafts = [1, 2].map((seed) => ({ id: `d${seed}`, seed, step: 3, steps: 0 }));
            const files = drafts.map(({ id }) => ({ url: `/files/${id}`, content_type: type }));
            const output = { [field]: files, drafts };
            const given = { request: { id: "x", input: {} }, api: {}, act: {} };
            document.querySelector("#sheets").prepend(new LightTable({ ...given, output }).node);
        }""",
        [field, kind],
    )
    page.add_style_tag(url="/page/drafts/drafts.css")  # which comes with the view's own script
    table = page.locator(".light-table")
    expect(table.locator(kind)).to_have_count(2)
    expect(preview(table, 2)).to_have_accessible_name("Draft 2, seed 2, 3 steps")
    look(page)
