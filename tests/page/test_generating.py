"""The way from a prompt to an image on the page."""

from __future__ import annotations

import base64
import re
from io import BytesIO
from typing import Any

import httpx
import pytest
from PIL import Image
from playwright.sync_api import Page, Request, Route, expect

from tests.page.reader import FLUX, PROBE, Reader, expect_images, expect_phase


def test_progress_stays_full_while_the_last_stages_count_steps_of_their_own(reader: Reader) -> None:
    progress = [
        {"stage": "denoising", "step": 3, "steps": 4},
        {"stage": "decoding", "step": 0, "steps": 4},
        {"stage": "encoding_media", "step": 1, "steps": 20},
    ]
    parts = reader.page.evaluate(
        "async (all) => all.map((await import('/page/interface/words.js')).partOf)", progress
    )
    assert parts == [0.75, 1, 1]


def test_a_prompt_becomes_an_image_with_its_seed_and_its_times(reader: Reader) -> None:
    sheet = reader.generate("a quiet harbour")
    expect_images(sheet, 1)
    expect(sheet.get_by_role("img", name="a quiet harbour")).to_be_visible()
    facts = sheet.locator("dl.facts")
    expect(facts).to_contain_text("1234567")
    expect(facts).to_contain_text("Compute")
    expect(sheet.locator("figcaption")).to_contain_text("1024 × 768")


def test_several_images_of_one_request_are_all_shown(reader: Reader) -> None:
    expect_images(reader.generate("four hills", num_images=4), 4)


@pytest.mark.long
def test_an_image_can_be_saved_and_opened(reader: Reader) -> None:
    sheet = reader.generate("a hill")
    with reader.page.expect_download() as saving:
        sheet.get_by_role("link", name="Download").click()
    assert saving.value.suggested_filename.endswith(".jpg")
    address = sheet.get_by_role("link", name="Open", exact=True).get_attribute("href")
    assert httpx.get(str(address), trust_env=False).content == saving.value.path().read_bytes()


@pytest.mark.long
def test_a_long_seed_is_short_and_whole_on_demand_and_figures_survive_a_reload(
    reader: Reader,
) -> None:
    reader.unfold()
    sheet = reader.generate("a hill", seed=9007199254740991)
    expect_images(sheet, 1)
    facts = sheet.locator("dl.facts")
    expect(facts).to_contain_text("Seed900…0991")
    expect(facts).to_contain_text("Total")
    figures = facts.inner_text()
    reader.page.reload()
    expect(facts).to_have_text(figures, use_inner_text=True)
    facts.get_by_role("button", name="Whole seed 9007199254740991").click()
    expect(facts).to_contain_text("Seed9007199254740991")
    reader.page.evaluate("sessionStorage.clear()")  # as in another tab
    reader.page.reload()
    expect(facts).to_contain_text("Total")
    total = "//dt[text()='Total']/following-sibling::dd[1]"
    assert facts.locator(total).inner_text() in figures


@pytest.mark.long
def test_an_image_inside_the_answer_is_shown_and_saved_as_well(reader: Reader) -> None:
    reader.unfold()
    reader.field("sync_mode").check()
    sheet = reader.generate("a hill")
    expect_images(sheet, 1)
    with reader.page.expect_download() as saving:
        sheet.get_by_role("link", name="Download").click()
    assert saving.value.path().read_bytes()[:3] == b"\xff\xd8\xff"


@pytest.mark.long
def test_a_frame_without_an_address_is_an_image_too(reader: Reader) -> None:
    buffer = BytesIO()
    Image.new("RGB", (8, 4)).save(buffer, "JPEG")
    content = base64.b64encode(buffer.getvalue()).decode()
    seen = reader.page.evaluate(
        """async (output) => {
            const { filesIn } = await import("/page/results/media.js");
            const [file] = filesIn(output);
            const image = new Image();
            image.src = file.url;
            await image.decode();
            return [file.kind, file.type, image.naturalWidth, image.naturalHeight];
        }""",
        {"images": [{"content": content, "content_type": "image/jpeg"}], "seed": 1},
    )
    assert seen == ["image", "image/jpeg", 8, 4]


