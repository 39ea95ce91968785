"""View of the models: cards with filters, and a page for each model."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import BrowserContext, Locator, Page, Route, expect

from serve_app.catalog.catalog import load
from tests.ingress.house import DEMO
from tests.page.axe import look
from tests.page.darkroom import PageDarkroom, page_darkroom
from tests.page.operator import REPLICA, give_pool
from tests.page.reader import FLUX, Reader, expect_images
from tests.page.test_reuse import CHANGES, offer

OpenContext = Callable[..., BrowserContext]

MODELS = load(Path(__file__).with_name("models.yaml"), demo=True, demo_dir=DEMO)


@pytest.fixture
def installation() -> Iterator[PageDarkroom]:
    """Darkroom with three models, of which a replica holds one and one is not served."""
    with page_darkroom(catalog=MODELS) as darkroom:
        replicas = give_pool(darkroom)
        replicas[:] = [{**REPLICA, "hot": [FLUX], "loading": []}]
        yield darkroom


def models_of(reader: Reader) -> Locator:
    reader.page.get_by_role("link", name="Models").click()
    cards = reader.page.locator(".card")
    expect(cards).to_have_count(3)
    return cards


def test_cards_say_what_a_model_makes_and_where_its_weights_are(reader: Reader) -> None:
    cards = models_of(reader)
    flux = cards.filter(has_text="FLUX.1 [schnell]")
    for words in ("Text to image", "Apache-2.0", "Hot", "Demo"):
        expect(flux).to_contain_text(words)
    expect(flux.locator("img")).to_have_attribute("src", re.compile("/page/icon.svg$"))
    expect(cards.filter(has_text="Portraits")).to_contain_text("Cold")
    away = reader.page.locator(".group.away")
    expect(away).to_contain_text("Not served here")
    expect(away).to_contain_text("A model without its demo")
    expect(away).to_contain_text("from 24 GB of GPU memory")


def test_words_kind_and_state_narrow_the_list_and_stay_in_the_address(reader: Reader) -> None:
    cards = models_of(reader)
    page = reader.page
    page.get_by_label("Search").fill("portr")
    expect(cards).to_have_count(1)
    expect(page.get_by_text("1 of 3 models")).to_be_visible()
    cards.get_by_role("link").click()
    expect(page.get_by_role("heading", name="Portraits")).to_be_focused()
    page.go_back()
    expect(page.get_by_label("Search")).to_have_value("portr")
    expect(cards).to_have_count(1)
    expect(cards.get_by_role("link")).to_be_focused()
    page.get_by_label("Search").fill("")
    page.get_by_label("State").select_option("Hot")
    expect(cards).to_have_count(1)
    expect(cards).to_contain_text("FLUX.1")
    page.get_by_label("State").select_option("Any state")
    page.get_by_role("button", name="Images").click()
    expect(cards).to_have_count(3)
    page.reload()
    expect(page.get_by_role("button", name="Images")).to_have_attribute("aria-pressed", "true")


def test_a_page_of_a_model_shows_its_readme_its_schema_and_its_recipes(reader: Reader) -> None:
    models_of(reader).filter(has_text="FLUX.1 [schnell]").get_by_role("link").click()
    page = reader.page
    about = page.get_by_role("region", name="About")
    expect(about.get_by_role("heading", name="What it knows")).to_be_visible()
    expect(about.get_by_role("listitem").first).to_have_text("words such as red")
    expect(about.locator("pre")).to_contain_text("client.submit")
    expect(about.get_by_role("link")).to_have_count(1)  # the other one is no web page
    expect(about).to_contain_text("<script>document.title='broken'</script>")
    steps = page.get_by_role("table", name="Input").get_by_role("row", name="num_inference_steps")
    expect(steps).to_contain_text("whole number, 1 to 12")
    expect(steps).to_contain_text("4")
    prompt = page.get_by_role("table", name="Input").get_by_role("row", name="prompt required")
    expect(prompt).to_contain_text("Description of the image.")
    expect(page.get_by_role("table", name="Output")).to_contain_text("images[].url")
    expect(page.get_by_role("region", name="On the replicas")).to_contain_text("10.0.0.7: hot")
    expect(page.get_by_text("Free; usage is counted in megapixels")).to_be_visible()
    assert page.title() == "Darkroom"


def test_a_model_that_is_not_served_says_why_and_cannot_be_tried(reader: Reader) -> None:
    models_of(reader).filter(has_text="without its demo").get_by_role("link").click()
    page = reader.page
    expect(page.locator(".model-head")).to_contain_text("Not served")
    expect(page.get_by_role("table", name="Memory")).to_contain_text("float8")
    expect(page.get_by_role("button", name="Try it")).to_have_count(0)


@pytest.mark.long
def test_the_state_of_a_model_follows_what_the_replicas_hold(
    reader: Reader, installation: PageDarkroom
) -> None:
    replicas = give_pool(installation)
    reader.page.goto(f"{installation.url}/#view=models&id={FLUX}")
    state = reader.page.locator(".model-head .standing")
    expect(state).to_contain_text("Cold")
    replicas[:] = [{**REPLICA, "hot": ["test/probe", FLUX], "loading": []}]
    expect(state).to_contain_text("Hot")
    expect(reader.page.get_by_role("region", name="On the replicas")).to_contain_text(": hot")


@pytest.mark.long
def test_an_example_fills_the_form(reader: Reader) -> None:
    reader.choose("house/portraits")
    models_of(reader).filter(has_text="FLUX.1 [schnell]").get_by_role("link").click()
    reader.page.get_by_role("button", name="Try it: a red circle on white").click()
    expect(reader.page.get_by_role("button", name="Generate")).to_be_visible()
    expect(reader.page.get_by_label("Model", exact=True)).to_have_value(FLUX)
    expect(reader.field("prompt")).to_have_value("a red circle on white")
    expect(reader.field("num_images").last).to_have_value("2")


@pytest.mark.long
def test_to_try_a_model_without_examples_keeps_what_was_typed(reader: Reader) -> None:
    reader.field("prompt").fill("a lighthouse in the fog")
    models_of(reader).filter(has_text="Portraits").get_by_role("link").click()
    reader.page.get_by_role("button", name="Try it").click()
    expect(reader.page.get_by_label("Model", exact=True)).to_have_value("house/portraits")
    expect(reader.field("prompt")).to_have_value("a lighthouse in the fog")
    expect(reader.page.get_by_role("button", name="Undo")).to_have_count(0)


@pytest.mark.long
def test_an_example_that_replaces_what_was_typed_can_be_undone(reader: Reader) -> None:
    reader.choose("house/portraits")
    reader.unfold()
    reader.field("prompt").fill("a lighthouse in the fog")
    reader.field("seed").fill("12")
    models_of(reader).filter(has_text="FLUX.1 [schnell]").get_by_role("link").click()
    reader.page.get_by_role("button", name="Try it: a red circle on white").click()
    expect(reader.field("prompt")).to_have_value("a red circle on white")
    reader.page.get_by_role("button", name="Undo").click()
    expect(reader.page.get_by_label("Model", exact=True)).to_have_value("house/portraits")
    expect(reader.field("prompt")).to_have_value("a lighthouse in the fog")
    expect(reader.field("prompt")).to_be_focused()
    reader.page.reload()
    expect(reader.field("prompt")).to_have_value("a lighthouse in the fog")
    expect(reader.field("seed")).to_have_value("12")


@pytest.mark.long
def test_what_was_submitted_is_replaced_without_an_offer_to_undo(reader: Reader) -> None:
    expect_images(reader.generate("a lighthouse"), 1)
    models_of(reader).filter(has_text="FLUX.1 [schnell]").get_by_role("link").click()
    reader.page.get_by_role("button", name="Try it: a red circle on white").click()
    expect(reader.field("prompt")).to_have_value("a red circle on white")
    expect(reader.page.get_by_role("button", name="Undo")).to_have_count(0)


@pytest.mark.long
def test_examples_play_their_audio_and_their_videos(reader: Reader) -> None:
    models_of(reader).filter(has_text="FLUX.1 [schnell]").get_by_role("link").click()
    examples = reader.page.get_by_role("region", name="Examples")
    expect(examples.get_by_role("img", name="a red circle on white")).to_be_visible()
    bell = examples.get_by_label("a bell", exact=True)
    expect(bell).to_have_attribute("src", f"{reader.darkroom.url}/page/bell.wav")
    expect(bell).to_have_attribute("controls", "")
    wave = examples.get_by_label("a wave", exact=True)
    expect(wave).to_have_attribute("src", f"{reader.darkroom.url}/page/wave.mp4")
    expect(wave).to_have_attribute("poster", f"{reader.darkroom.url}/page/examples/wan-1.webp")


def trial_of(reader: Reader, name: str) -> Locator:
    models_of(reader).filter(has_text=name).get_by_role("link").click()
    return reader.page.get_by_role("region", name="Try it here")


@pytest.mark.long
def test_a_request_is_made_on_the_page_of_its_model_and_back_leads_there(reader: Reader) -> None:
    reader.choose("house/portraits")
    reader.field("prompt").fill("a lighthouse in the fog")
    trial = trial_of(reader, "FLUX.1 [schnell]")
    expect(trial.get_by_text("Next in line.")).to_be_visible()
    trial.get_by_label("Prompt").fill("a blue square")
    trial.get_by_role("button", name="Generate").click()
    sheet = reader.sheets.first
    expect(sheet).to_contain_text("a blue square")
    expect_images(sheet, 2)  # as in the example
    # What was entered in the form of another model is still there.
    expect(reader.page.get_by_label("Model", exact=True)).to_have_value("house/portraits")
    expect(reader.field("prompt")).to_have_value("a lighthouse in the fog")
    reader.page.go_back()
    expect(trial.get_by_label("Prompt")).to_have_value("a blue square")
    expect(trial.locator("form .help").last).not_to_be_empty()  # what it will take


@pytest.mark.long
def test_a_model_is_tried_while_a_file_of_the_form_for_creating_is_uploaded(
    reader: Reader, tmp_path: Path
) -> None:
    offer(reader.page, CHANGES)
    reader.page.reload()
    reader.choose("some/changes")
    reader.page.route("**/files/**", lambda _: None)  # the upload goes on
    (tmp_path / "hill.png").write_bytes(bytes(3_000_000))
    with reader.page.expect_request("**/files/**"):
        chooser = reader.page.get_by_label("Image: choose a file")
        chooser.set_input_files(tmp_path / "hill.png")
    # The view shows more of a model than is offered.
    reader.page.unroute("**/v1/models?*")
    reader.page.get_by_role("link", name="Models").click()
    card = reader.page.locator(".card").filter(has_text="FLUX.1 [schnell]")
    card.get_by_role("link").click()
    trial = reader.page.get_by_role("region", name="Try it here")
    trial.get_by_label("Prompt").fill("a blue square")
    # Before the upload is given up: it has 30 seconds.
    with reader.page.expect_request("**/queue/fal-ai/flux/schnell", timeout=20_000):
        trial.get_by_role("button", name="Generate").click()


@pytest.mark.long
def test_a_model_is_tried_while_the_form_for_creating_waits_for_a_lost_answer(
    reader: Reader,
) -> None:
    def lose(route: Route) -> None:
        is_lost = route.request.method == "POST" and "a hill" in (route.request.post_data or "")
        route.abort() if is_lost else route.continue_()

    reader.page.route("**/queue/**", lose)
    reader.field("prompt").fill("a hill")
    reader.page.get_by_role("button", name="Generate").click()
    expect(reader.page.get_by_text("The page tries again")).to_be_visible()
    trial = trial_of(reader, "FLUX.1 [schnell]")
    trial.get_by_label("Prompt").fill("a blue square")
    trial.get_by_role("button", name="Generate").click()
    expect_images(reader.sheets.first, 2)
    expect(reader.page.get_by_text("The page tries again")).to_be_visible()
    reader.page.get_by_role("button", name="Stop", exact=True).click()


def test_the_page_of_a_model_shows_the_form_as_json_and_as_programs(reader: Reader) -> None:
    trial = trial_of(reader, "FLUX.1 [schnell]")
    trial.get_by_label("Prompt").fill("a blue square")
    for tab, words in [
        ("Python", "fal_client"),
        ("JavaScript", "@fal-ai/client"),
        ("curl", "curl"),
        ("HTTP queue", "/queue/"),
        ("OpenAI", "openai"),
        ("Replicate", "replicate"),
        ("MCP", "mcp"),
    ]:
        trial.get_by_role("button", name=tab, exact=True).click()
        expect(trial.locator("pre")).to_contain_text(words)
        if tab != "MCP":
            expect(trial.locator("pre")).to_contain_text("a blue square")
    trial.get_by_role("button", name="JSON", exact=True).click()
    box = trial.get_by_label("Input as JSON")
    expect(box).to_have_value(re.compile('"a blue square"'))
    box.fill('{"prompt": "a green star"')
    trial.get_by_role("button", name="Use in the form").click()
    expect(trial.get_by_role("alert")).to_contain_text("This is not JSON")
    box.fill('{"prompt": "a green star"}')
    trial.get_by_role("button", name="curl", exact=True).click()
    trial.get_by_role("button", name="JSON", exact=True).click()
    expect(box).to_have_value(re.compile("a green star"))  # what was changed stays
    trial.get_by_role("button", name="Use in the form").click()
    expect(trial.get_by_label("Prompt")).to_have_value("a green star")


@pytest.mark.long
def test_the_form_of_a_model_s_page_names_the_field_that_is_wrong(reader: Reader) -> None:
    trial = trial_of(reader, "FLUX.1 [schnell]")
    trial.get_by_label("Prompt").fill("")
    trial.get_by_label("Prompt").press("Control+Enter")
    expect(trial.get_by_text("This field is required.")).to_be_visible()
    expect(trial.get_by_label("Prompt")).to_be_focused()


@pytest.mark.long
def test_the_form_of_a_model_s_page_begins_with_an_example(reader: Reader) -> None:
    trial = trial_of(reader, "FLUX.1 [schnell]")
    expect(trial.get_by_label("Prompt")).to_have_value("a red circle on white")


@pytest.mark.long
def test_the_code_of_a_model_is_shown_over_its_page(reader: Reader) -> None:
    models_of(reader).filter(has_text="FLUX.1 [schnell]").get_by_role("link").click()
    page = reader.page
    page.get_by_role("button", name="Code").click()
    expect(page.get_by_role("dialog")).to_contain_text(FLUX)
    page.keyboard.press("Escape")
    expect(page.get_by_role("heading", name="FLUX.1 [schnell]").first).to_be_visible()


@pytest.mark.long
def test_a_model_that_is_not_there_is_named(reader: Reader) -> None:
    reader.page.goto(f"{reader.darkroom.url}/#view=models&id=nobody/knows")
    expect(reader.page.get_by_role("alert")).to_contain_text("There is no model nobody/knows here.")
    reader.page.get_by_role("link", name="All models").click()
    expect(reader.page.locator(".card")).to_have_count(3)
    expect(reader.page.get_by_role("alert")).to_be_hidden()


def lose(page: Page, pattern: str) -> None:
    """Let the calls fail as if Darkroom could not be reached."""
    page.route(pattern, lambda route: route.abort())


@pytest.mark.long
def test_a_list_that_fails_late_leaves_the_page_of_a_model_alone(reader: Reader) -> None:
    page = reader.page
    unanswered: list[Route] = []

    def hold(route: Route) -> None:
        unanswered.append(route)

    page.route("**/v1/models?limit=100", hold)
    with page.expect_request("**/v1/models?limit=100"):
        page.get_by_role("link", name="Models").click()
    page.goto(f"{reader.darkroom.url}/#view=models&id={FLUX}")
    expect(page.get_by_role("table", name="Output")).to_be_visible()
    with page.expect_event("requestfailed"):
        unanswered[0].abort()
    with page.expect_response(lambda response: response.url.endswith("schnell")):
        pass  # the page goes on to read the state of its model
    expect(page.get_by_role("table", name="Output")).to_be_visible()
    expect(page.get_by_role("alert")).to_have_count(0)


@pytest.mark.long
def test_a_page_of_a_model_that_could_not_be_loaded_is_shown_when_darkroom_answers(
    reader: Reader,
) -> None:
    page = reader.page
    page.clock.install()
    lose(page, "**/v1/models?endpoint_id=*")
    page.goto(f"{reader.darkroom.url}/#view=models&id=house/portraits")
    expect(page.get_by_role("alert")).to_contain_text("Darkroom does not answer.")
    page.unroute("**/v1/models?endpoint_id=*")
    page.clock.run_for(6000)
    expect(page.get_by_role("heading", name="Portraits")).to_be_visible()
    expect(page.get_by_role("alert")).to_have_count(0)


@pytest.mark.long
def test_a_list_of_models_that_could_not_be_loaded_is_tried_again_by_the_user(
    reader: Reader,
) -> None:
    page = reader.page
    page.clock.install()
    lose(page, "**/v1/models?limit=100")
    page.get_by_role("link", name="Models").click()
    expect(page.get_by_role("alert")).to_contain_text("Darkroom does not answer.")
    page.unroute("**/v1/models?limit=100")
    page.get_by_role("alert").get_by_role("button", name="Try again").click()
    expect(page.locator(".card")).to_have_count(3)
    expect(page.get_by_role("alert")).to_have_count(0)


@pytest.mark.long
def test_a_tenant_s_key_sees_no_replicas_on_the_page_of_a_model(
    page: Page, installation: PageDarkroom
) -> None:
    page.goto(installation.url)
    Reader(page, installation).give_key(installation.house.weak_key)
    expect(page.get_by_role("button", name="Generate")).to_be_visible()
    page.goto(f"{installation.url}/#view=models&id={FLUX}")
    expect(page.get_by_role("table", name="Output")).to_be_visible()
    expect(page.get_by_role("region", name="On the replicas")).to_have_count(0)


@pytest.mark.long
def test_every_text_of_the_models_can_be_read_also_on_a_phone(
    open_context: OpenContext, installation: PageDarkroom
) -> None:
    phone = open_context(viewport={"width": 360, "height": 740}, has_touch=True)
    reader = Reader(phone.new_page(), installation)
    reader.enter()
    cards = models_of(reader)
    look(reader.page)
    cards.filter(has_text="FLUX.1 [schnell]").get_by_role("link").click()
    expect(reader.page.get_by_role("table", name="Output")).to_be_visible()
    look(reader.page)
