"""Grids: a request for each combination of the values of two fields."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import Locator, Page, Route, expect

from tests.page.reader import Reader, expect_phase
from tests.page.test_form import fill_required, strange  # noqa: F401 a fixture

pytestmark = pytest.mark.long

NUMBERS: Any = pytest.mark.parametrize(
    ("text", "values"),
    [
        ("1, 2;3", [1, 2, 3]),
        ("1..4", [1, 2, 3, 4]),
        ("0..1:0.25", [0, 0.25, 0.5, 0.75, 1]),
        ("-1..1", [-1, 0, 1]),
        ("2 2 2.5", [2, 2.5]),
    ],
)


def dialog(reader: Reader) -> Locator:
    reader.page.get_by_role("button", name="Grid", exact=True).click()
    grid_dialog = reader.page.get_by_role("dialog", name="Grid")
    expect(grid_dialog).to_be_visible()
    return grid_dialog


def axis(grid_dialog: Locator, title: str, field: str, values: str = "") -> None:
    grid_dialog.get_by_label(title, exact=True).select_option(label=field)
    if values:
        grid_dialog.get_by_label(f"Values of {field}").fill(values)


def inputs(reader: Reader) -> list[dict[str, Any]]:
    """Inputs of all requests that were submitted, in their order."""
    kept = reader.page.evaluate("sessionStorage.getItem('darkroom.requests')")
    newest_first = reader.page.evaluate("text => JSON.parse(text).map(({ input }) => input)", kept)
    return list(reversed(newest_first))


def test_a_grid_makes_a_request_for_each_combination_and_shows_them_as_a_table(
    reader: Reader,
) -> None:
    reader.field("prompt").fill("a hill")
    grid_dialog = dialog(reader)
    axis(grid_dialog, "Columns", "Seed", "1, 2, 3")
    axis(grid_dialog, "Rows", "Steps", "2, 4")
    expect(grid_dialog).to_contain_text("6 requests.")
    grid_dialog.get_by_role("button", name="Start").click()
    table = reader.page.get_by_role("table")
    expect(table.locator(".sheet[data-phase='succeeded']")).to_have_count(6)
    assert table.locator("th").all_inner_texts() == ["1", "2", "3", "2", "4"]
    assert [(fields["seed"], fields["num_inference_steps"]) for fields in inputs(reader)] == [
        *((1, 2), (2, 2), (3, 2)),
        *((1, 4), (2, 4), (3, 4)),
    ]
    grid = reader.page.get_by_role("article", name="a hill").first
    expect(grid).to_contain_text("Columns: Seed · Rows: Steps")
    expect(grid).to_contain_text("6 of 6 requests have ended.")
    expect(grid.get_by_role("button", name="Cancel all")).to_be_hidden()
    reader.page.reload()
    expect(table.locator(".sheet[data-phase='succeeded']")).to_have_count(6)
    assert table.locator("th").all_inner_texts() == ["1", "2", "3", "2", "4"]


def test_the_cells_have_one_seed_unless_it_varies(reader: Reader) -> None:
    reader.field("prompt").fill("a hill")
    grid_dialog = dialog(reader)
    axis(grid_dialog, "Rows", "–")
    axis(grid_dialog, "Columns", "Steps", "2..3")
    grid_dialog.get_by_role("button", name="Start").click()
    expect(reader.page.locator(".sheet[data-phase='succeeded']")).to_have_count(2)
    first, second = inputs(reader)
    assert first["seed"] == second["seed"]


def test_all_requests_of_a_grid_are_cancelled_together(waiting: Reader) -> None:
    waiting.field("prompt").fill("a hill")
    grid_dialog = dialog(waiting)
    axis(grid_dialog, "Columns", "Seed", "1..3")
    axis(grid_dialog, "Rows", "–")
    grid_dialog.get_by_role("button", name="Start").click()
    cells = waiting.page.locator("td .sheet")
    expect(cells).to_have_count(3)
    for cell in cells.all():
        expect_phase(cell, "queued")
    waiting.page.get_by_role("button", name="Cancel all").click()
    for cell in cells.all():
        expect_phase(cell, "cancelled")


def test_a_grid_that_is_cancelled_submits_no_more_requests(waiting: Reader) -> None:
    posted: list[Route] = []

    def pass_the_first(route: Route) -> None:
        if route.request.method != "POST":
            route.continue_()
            return
        posted.append(route)
        if len(posted) == 1:
            route.continue_()

    waiting.page.route("**/queue/**", pass_the_first)
    waiting.field("prompt").fill("a hill")
    grid_dialog = dialog(waiting)
    axis(grid_dialog, "Columns", "Seed", "1..4")
    axis(grid_dialog, "Rows", "–")
    grid_dialog.get_by_role("button", name="Start").click()
    cells = waiting.page.locator("td .sheet")
    expect(cells).to_have_count(1)
    waiting.page.get_by_role("button", name="Cancel all").click()
    expect_phase(cells.first, "cancelled")
    posted[1].continue_()  # it was on its way
    expect(cells).to_have_count(2)
    expect_phase(cells.nth(1), "cancelled")
    grid = waiting.page.get_by_role("article", name="a hill").first
    expect(grid).to_contain_text("2 of 2 requests have ended; 2 more were not submitted.")
    expect(grid.get_by_role("button", name="Cancel all")).to_be_hidden()
    assert len(posted) == 2


def start(reader: Reader, seeds: str) -> Locator:
    """Start a grid over seeds. Returns its table with what is above it."""
    grid_dialog = dialog(reader)
    axis(grid_dialog, "Columns", "Seed", seeds)
    axis(grid_dialog, "Rows", "–")
    grid_dialog.get_by_role("button", name="Start").click()
    return reader.page.locator("article.grid")


class Posts:
    """Submits of the page, of which the test answers some itself."""

    def __init__(self, reader: Reader) -> None:
        self.answer: dict[int, Callable[[Route], object]] = {}
        self.keys: list[str | None] = []
        self.seeds: list[int] = []
        reader.page.route("**/queue/**", self._pass)

    def _pass(self, route: Route) -> None:
        if route.request.method != "POST":
            route.continue_()
            return
        self.keys.append(route.request.header_value("idempotency-key"))
        self.seeds.append(route.request.post_data_json["seed"])
        self.answer.get(len(self.keys), Route.continue_)(route)


def refuse(route: Route) -> None:
    route.fulfill(status=500, json={"detail": "It broke."})


def test_a_grid_waits_for_room_and_for_lost_answers(reader: Reader) -> None:
    posts = Posts(reader)

    def lose(route: Route) -> None:
        assert route.fetch().ok
        route.abort()

    full = {"status": 429, "json": {"detail": "The queue is full."}}
    routes: list[Route] = []
    posts.answer = {
        2: lambda route: route.fulfill(**full, headers={"Retry-After": "1"}),
        3: routes.append,
        5: lose,
    }
    reader.field("prompt").fill("a hill")
    grid = start(reader, "1..4")
    expect(grid).to_contain_text("The queue is full. Trying again in 1 s.")
    while not routes:
        reader.page.wait_for_timeout(50)
    routes[0].continue_()
    expect(grid.locator(".sheet[data-phase='succeeded']")).to_have_count(4)
    expect(grid).to_contain_text("4 of 4 requests have ended.")
    expect(grid.get_by_role("button", name="Submit the rest")).to_be_hidden()
    assert posts.seeds == [1, 2, 2, 3, 4, 4]
    assert posts.keys[1] == posts.keys[2]
    assert len(set(posts.keys)) == 4
    expect(reader.request_rows).to_have_count(4)


def test_a_grid_stops_waiting_for_room_and_goes_on_later(reader: Reader) -> None:
    posts = Posts(reader)
    full = {"status": 503, "json": {"detail": "The disk is full."}}
    posts.answer = {1: lambda route: route.fulfill(**full, headers={"Retry-After": "300"})}
    reader.field("prompt").fill("a hill")
    grid = start(reader, "1..2")
    expect(grid).to_contain_text("Trying again in 300 s.")
    grid.get_by_role("button", name="Stop waiting").click()
    expect(grid).to_contain_text("2 more were not submitted.")
    grid.get_by_role("button", name="Submit the rest").click()
    expect(grid.locator(".sheet[data-phase='succeeded']")).to_have_count(2)
    assert posts.seeds == [1, 1, 2]


def test_the_rest_of_a_grid_that_ended_early_is_submitted(reader: Reader) -> None:
    posts = Posts(reader)
    posts.answer = {3: refuse}
    reader.field("prompt").fill("a hill")
    grid = start(reader, "1..4")
    expect(grid).to_contain_text("2 of 2 requests have ended; 2 more were not submitted.")
    expect(reader.page.get_by_text("2 of 4 requests were submitted. It broke.")).to_be_visible()
    reader.field("prompt").fill("another hill")  # the grid keeps its own
    grid.get_by_role("button", name="Submit the rest").click()
    expect(grid).to_contain_text("4 of 4 requests have ended.")
    expect(grid.get_by_role("button", name="Submit the rest")).to_be_hidden()
    assert posts.seeds == [1, 2, 3, 3, 4]
    assert {fields["prompt"] for fields in inputs(reader)} == {"a hill"}


@pytest.mark.parametrize("prompt", ["a hill", "a hill " * 700])
def test_the_rest_of_a_grid_is_submitted_after_a_reload(reader: Reader, prompt: str) -> None:
    posts = Posts(reader)

    def hang(route: Route) -> None:
        if len(prompt) < 100:
            assert route.fetch().ok  # it was accepted, but the page never knows

    posts.answer = {2: hang}
    reader.field("prompt").fill(prompt.strip())
    grid = start(reader, "1..3")
    expect(grid.locator(".sheet[data-phase='succeeded']")).to_have_count(1)
    while len(posts.keys) < 2:
        reader.page.wait_for_timeout(50)
    reader.page.reload()
    expect(grid).to_contain_text("1 of 1 requests have ended; 2 more were not submitted.")
    grid.get_by_role("button", name="Submit the rest").click()
    expect(grid.locator(".sheet[data-phase='succeeded']")).to_have_count(3)
    assert posts.seeds == [1, 2, 2, 3]
    expect(reader.request_rows).to_have_count(3)
    sent = reader.page.evaluate(
        """async () => {
            const headers = { authorization: `Key ${localStorage.getItem("darkroom.key")}` };
            const list = await (await fetch("v1/requests", { headers })).json();
            const of = async ({ request_id: id }) =>
                (await (await fetch(`v1/requests/${id}`, { headers })).json()).input;
            return Promise.all(list.requests.map(of));
        }"""
    )
    assert sorted(fields["seed"] for fields in sent) == [1, 2, 3]
    assert {fields["prompt"] for fields in sent} == {prompt.strip()}


def test_more_than_64_requests_and_values_that_are_none_are_refused(reader: Reader) -> None:
    reader.field("prompt").fill("a hill")
    grid_dialog = dialog(reader)
    start = grid_dialog.get_by_role("button", name="Start")
    axis(grid_dialog, "Columns", "Seed", "1..33")
    axis(grid_dialog, "Rows", "Steps", "2, 3")
    expect(grid_dialog).to_contain_text("These are 66 requests; at most 64 are possible.")
    expect(start).to_be_disabled()
    axis(grid_dialog, "Rows", "Steps", "2, many")
    expect(grid_dialog).to_contain_text("“many” is not a number.")
    axis(grid_dialog, "Rows", "Steps", "2, 9999")
    expect(grid_dialog).to_contain_text("9999 is outside 1 to")
    axis(grid_dialog, "Rows", "Seed")
    expect(grid_dialog).to_contain_text("Columns and rows need different fields.")
    axis(grid_dialog, "Columns", "–")
    expect(grid_dialog).to_contain_text("3 requests.")
    expect(start).to_be_enabled()


def test_choices_switches_and_the_scale_of_a_lora_can_vary(
    strange: Reader,  # noqa: F811 the fixture of that name
) -> None:
    fill_required(strange)
    strange.page.get_by_role("button", name="Add LoRA").click()
    row = strange.page.get_by_role("group", name="LoRA 1")
    row.get_by_label("Path", exact=True).fill("house/lines")
    sent: list[dict[str, Any]] = []

    def answer(route: Any) -> None:
        sent.append(route.request.post_data_json)
        route.fulfill(json={"request_id": f"r{len(sent)}"})

    strange.page.route("**/queue/some/model", answer)
    grid_dialog = dialog(strange)
    axis(grid_dialog, "Columns", "Scale of LoRA 1", "0.5, 1")
    axis(grid_dialog, "Rows", "Voice")
    grid_dialog.get_by_label("bass").uncheck()
    grid_dialog.get_by_role("button", name="Start").click()
    expect(strange.page.locator("td .sheet")).to_have_count(2)
    assert [(fields["loras"][0]["scale"], fields["voice"]) for fields in sent] == [
        (0.5, "alto"),
        (1, "alto"),
    ]


@NUMBERS
def test_values_are_numbers_and_spans_of_numbers(
    page: Page, reader: Reader, text: str, values: list[float]
) -> None:
    assert reader.darkroom
    parsed = page.evaluate(
        """async (text) => {
            const { numbersIn } = await import("/page/tools/grid_axis.js");
            return numbersIn(text, { kind: "decimal" });
        }""",
        text,
    )
    assert parsed == values