def test_audio_and_its_waveform_are_one_item(reader: Reader) -> None:
    seen = reader.page.evaluate(
        """async (output) => {
            const { filesIn, fileFigure } = await import("/page/results/media.js");
            const files = filesIn(output);
            const figure = fileFigure(files[0], "a siren");
            document.body.append(figure);
            const links = [...figure.querySelectorAll("a[download]")];
            return [
                files.map((file) => file.kind),
                links.map((link) => link.download),
                figure.querySelectorAll("img.wave").length,
                figure.querySelector(".facts").textContent,
            ];
        }""",
        {
            "audio_file": {"url": "/files/a.wav", "content_type": "audio/wav", "duration": 1.0625},
            "waveform": {"url": "/files/a.png", "content_type": "image/png"},
            "seed": 1,
        },
    )
    assert seen == [["audio"], ["a.wav"], 1, "1.1 s"]


def test_generate_that_is_pressed_again_before_its_answer_submits_one_request(
    reader: Reader,
) -> None:
    """As on a slow connection, where a press has no effect that one sees for seconds."""
    page, held = reader.page, list[Route]()
    button = page.get_by_role("button", name="Generate")

    def hold(route: Route) -> None:
        held.append(route) if route.request.method == "POST" else route.continue_()

    reader.field("prompt").fill("a hill")
    page.route("**/queue/fal-ai/**", hold)
    for _ in range(3):
        button.click()
    reader.field("prompt").press("Control+Enter")
    expect(button).to_have_attribute("aria-busy", "true")
    page.wait_for_timeout(200)  # for others to be sent
    assert len(held) == 1
    held[0].continue_()
    expect(reader.sheets).to_have_count(1)
    expect_images(reader.sheets.first, 1)
    expect(button).not_to_have_attribute("aria-busy", "true")


@pytest.mark.long
def test_control_and_enter_generate(reader: Reader) -> None:
    reader.field("prompt").fill("a hill")
    reader.field("prompt").press("Control+Enter")
    expect_images(reader.sheets.first, 1)


def test_the_steps_are_reported_while_it_runs(reader: Reader) -> None:
    reader.unfold()
    sheet = reader.generate("a slow hill", num_inference_steps=10)
    bar = sheet.get_by_role("progressbar")
    progress = re.compile(r"Denoising · step (\d+) of 10")  # a busy machine may skip some steps
    expect(sheet).to_contain_text(progress)
    text, done = sheet.evaluate(
        "sheet => [sheet.innerText, sheet.querySelector('[role=progressbar]').ariaValueNow]"
    )
    (step,) = progress.findall(text)
    assert int(done) == 10 * int(step)
    expect_images(sheet, 1)
    expect(bar).to_have_count(0)


def test_a_client_that_waits_gets_the_place_and_the_reason(waiting: Reader) -> None:
    first = waiting.generate("first")
    second = waiting.generate("second")
    third = waiting.generate("third, which is polled: two are streamed")
    expect(first).to_contain_text("Next in line. There is no replica yet.")
    expect(second).to_contain_text("Requests before this one: 1.")
    expect(third).to_contain_text("Requests before this one: 2.")
    waiting.darkroom.start_painting()
    for sheet in (first, second, third):
        expect_images(sheet, 1)


def test_a_waiting_request_can_be_cancelled(waiting: Reader) -> None:
    sheet = waiting.generate("never mind")
    expect_phase(sheet, "queued")
    sheet.get_by_role("button", name="Cancel").click()
    expect_phase(sheet, "cancelled")
    expect(sheet.locator(".standing")).to_have_text("Cancelled.")
    expect(sheet.locator(".bad")).to_have_count(0)
    waiting.darkroom.start_painting()
    expect_images(waiting.generate("another"), 1)
    assert sheet.get_attribute("data-request") not in waiting.darkroom.ran()


