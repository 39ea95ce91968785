"""What a request will take, before it is submitted."""

from __future__ import annotations

from playwright.sync_api import expect

from tests.page.reader import FLUX, Reader, expect_images


def test_the_form_says_what_a_request_takes_once_one_has_run(reader: Reader) -> None:
    line = reader.page.locator("#estimate")
    expect_images(reader.generate("a hill"), 1)
    reader.field("prompt").fill("a lake")
    expect(line).to_contain_text("Takes about")


def test_the_form_says_that_a_paused_model_will_wait(reader: Reader) -> None:
    expect_images(reader.generate("a hill"), 1)
    paused = reader.page.request.put(
        f"{reader.darkroom.url}/v1/endpoints/{FLUX}/pause",
        headers={"authorization": f"Key {reader.darkroom.key}"},
    )
    assert paused.ok
    reader.field("prompt").fill("a lake")
    expect(reader.page.locator("#estimate")).to_contain_text("An operator has paused this model.")


def test_an_input_that_is_not_complete_has_no_estimate(reader: Reader) -> None:
    expect_images(reader.generate("a hill"), 1)
    line = reader.page.locator("#estimate")
    reader.field("prompt").fill("a lake")
    expect(line).to_contain_text("Takes about")
    with reader.page.expect_response("**/v1/estimate") as answer:
        reader.field("prompt").fill("")
    assert answer.value.status == 422
    expect(line).to_be_empty()


def test_a_file_in_the_input_is_not_sent_to_be_estimated(reader: Reader) -> None:
    with reader.page.expect_request("**/v1/estimate") as sent:
        reader.field("prompt").fill("data:image/png;base64," + "A" * 100_000)
    body = sent.value.post_data_json
    assert body["input"]["prompt"] == "data:image/png;base64,"
