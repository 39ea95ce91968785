"""Files and LoRAs in the form."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, Request, Route, expect

from tests.ingress.api.test_loras import safetensors
from tests.page.painter import image
from tests.page.reader import Reader
from tests.page.test_form import fill_required, refuse, strange, submit_form  # noqa: F401 a fixture

SAFE = "lines.safetensors"


@pytest.fixture
def reader(strange: Reader) -> Reader:  # noqa: F811 the fixture of that name
    fill_required(strange)
    strange.unfold()
    return strange


def test_a_chosen_file_is_named_with_its_size_and_its_picture(
    reader: Reader, tmp_path: Path
) -> None:
    file = tmp_path / "hill.png"
    file.write_bytes(image(300, 200, 1, "image/png"))
    reader.page.get_by_label("Image: choose a file").set_input_files(file)
    chosen = reader.page.locator(".media-chosen").first
    expect(chosen).to_contain_text("hill.png")
    expect(chosen).to_contain_text("KB")
    expect(chosen.locator("img")).to_be_visible()
    expect(reader.field("image_url")).to_be_hidden()
    expect(reader.page.get_by_text("No file chosen")).to_have_count(0)


@pytest.mark.long
def test_a_file_of_another_kind_is_refused_at_once(reader: Reader, tmp_path: Path) -> None:
    text = tmp_path / "README.md"
    text.write_text("# No mask")
    reader.page.get_by_label("Mask: choose a file").set_input_files(text)
    expect(reader.page.get_by_text("README.md is not an image.")).to_be_visible()
    assert "mask_url" not in submit_form(reader)


def test_a_large_file_is_uploaded_with_its_progress_and_sent_as_an_address(
    reader: Reader, tmp_path: Path
) -> None:
    file = tmp_path / "large.png"
    content = image(8, 8, 1, "image/png") + bytes(3_000_000)
    file.write_bytes(content)
    seen: list[str] = []

    def note(words: str) -> None:  # Playwright takes no built-in method
        seen.append(words)

    reader.page.expose_function("seen", note)
    reader.page.evaluate(
        """() => new MutationObserver(() => {
            const words = document.querySelector(".media-state")?.textContent;
            if (words) seen(words);
        }).observe(document.body, { subtree: true, childList: true, characterData: true })"""
    )
    reader.page.get_by_label("Image: choose a file").set_input_files(file)
    expect(reader.page.locator(".media-state").first).to_have_text("3.0 MB")
    assert any("uploading" in text for text in seen)
    address = submit_form(reader)["image_url"]
    assert address.startswith(f"{reader.darkroom.url}/files/")
    stored = reader.darkroom.house.storage.objects
    assert content in stored.values()


@pytest.mark.long
def test_small_files_that_are_large_together_are_uploaded(reader: Reader, tmp_path: Path) -> None:
    places = reader.page.locator(".media-state")
    for at, title in enumerate(("Image", "Mask")):
        file = tmp_path / f"{title}.png"
        file.write_bytes(image(8, 8, at, "image/png") + bytes(1_500_000))
        reader.page.get_by_label(f"{title}: choose a file").set_input_files(file)
        expect(places.nth(at)).to_have_text("1.5 MB")
    input_ = submit_form(reader)
    assert input_["image_url"].startswith("data:image/png")
    assert input_["mask_url"].startswith(f"{reader.darkroom.url}/files/")


@pytest.mark.long
def test_a_file_that_was_removed_leaves_room_in_the_request(reader: Reader, tmp_path: Path) -> None:
    for name in ("first.png", "second.png"):
        file = tmp_path / name
        file.write_bytes(image(8, 8, 1, "image/png") + bytes(1_500_000))
        reader.page.get_by_label("Image: choose a file").set_input_files(file)
        expect(reader.page.locator(".media-state").first).to_have_text("1.5 MB")
        if name == "first.png":
            reader.page.get_by_role("button", name="Remove first.png").click()
    assert submit_form(reader)["image_url"].startswith("data:image/png")


@pytest.mark.long
def test_a_large_request_has_more_time(reader: Reader) -> None:
    reader.page.evaluate(
        """() => {
            const { timeout } = AbortSignal;
            window.times = [];
            AbortSignal.timeout = (ms) => times.push(ms) && timeout.call(AbortSignal, ms);
        }"""
    )
    reader.field("prompt").fill("a hill " * 300_000)
    submit_form(reader)
    assert max(reader.page.evaluate("times")) > 120_000


@pytest.mark.long
def test_generate_waits_for_a_file_that_is_being_uploaded(reader: Reader, tmp_path: Path) -> None:
    file = tmp_path / "hill.png"
    file.write_bytes(bytes(3_000_000))
    routes: list[Route] = []

    def hold(route: Route) -> None:
        routes.append(route)

    reader.page.route("**/files/**", hold)
    generate = reader.page.get_by_role("button", name="Generate")
    with reader.page.expect_request("**/files/**"):
        reader.page.get_by_label("Image: choose a file").set_input_files(file)
    reader.page.route("**/queue/some/model", refuse)
    with reader.page.expect_request("**/queue/some/model") as submitting:
        generate.click()
        expect(generate).to_have_attribute("aria-busy", "true")
        routes[0].continue_()
    assert "/files/" in submitting.value.post_data_json["image_url"]


@pytest.fixture
def upload_routes(reader: Reader, tmp_path: Path) -> list[Route]:
    """A large image in the form whose upload waits until the test continues it."""
    file = tmp_path / "hill.png"
    file.write_bytes(bytes(3_000_000))
    routes: list[Route] = []

    def hold(route: Route) -> None:
        routes.append(route)

    reader.page.route("**/files/**", hold)
    with reader.page.expect_request("**/files/**"):
        reader.page.get_by_label("Image: choose a file").set_input_files(file)
    return routes


def submissions(page: Page) -> list[str]:
    """URLs that the page submits to from now on. They are refused."""
    urls: list[str] = []

    def note(route: Route) -> None:
        urls.append(route.request.url)
        refuse(route)

    page.route("**/queue/**", note)
    return urls


@pytest.mark.long
def test_generate_that_is_pressed_again_during_an_upload_submits_one_request(
    reader: Reader, upload_routes: list[Route]
) -> None:
    urls = submissions(reader.page)
    generate = reader.page.get_by_role("button", name="Generate")
    generate.click()
    generate.click()
    reader.page.keyboard.press("Control+Enter")
    upload_routes[0].continue_()
    expect(reader.page.locator("#form-problem")).to_have_text("Not now.")
    expect(generate).not_to_have_attribute("aria-busy", "true")
    assert len(urls) == 1


@pytest.mark.long
def test_an_upload_that_is_refused_says_why_and_is_not_sent(reader: Reader, tmp_path: Path) -> None:
    file = tmp_path / "large.png"
    file.write_bytes(bytes(3_000_000))
    reader.page.route("**/files/**", lambda route: route.fulfill(status=413, body="{}"))
    reader.page.get_by_label("Image: choose a file").set_input_files(file)
    expect(reader.page.locator(".media-state.bad")).to_contain_text("larger than this Darkroom")
    reader.page.get_by_role("button", name="Generate").click()
    expect(reader.problem_of("image_url")).to_contain_text("larger than this Darkroom")


@pytest.mark.long
def test_an_upload_that_stalls_ends_and_can_be_tried_again(reader: Reader, tmp_path: Path) -> None:
    page = reader.page
    page.clock.install()
    file = tmp_path / "hill.png"
    file.write_bytes(bytes(3_000_000))
    unanswered: list[Route] = []

    def hold(route: Route) -> None:
        unanswered.append(route)

    page.route("**/files/**", hold)
    with page.expect_request("**/files/**"):
        page.get_by_label("Image: choose a file").set_input_files(file)
    page.clock.run_for(200_000)  # Chromium may have sent all, and waits for the response
    expect(page.locator(".media-state.bad")).to_contain_text(re.compile("stalled|not answer"))
    page.unroute("**/files/**")
    page.get_by_role("button", name="Try again: hill.png").click()
    expect(page.locator(".media-state").first).to_have_text("3.0 MB")
    expect(page.get_by_role("button", name="Remove hill.png")).to_be_focused()
    assert "/files/" in submit_form(reader)["image_url"]


@pytest.fixture
def parts(reader: Reader) -> list[str]:
    """Numbers of the parts of files whose upload the page begins."""
    numbers: list[str] = []

    def note(request: Request) -> None:
        if "/multipart/" in request.url and request.method == "PUT":
            numbers.append(request.url.rpartition("/")[2])

    reader.page.on("request", note)
    return numbers


@pytest.fixture
def three_parts(tmp_path: Path) -> Path:
    """An image that is uploaded in three parts, of which the third is small."""
    file = tmp_path / "hill.png"
    file.write_bytes(image(8, 8, 1, "image/png") + bytes(16_800_000))
    return file


@pytest.mark.long
def test_a_part_of_a_file_that_is_interrupted_is_sent_again_by_itself(
    reader: Reader, three_parts: Path, parts: list[str]
) -> None:
    reader.page.route("**/multipart/*/3", lambda route: route.abort(), times=1)
    reader.page.get_by_label("Image: choose a file").set_input_files(three_parts)
    expect(reader.page.locator(".media-state").first).to_have_text("16.8 MB")
    assert parts == ["1", "2", "3", "3"]
    assert "/files/" in submit_form(reader)["image_url"]
    assert three_parts.read_bytes() in reader.darkroom.house.storage.objects.values()


def test_a_failed_upload_goes_on_with_the_parts_that_are_missing(
    reader: Reader, three_parts: Path, parts: list[str]
) -> None:
    reader.page.route("**/multipart/*/3", lambda route: route.abort())
    reader.page.get_by_label("Image: choose a file").set_input_files(three_parts)
    expect(reader.page.locator(".media-state.bad")).to_contain_text("interrupted")
    reader.page.unroute("**/multipart/*/3")
    parts.clear()
    reader.page.get_by_role("button", name="Try again: hill.png").click()
    expect(reader.page.locator(".media-state").first).to_have_text("16.8 MB")
    assert parts == ["3"]
    assert three_parts.read_bytes() in reader.darkroom.house.storage.objects.values()


def test_loras_are_rows_with_a_place_and_a_scale(reader: Reader) -> None:
    add = reader.page.get_by_role("button", name="Add LoRA")
    add.click()
    first = reader.page.get_by_role("group", name="LoRA 1")
    first.get_by_label("Path", exact=True).fill("house/lines")
    first.get_by_label("Scale, slider").fill("0.5")
    add.click()
    second = reader.page.get_by_role("group", name="LoRA 2")
    second.get_by_label("Path", exact=True).fill("https://example.org/a.safetensors")
    expect(add).to_be_disabled()
    assert submit_form(reader)["loras"] == [
        {"path": "house/lines", "scale": 0.5},
        {"path": "https://example.org/a.safetensors"},
    ]
    first.get_by_role("button", name="Remove this LoRA").click()
    assert submit_form(reader)["loras"] == [{"path": "https://example.org/a.safetensors"}]


@pytest.mark.long
def test_a_lora_may_be_a_local_file(reader: Reader, tmp_path: Path) -> None:
    file = tmp_path / SAFE
    file.write_bytes(b"weights")
    reader.page.get_by_role("button", name="Add LoRA").click()
    row = reader.page.get_by_role("group", name="LoRA 1")
    row.get_by_label("Path: choose a file").set_input_files(file)
    expect(row).to_contain_text(SAFE)
    path = submit_form(reader)["loras"][0]["path"]
    assert path.startswith(f"{reader.darkroom.url}/files/")
    assert path.endswith(f"/{SAFE}")
    row.get_by_role("button", name=f"Remove {SAFE}").click()
    reader.page.get_by_role("button", name="Generate").click()
    expect(reader.problem_of("loras")).to_have_text("LoRA 1, path: This is required.")


@pytest.mark.long
def test_the_trigger_words_of_a_local_lora_join_the_prompt(reader: Reader, tmp_path: Path) -> None:
    file = tmp_path / SAFE
    file.write_bytes(safetensors({"modelspec.trigger_phrase": "inkline, thin ink"}))
    reader.page.get_by_role("button", name="Add LoRA").click()
    row = reader.page.get_by_role("group", name="LoRA 1")
    row.get_by_label("Path: choose a file").set_input_files(file)
    row.get_by_role("button", name="thin ink").click()
    row.get_by_role("button", name="thin ink").click()
    expect(reader.field("prompt")).to_have_value("a hill, thin ink")


@pytest.mark.long
def test_an_uploaded_lora_can_be_found_and_chosen_again(reader: Reader, tmp_path: Path) -> None:
    file = tmp_path / SAFE
    file.write_bytes(safetensors({"ss_tag_frequency": '{"1_x": {"hill": 1, "inkline": 5}}'}))
    add = reader.page.get_by_role("button", name="Add LoRA")
    add.click()
    first = reader.page.get_by_role("group", name="LoRA 1")
    first.get_by_label("Path: choose a file").set_input_files(file)
    expect(first.get_by_role("group", name="Trigger words")).to_have_text("inklinehill")
    first.get_by_role("button", name="Remove this LoRA").click()
    add.click()
    first.get_by_label("Path", exact=True).fill("house/waves")
    add.click()
    second = reader.page.get_by_role("group", name="LoRA 2")
    second.get_by_role("button", name="Choose a LoRA").click()
    menu = reader.page.get_by_role("dialog", name="Choose a LoRA")
    expect(menu.get_by_role("button", name="waves")).to_be_visible()
    menu.get_by_label("Search LoRAs").fill("INKline")
    expect(menu.get_by_role("button", name="waves")).to_have_count(0)
    menu.get_by_role("button", name="lines").click()
    expect(second.get_by_role("group", name="Trigger words")).to_have_text("inklinehill")
    paths = [entry["path"] for entry in submit_form(reader)["loras"]]
    assert paths[0] == "house/waves"
    assert paths[1].endswith(f"/{SAFE}")


def lora(path: str, name: str, *words: str) -> dict[str, Any]:
    """LoRA as ``/v1/loras`` has it."""
    about = {"size": 1000, "base_model": "flux", "created_at": "2026-01-01T00:00:00Z"}
    return {"path": path, "name": name, "trigger_words": list(words), "expires_at": None, **about}


@pytest.mark.long
def test_a_registered_lora_beyond_the_first_hundred_is_found_and_shows_its_trigger_words(
    reader: Reader,
) -> None:
    first = [lora(f"weights:style-{at}", f"style-{at}") for at in range(100)]
    old = lora("weights:inkline", "inkline", "thin ink")

    def answer(route: Route) -> None:
        searched = "q=inkline" in route.request.url
        route.fulfill(json={"loras": [old] if searched else first})

    reader.page.route("**/v1/loras?*", answer)
    add = reader.page.get_by_role("button", name="Add LoRA")
    add.click()
    row = reader.page.get_by_role("group", name="LoRA 1")
    row.get_by_role("button", name="Choose a LoRA").click()
    menu = reader.page.get_by_role("dialog", name="Choose a LoRA")
    expect(menu.get_by_role("button", name="style-99")).to_be_visible()
    menu.get_by_label("Search LoRAs").fill("inkline")
    menu.get_by_role("button", name="inkline").click()
    expect(row.get_by_label("Path", exact=True)).to_have_value("weights:inkline")
    expect(row.get_by_role("group", name="Trigger words")).to_have_text("thin ink")
    reader.page.reload()
    expect(row.get_by_role("group", name="Trigger words")).to_have_text("thin ink")


@pytest.mark.long
def test_a_lora_that_was_uploaded_since_the_last_choice_can_be_chosen(
    reader: Reader, tmp_path: Path
) -> None:
    page = reader.page
    page.get_by_role("button", name="Add LoRA").click()
    row = page.get_by_role("group", name="LoRA 1")
    choose = row.get_by_role("button", name="Choose a LoRA")
    menu = page.get_by_role("dialog", name="Choose a LoRA")
    choose.click()
    expect(menu).to_contain_text("None yet.")
    page.keyboard.press("Escape")
    file = tmp_path / SAFE
    file.write_bytes(safetensors({}))
    row.get_by_label("Path: choose a file").set_input_files(file)
    expect(row.locator(".media-state")).to_contain_text("B")
    row.get_by_role("button", name=f"Remove {SAFE}").click()
    choose.click()
    expect(menu.get_by_role("button", name="lines")).to_be_visible()


@pytest.mark.long
def test_a_lora_that_the_server_refuses_is_named(reader: Reader) -> None:
    reader.page.get_by_role("button", name="Add LoRA").click()
    row = reader.page.get_by_role("group", name="LoRA 1")
    row.get_by_label("Path", exact=True).fill("nonsense")
    problem = {"loc": ["body", "loras", 0, "path"], "msg": "Not found.", "type": "x"}
    reader.page.route(
        "**/queue/some/model",
        lambda route: route.fulfill(status=422, json={"detail": [problem]}),
    )
    reader.page.get_by_role("button", name="Generate").click()
    expect(reader.problem_of("loras")).to_have_text("LoRA 1, path: Not found.")


@pytest.mark.long
def test_loras_stay_over_a_reload(reader: Reader) -> None:
    reader.page.get_by_role("button", name="Add LoRA").click()
    row = reader.page.get_by_role("group", name="LoRA 1")
    row.get_by_label("Path", exact=True).fill("house/lines")
    reader.page.reload()
    expect(row.get_by_label("Path", exact=True)).to_have_value("house/lines")


@pytest.mark.long
def test_numbers_of_a_list_that_are_none_are_named(reader: Reader) -> None:
    reader.field("seeds").fill("1, two")
    reader.page.get_by_role("button", name="Generate").click()
    expect(reader.problem_of("seeds")).to_have_text("“two” is not a whole number.")


@pytest.mark.long
def test_texts_of_a_list_stand_in_lines_and_may_have_commas(reader: Reader) -> None:
    reader.field("tags").fill("fog, at dawn\n\n  a pier  \n")
    assert submit_form(reader)["tags"] == ["fog, at dawn", "a pier"]
    reader.page.reload()
    expect(reader.field("tags")).to_have_value("fog, at dawn\na pier")
    reader.field("tags").fill("1\n2\n3\n4")
    reader.page.get_by_role("button", name="Generate").click()
    expect(reader.problem_of("tags")).to_have_text("At most 3 are possible.")


@pytest.mark.long
def test_of_several_files_for_one_place_the_first_is_taken_and_that_is_said(
    reader: Reader,
) -> None:
    dropped = reader.page.evaluate_handle(
        """() => {
            const given = new DataTransfer();
            for (const name of ["hill.png", "lake.png"])
                given.items.add(new File(["x"], name, { type: "image/png" }));
            return given;
        }"""
    )
    place = reader.page.locator(".field.media", has=reader.field("image_url"))
    place.locator(".media").dispatch_event("drop", {"dataTransfer": dropped})
    expect(place.locator(".media-chosen")).to_contain_text("hill.png")
    expect(place).to_contain_text("One file fits here: hill.png was taken.")


@pytest.mark.long
def test_an_image_that_is_removed_leaves_the_memory(reader: Reader, tmp_path: Path) -> None:
    file = tmp_path / "hill.png"
    file.write_bytes(image(300, 200, 1, "image/png"))
    reader.page.get_by_label("Image: choose a file").set_input_files(file)
    shown = reader.page.locator(".media-chosen img").first.get_attribute("src")
    script = """address => {
        const image = new Image();
        image.src = address;
        return image.decode().then(() => true, () => false);
    }"""
    assert reader.page.evaluate(script, shown)
    reader.page.get_by_role("button", name="Remove hill.png").click()
    assert not reader.page.evaluate(script, shown)