def test_a_running_request_can_be_cancelled(reader: Reader) -> None:
    reader.unfold()
    sheet = reader.generate("a slow hill", num_inference_steps=12)
    expect_phase(sheet, "running")
    sheet.get_by_role("button", name="Cancel").click()
    expect_phase(sheet, "cancelled")


@pytest.mark.long
def test_many_at_once_all_end(reader: Reader) -> None:
    sheets = [reader.generate(f"hill number {number}") for number in range(8)]
    for sheet in sheets:
        expect_images(sheet, 1)


def test_a_failure_says_what_went_wrong(reader: Reader) -> None:
    sheet = reader.generate("this will fail")
    expect_phase(sheet, "failed")
    expect(sheet).to_contain_text("Failed. The paint has run out.")


def test_a_wrong_value_is_reported_at_its_field(reader: Reader) -> None:
    reader.field("prompt").fill("a hill")
    reader.unfold()
    reader.field("num_inference_steps").fill("99")
    reader.page.get_by_role("button", name="Generate").click()
    expect(reader.problem_of("num_inference_steps")).to_contain_text("less than or equal to 12")
    expect(reader.field("num_inference_steps")).to_be_focused()
    expect(reader.field("num_inference_steps")).to_have_attribute("aria-invalid", "true")
    reader.field("num_inference_steps").fill("3")
    reader.page.get_by_role("button", name="Generate").click()
    expect(reader.problem_of("num_inference_steps")).to_be_hidden()
    expect_images(reader.sheets.first, 1)


@pytest.mark.long
def test_a_wrong_value_in_a_folded_field_unfolds_it(reader: Reader) -> None:
    reader.unfold()
    reader.field("num_inference_steps").fill("99")
    reader.unfold()
    expect(reader.field("num_inference_steps")).to_be_hidden()
    reader.field("prompt").fill("a hill")
    reader.page.get_by_role("button", name="Generate").click()
    expect(reader.field("num_inference_steps")).to_be_visible()


@pytest.mark.long
def test_a_side_that_is_too_long_is_reported_at_the_size(reader: Reader) -> None:
    reader.field("image_size").select_option("own")
    reader.page.get_by_label("Width in pixels").fill("99999")
    reader.field("prompt").fill("a hill")
    reader.page.get_by_role("button", name="Generate").click()
    expect(reader.problem_of("image_size")).to_contain_text("width: ")


@pytest.mark.long
def test_a_field_that_only_the_pipeline_could_refuse_is_reported_at_it_too(reader: Reader) -> None:
    sheet = reader.generate("a bad seed")
    expect_phase(sheet, "failed")
    expect(sheet).to_contain_text("seed: This seed is unlucky.")
    expect(reader.problem_of("seed")).to_have_text("This seed is unlucky.")


@pytest.mark.long
def test_a_failure_of_any_type_is_reported_at_its_field(reader: Reader) -> None:
    sheet = reader.generate("a bad image")
    expect_phase(sheet, "failed")
    expect(reader.problem_of("image_size")).to_have_text("This file is not an image.")
    expect(reader.field("image_size")).to_have_attribute("aria-invalid", "true")


def follow_inputs(reader: Reader) -> list[dict[str, Any]]:
    """Inputs that the page submits from now on."""
    seen: list[dict[str, Any]] = []

    def note(request: Request) -> None:
        if request.method == "POST" and "/queue/" in request.url:
            seen.append(request.post_data_json)

    reader.page.on("request", note)
    return seen


def test_a_result_that_is_used_again_comes_out_the_same(reader: Reader) -> None:
    sheet = reader.generate("a hill")
    expect_images(sheet, 1)
    seen = follow_inputs(reader)
    sheet.get_by_role("button", name="Use again").click()
    expect(reader.field("seed")).to_have_value("1234567")
    reader.page.get_by_role("button", name="Generate").click()
    expect(reader.sheets).to_have_count(2)
    assert seen == [{"prompt": "a hill", "seed": 1234567}]


@pytest.mark.long
def test_a_result_can_be_varied_and_multiplied_with_other_seeds(reader: Reader) -> None:
    reader.unfold()
    sheet = reader.generate("a hill", seed=7)
    expect_images(sheet, 1)
    seen = follow_inputs(reader)
    sheet.get_by_role("button", name="Vary").click()
    expect(reader.sheets).to_have_count(2)
    sheet.get_by_role("button", name="× 4").click()
    expect(reader.sheets).to_have_count(3)
    expect_images(reader.sheets.first, 4)
    assert seen == [{"prompt": "a hill"}, {"prompt": "a hill", "num_images": 4}]


@pytest.mark.long
@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (413, '{"detail": "The body is larger than the 16777216 bytes."}', "Use smaller files"),
        (413, "<html><h1>413 Request Entity Too Large", "Use smaller files"),  # as nginx does
        (403, "<html><h1>403 Forbidden", "A proxy answered 403."),
    ],
)
def test_a_request_that_darkroom_or_a_proxy_refuses_says_so_in_words(
    reader: Reader, status: int, body: str, words: str
) -> None:
    reader.page.route("**/queue/fal-ai/**", lambda route: route.fulfill(status=status, body=body))
    reader.field("prompt").fill("a hill")
    reader.page.get_by_role("button", name="Generate").click()
    expect(reader.page.locator("#form-problem")).to_contain_text(words)


@pytest.mark.long
def test_a_prompt_that_is_missing_is_asked_for(reader: Reader) -> None:
    reader.page.get_by_role("button", name="Generate").click()
    expect(reader.problem_of("prompt")).to_have_text("This field is required.")
    expect(reader.field("prompt")).to_be_focused()


@pytest.mark.long
def test_a_seed_of_64_bits_arrives_with_all_its_digits_and_comes_back_so(reader: Reader) -> None:
    seed = "18446744073709551557"
    reader.unfold()
    sheet = reader.generate("a hill", seed=seed)
    expect(sheet.get_by_role("button", name=f"Whole seed {seed}")).to_be_visible()
    sheet.get_by_role("button", name="Use again").click()
    expect(reader.field("seed")).to_have_value(seed)


@pytest.mark.long
def test_an_endpoint_that_takes_any_object_is_given_json(reader: Reader) -> None:
    reader.choose(PROBE)
    box = reader.page.get_by_label("Input", exact=True)
    box.fill("{echo: 1}")
    reader.page.get_by_role("button", name="Generate").click()
    expect(reader.page.get_by_text("This is not JSON")).to_be_visible()
    box.fill('{"echo": {"a": [1, 12345678901234567890]}}')
    reader.page.get_by_role("button", name="Generate").click()
    expect_phase(reader.sheets.first, "succeeded")
    expect(reader.sheets.first.locator("pre")).to_contain_text("12345678901234567890")


@pytest.mark.long
def test_what_was_written_stays_when_the_model_changes(reader: Reader) -> None:
    reader.field("prompt").fill("a hill")
    reader.choose(PROBE)
    reader.choose(FLUX)
    expect(reader.field("prompt")).to_have_value("a hill")


@pytest.mark.long
def test_a_demo_model_is_named_as_such(reader: Reader) -> None:
    expect(reader.page.locator("#model-demo")).to_contain_text("tiny demo model replaces")
    sheet = reader.generate("a hill")
    expect(sheet.get_by_text("demo model")).to_be_visible()


def test_a_reload_shows_again_what_this_tab_made_and_goes_on_with_what_runs(
    waiting: Reader, page: Page
) -> None:
    waiting.generate("first")
    page.reload()
    expect(waiting.sheets).to_have_count(1)
    waiting.darkroom.start_painting()
    expect_images(waiting.sheets.first, 1)
    page.reload()
    expect_images(waiting.sheets.first, 1)
