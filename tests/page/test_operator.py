"""Operator's view: its parts, and who sees it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import BrowserContext, Page, expect

from serve_app.domain.lease import Demand
from serve_app.ingress.services.pool_map import PoolMap
from serve_app.settings import PoolConfig
from tests.page.axe import axe, look
from tests.page.darkroom import PageDarkroom, page_darkroom
from tests.page.operator import POOL, REPLICA, Operator, give_pool
from tests.page.reader import FLUX, Reader, box_of, expect_images

OpenContext = Callable[..., BrowserContext]

HIDE = """hidden => {
  Object.defineProperty(document, "hidden", { value: hidden, configurable: true });
  document.dispatchEvent(new Event("visibilitychange"));
}"""


@pytest.fixture
def installation() -> Iterator[PageDarkroom]:
    with page_darkroom() as darkroom:
        yield darkroom


@pytest.fixture
def operator(page: Page, installation: PageDarkroom) -> Operator:
    give_pool(installation)
    return Operator(page, installation)


def test_tenants_are_read_on_a_phone_without_scrolling_sideways(
    open_context: OpenContext, installation: PageDarkroom
) -> None:
    give_pool(installation)
    page = open_context(viewport={"width": 390, "height": 844}).new_page()
    name = "a-studio-with-the-longest-name-of-all-in-a-street-far-away-7"
    headers = {"Authorization": f"Key {installation.key}"}
    made = page.request.post(
        f"{installation.url}/v1/tenants", headers=headers, data={"tenant": name}
    )
    assert made.ok
    operator = Operator(page, installation)
    operator.open("Keys")
    row = operator.row("Tenants", name)
    expect(row).to_contain_text("Limit:")
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    for cell in row.locator("th, td:visible").all():
        left, _, right, _ = box_of(cell)
        assert 0 <= left < right <= 390
    cell = row.locator("td", has_text="Limit:")
    assert box_of(cell.locator(".facts"))[0] == box_of(cell)[0]  # on a line of its own
    look(page)


def test_the_key_of_a_tenant_sees_nothing_of_it(page: Page, installation: PageDarkroom) -> None:
    urls: list[str] = []
    page.on("request", lambda request: urls.append(request.url))
    page.goto(installation.url)
    Reader(page, installation).give_key(installation.house.weak_key)
    expect(page.get_by_role("button", name="Generate")).to_be_visible()
    expect(page.get_by_role("link", name="Operate")).to_be_hidden()
    page.goto(f"{installation.url}/#view=operator&part=pools")
    expect(page.get_by_text("it needs a key with the scope operator")).to_be_visible()
    expect(page.get_by_role("navigation", name="Parts")).to_be_hidden()
    assert not any(url.endswith(("/v1/status", "/v1/queue")) for url in urls)


@pytest.mark.long
def test_another_key_ends_the_view_of_the_one_before(operator: Operator) -> None:
    operator.open("Pools")
    page = operator.page
    page.get_by_role("button", name="API key").click()
    page.get_by_role("button", name="Forget this key").click()
    Reader(page, operator.darkroom).give_key(operator.darkroom.house.weak_key)
    expect(page.get_by_text("it needs a key with the scope operator")).to_be_visible()
    expect(page.get_by_role("link", name="Operate")).to_be_hidden()
    expect(operator.table("Pools")).to_have_count(0)


def test_the_pools_show_replicas_with_what_they_hold_and_load(
    page: Page, installation: PageDarkroom
) -> None:
    replicas = give_pool(installation)
    operator = Operator(page, installation)
    operator.open("Pools")
    pool = operator.row("Pools", POOL)
    for words in ("1 ready", "0 to 4"):
        expect(pool).to_contain_text(words)
    replica = operator.row("Replicas", "r-1")
    for words in ("NVIDIA L4", "18.3 of 24.0 GB", "test/probe", f"loading {FLUX}, 25 % of 12.0 GB"):
        expect(replica).to_contain_text(words)
    replicas[:] = [{**REPLICA, "hot": [FLUX], "loading": [], "memory_used": 9_000_000_000}]
    expect(replica).not_to_contain_text("25 %")  # without a reload
    expect(replica).to_contain_text("9.0 of 24.0 GB")
    expect(replica.locator(".pill.hot")).to_have_text(FLUX)
    assert axe(page) == []


@pytest.mark.long
def test_pools_and_queue_show_what_was_in_the_last_hour_and_day(
    page: Page, idle: PageDarkroom
) -> None:
    give_pool(idle)
    operator = Operator(page, idle)
    Reader(page, idle).generate("a hill")
    idle.sample_pools()
    operator.open("Pools")
    history = page.get_by_role("region", name="History")
    queued = history.locator(".chart").filter(has_text="Queued")
    expect(queued).to_contain_text("Highest: 1 (")
    expect(queued.locator("rect")).to_have_count(60)
    history.get_by_label("Time").select_option("Last day")
    expect(queued.locator("rect")).to_have_count(144)
    expect(queued).to_contain_text("Highest: 1 (")
    look(page)
    operator.open("Queue")
    expect(page.get_by_role("region", name="History")).to_contain_text("Oldest wait")


@pytest.mark.long
def test_a_canary_says_how_it_does_and_that_it_has_returned(
    page: Page, installation: PageDarkroom
) -> None:
    give_pool(installation)
    services = installation.house.services
    next_pool = PoolConfig(families=("flux", "probe"), canary_of=POOL, num_gpus=0)
    services.pools = PoolMap({**services.pools.configured, "next": next_pool})
    canary = Demand(canary="0 of 9 attempts failed (studio: 0 of 30)")

    async def demand() -> dict[str, Demand]:
        return {POOL: Demand(queued=2), "next": canary}

    services.queue.demand = demand  # type: ignore[method-assign]
    operator = Operator(page, installation)
    operator.open("Pools")
    row = operator.row("Pools", "next")
    expect(row).to_contain_text(f"canary of {POOL} · 0 of 9 attempts failed")
    canary = Demand(canary="returned because it takes longer", returned=True)
    expect(row.locator(".problem")).to_have_text("It returned because it takes longer.")


@pytest.mark.long
def test_a_model_is_kept_warm_and_no_longer(operator: Operator) -> None:
    operator.open("Pools")
    operator.page.get_by_role("button", name="Keep a model warm").click()
    operator.dialog.get_by_label("Model").select_option(FLUX)
    operator.dialog.get_by_label("Replicas").fill("9")
    operator.dialog.get_by_role("button", name="Keep it warm").click()
    expect(operator.dialog.get_by_role("alert")).to_contain_text("at most 4")
    operator.dialog.get_by_label("Replicas").fill("2")
    operator.dialog.get_by_role("button", name="Keep it warm").click()
    operator.expect_said(f"{FLUX} is kept warm on 2 in {POOL}.")
    target = operator.row("Warm targets", FLUX)
    for ready_or_wanted in ("0", "2"):
        expect(target.get_by_role("cell", name=ready_or_wanted, exact=True)).to_be_visible()
    target.get_by_role("button", name="Delete").click()
    operator.dialog.get_by_role("button", name="Cancel").click()
    expect(target).to_be_visible()
    target.get_by_role("button", name="Delete").click()
    operator.dialog.get_by_role("button", name="Delete").click()
    expect(operator.page.get_by_text("No model is kept warm.")).to_be_visible()


def test_a_darkroom_that_does_not_answer_is_said_and_asked_again(operator: Operator) -> None:
    operator.open("Pools")
    expect(operator.row("Replicas", "r-1")).to_be_visible()
    operator.darkroom.stop_http()
    alert = operator.page.get_by_role("alert")
    expect(alert.filter(has_text="Darkroom does not answer")).to_be_visible()
    operator.darkroom.start_http()
    expect(alert.filter(has_text="Darkroom does not answer")).to_be_hidden()


@pytest.mark.long
def test_older_acts_that_come_at_the_second_try_end_the_problem_of_the_first(
    operator: Operator,
) -> None:
    page, url = operator.page, operator.darkroom.url
    headers = {"Authorization": f"Key {operator.darkroom.key}"}
    for number in range(51):
        action = "resume" if number % 2 else "pause"
        assert page.request.put(f"{url}/v1/endpoints/{FLUX}/{action}", headers=headers).ok
    operator.open("Audit")
    older = page.get_by_role("button", name="Show older acts")
    expect(older).to_be_visible()
    page.route("**/v1/audit?*before*", lambda route: route.abort())
    older.click()
    problem = page.locator(".answers .problem")
    expect(problem).to_contain_text("does not answer")
    page.unroute_all()
    older.click()
    expect(older).to_be_hidden()
    expect(problem).to_be_hidden()


@pytest.mark.long
def test_a_call_that_fails_alone_does_not_leave_the_page_without_contact(
    operator: Operator,
) -> None:
    page = operator.page
    page.route("**/v1/audit?*", lambda route: route.abort())
    operator.open("Audit")
    connection = page.locator("#connection")
    expect(connection).to_contain_text("Darkroom does not answer")
    page.unroute_all()  # nothing calls in this view: only the stream of changes tells
    expect(connection).to_be_hidden()


@pytest.mark.long
def test_what_a_colleague_has_deleted_meanwhile_leaves_the_table(operator: Operator) -> None:
    page, url = operator.page, operator.darkroom.url
    headers = {"Authorization": f"Key {operator.darkroom.key}"}
    secret = f"{url}/v1/secrets/HF_TOKEN"
    assert page.request.put(secret, headers=headers, data={"value": "x"}).ok
    operator.open("Resources")
    row = operator.row("Secrets", "HF_TOKEN")
    row.get_by_role("button", name="Delete").click()
    assert page.request.delete(secret, headers=headers).ok
    operator.dialog.get_by_role("button", name="Delete it").click()
    expect(operator.dialog).to_contain_text("There is no secret HF_TOKEN")
    page.keyboard.press("Escape")
    expect(row).to_have_count(0)


@pytest.mark.long
def test_a_view_that_is_opened_while_darkroom_is_away_opens_when_it_is_back(
    operator: Operator,
) -> None:
    page = operator.page
    page.route("**/v1/keys/self", lambda route: route.abort())
    page.goto(f"{operator.darkroom.url}/#view=operator&part=queue")
    page.reload()
    expect(page.get_by_role("alert").filter(has_text="does not answer")).to_be_visible()
    expect(page.get_by_text("it needs a key with the scope operator")).to_be_hidden()
    page.unroute_all()
    expect(page.get_by_text("No request waits.")).to_be_visible()
    expect(page.get_by_role("alert").filter(has_text="does not answer")).to_be_hidden()


@pytest.mark.long
def test_a_hidden_page_asks_nothing(page: Page, installation: PageDarkroom) -> None:
    give_pool(installation)
    page.clock.install()
    operator = Operator(page, installation)
    operator.open("Pools")
    expect(operator.row("Replicas", "r-1")).to_be_visible()
    page.evaluate(HIDE, True)
    page.wait_for_load_state("networkidle")
    urls: list[str] = []
    page.on("request", lambda request: urls.append(request.url))
    page.clock.run_for(60_000)
    assert [url for url in urls if url.endswith("/v1/status")] == []
    with page.expect_request("**/v1/status"):
        page.evaluate(HIDE, False)


def test_a_request_waits_for_a_reason_and_is_ended(page: Page, idle: PageDarkroom) -> None:
    operator = Operator(page, idle)
    Reader(page, idle).generate("a hill")
    operator.open("Queue")
    expect(operator.row("Lanes", "default")).to_contain_text("1")
    waiting = operator.row("Waiting", FLUX)
    waiting.get_by_role("button", name="Why").click()
    expect(operator.dialog).to_contain_text("Next in line.")
    page.keyboard.press("Escape")
    waiting.get_by_role("button", name="Cancel").click()
    operator.dialog.get_by_role("button", name="Cancel the request").click()
    operator.expect_said("The request: cancelled.")
    expect(page.get_by_text("No request waits.")).to_be_visible()


@pytest.mark.long
def test_a_request_that_waits_gets_another_priority(page: Page, idle: PageDarkroom) -> None:
    operator = Operator(page, idle)
    Reader(page, idle).generate("a hill")
    operator.open("Queue")
    waiting = operator.row("Waiting", FLUX)
    expect(waiting).to_contain_text("normal")
    waiting.get_by_role("button", name="Priority").click()
    expect(operator.dialog.get_by_label("Priority")).to_have_value("normal")
    operator.dialog.get_by_label("Priority").select_option("high")
    operator.dialog.get_by_role("button", name="Change it").click()
    operator.expect_said("The request has high priority.")
    expect(waiting).to_contain_text("high")


@pytest.mark.long
def test_a_request_of_another_tenant_ends_with_a_reason(page: Page, idle: PageDarkroom) -> None:
    other = {"authorization": f"Key {idle.house.other_key}"}
    response = page.request.post(f"{idle.url}/queue/test/probe", headers=other, data={})
    request_id = response.json()["request_id"]
    operator = Operator(page, idle)
    operator.open("Queue")
    operator.row("Waiting", "other").get_by_role("button", name="Fail").click()
    operator.dialog.get_by_label("Reason").fill("Too large for this machine.")
    operator.dialog.get_by_role("button", name="End it").click()
    operator.expect_said("The request is failed.")
    shown = page.request.get(f"{idle.url}/v1/requests/{request_id}", headers=other).json()
    assert "Too large for this machine." in shown["error"]["message"]


@pytest.mark.long
def test_a_request_of_another_tenant_is_cancelled_for_it(page: Page, idle: PageDarkroom) -> None:
    other = {"authorization": f"Key {idle.house.other_key}"}
    response = page.request.post(f"{idle.url}/queue/test/probe", headers=other, data={})
    request_id = response.json()["request_id"]
    operator = Operator(page, idle)
    operator.open("Queue")
    operator.row("Waiting", "other").get_by_role("button", name="Cancel").click()
    expect(operator.dialog).to_contain_text("The tenant other")
    operator.dialog.get_by_role("button", name="Cancel the request").click()
    operator.expect_said("The request: cancelled.")
    expect(page.get_by_text("No request waits.")).to_be_visible()
    shown = page.request.get(f"{idle.url}/v1/requests/{request_id}", headers=other).json()
    assert shown["state"] == "cancelled"


@pytest.mark.long
def test_the_filters_of_an_empty_queue_offer_all(page: Page, idle: PageDarkroom) -> None:
    Operator(page, idle).open("Queue")
    expect(page.get_by_text("No request waits.")).to_be_visible()
    for label, every in (("Tenant", "All tenants"), ("Endpoint", "All endpoints")):
        expect(page.get_by_label(label, exact=True).locator("option:checked")).to_have_text(every)


@pytest.mark.long
def test_the_requests_that_waited_longest_are_shown_and_the_others_after_them(
    page: Page, idle: PageDarkroom
) -> None:
    keys = {"default": idle.key, "other": idle.house.other_key}
    for tenant, many in (("other", 1), ("default", 55), ("other", 1)):
        for _ in range(many):
            header = {"authorization": f"Key {keys[tenant]}"}
            page.request.post(f"{idle.url}/queue/test/probe", headers=header, data={})
    operator = Operator(page, idle)
    operator.open("Queue")
    rows = operator.table("Waiting").locator("tbody tr")
    expect(rows).to_have_count(50)
    expect(rows.first).to_contain_text("other")
    page.get_by_role("button", name="Show more").click()
    expect(rows).to_have_count(57)
    expect(rows.last).to_contain_text("other")
    expect(page.get_by_role("button", name="Show more")).to_be_hidden()
    page.get_by_label("Tenant", exact=True).select_option("other")
    expect(rows).to_have_count(2)
    page.get_by_label("Endpoint", exact=True).select_option(FLUX)
    expect(page.get_by_text("No request waits.")).to_be_visible()
    page.get_by_label("Endpoint", exact=True).select_option("All endpoints")
    expect(rows).to_have_count(2)
    assert axe(page) == []


@pytest.mark.long
def test_a_running_request_is_queued_again(operator: Operator) -> None:
    own = {"authorization": f"Key {operator.darkroom.key}"}
    order = {"sleep_s": 60}
    operator.page.request.post(f"{operator.darkroom.url}/queue/test/probe", headers=own, data=order)
    operator.open("Queue")
    operator.row("Running", "test/probe").get_by_role("button", name="Requeue").click()
    operator.dialog.get_by_role("button", name="Queue it again").click()
    operator.expect_said("The request is queued.")


def test_an_endpoint_is_paused_and_resumed(operator: Operator) -> None:
    operator.open("Queue")
    operator.page.get_by_role("button", name="Pause or drain").click()
    operator.dialog.get_by_label("Endpoint").select_option("test/probe")
    operator.dialog.get_by_role("button", name="Apply").click()
    operator.expect_said("test/probe is paused.")
    paused = operator.row("Paused endpoints", "test/probe")
    expect(paused).to_contain_text("paused")
    paused.get_by_role("button", name="Resume").click()
    operator.expect_said("test/probe is resumed.")
    expect(operator.page.get_by_text("No endpoint is paused")).to_be_visible()


@pytest.mark.long
def test_an_endpoint_is_drained_so_that_what_waits_runs_and_nothing_new_is_taken(
    page: Page, idle: PageDarkroom
) -> None:
    give_pool(idle)
    operator = Operator(page, idle)
    Reader(page, idle).generate("a hill")
    operator.open("Queue")
    page.get_by_role("button", name="Pause or drain").click()
    operator.dialog.get_by_label("Endpoint").select_option(FLUX)
    operator.dialog.get_by_label("Order").select_option("drain")
    operator.dialog.get_by_role("button", name="Apply").click()
    operator.expect_said(f"{FLUX} is draining.")
    paused = operator.row("Paused endpoints", FLUX)
    expect(paused).to_contain_text("draining")
    own = {"authorization": f"Key {idle.key}"}
    refused = page.request.post(f"{idle.url}/queue/{FLUX}", headers=own, data={"prompt": "x"})
    assert refused.status == 503
    assert "drain" in refused.text()
    idle.start_painting()
    expect(page.get_by_text("No request waits.")).to_be_visible()
    paused.get_by_role("button", name="Resume").click()
    operator.expect_said(f"{FLUX} is resumed.")
    expect(page.get_by_text("No endpoint is paused")).to_be_visible()


@pytest.mark.long
def test_what_changes_does_not_take_the_focus_away(page: Page, installation: PageDarkroom) -> None:
    replicas = give_pool(installation)
    own = {"authorization": f"Key {installation.key}"}
    page.request.post(f"{installation.url}/v1/warm", headers=own, data={"endpoint_id": FLUX})
    operator = Operator(page, installation)
    operator.open("Pools")
    remove = operator.row("Warm targets", FLUX).get_by_role("button", name="Delete")
    remove.focus()
    replicas[:] = [{**REPLICA, "replica_id": "r-0"}, *replicas]
    expect(operator.row("Replicas", "r-0")).to_be_visible()
    expect(remove).to_be_focused()
    page.keyboard.press("Enter")
    expect(operator.dialog.get_by_role("button", name="Cancel")).to_be_focused()
    page.keyboard.press("Escape")
    expect(remove).to_be_focused()


@pytest.mark.long
@pytest.mark.parametrize("width", [390, 800, 900, 1280])
def test_tables_are_as_wide_as_the_window_and_break_no_short_text(
    open_context: OpenContext, idle: PageDarkroom, width: int
) -> None:
    give_pool(idle)
    page = open_context(viewport={"width": width, "height": 844}).new_page()
    headers = {"Authorization": f"Key {idle.key}"}
    key = {"alias": "thumbnails", "endpoints": [f"fal-ai/{'long' * 30}"]}
    assert page.request.post(f"{idle.url}/v1/keys", headers=headers, data=key).ok
    operator = Operator(page, idle)
    operator.open("Pools")
    expect(operator.row("Replicas", "r-1")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") == width
    for part, table in (("Keys", "Keys"), ("Audit", "Audit log")):
        operator.open(part)
        row = operator.row(table, "fal-ai/long")
        expect(row).to_be_visible()
        assert page.evaluate("document.documentElement.scrollWidth") == width
    if width == 1280:
        by = row.locator("td[data-label='By key'] code")
        assert by.evaluate("code => code.getClientRects().length") == 1


@pytest.mark.long
def test_every_text_of_each_part_can_be_read_also_on_a_phone(
    open_context: OpenContext, idle: PageDarkroom
) -> None:
    give_pool(idle)
    phone = open_context(viewport={"width": 360, "height": 740}, has_touch=True)
    page = phone.new_page()
    operator = Operator(page, idle)
    Reader(page, idle).generate("a hill")
    parts = [
        *("Pools", "Queue", "Models", "Keys", "Weights", "Resources", "Usage", "Storage"),
        *("Webhooks", "Health", "Audit"),
    ]
    for part in parts:
        operator.open(part)
        expect(page.locator(".part [aria-busy]")).to_have_count(0)
        look(page)


@pytest.mark.long
def test_the_secret_of_a_new_key_is_shown_once(operator: Operator) -> None:
    operator.open("Keys")
    page = operator.page
    expect(page.get_by_role("heading", name="Keys of default")).to_be_visible()
    page.get_by_role("button", name="Create a key").click()
    operator.dialog.get_by_label("Name").fill("the web app")
    operator.dialog.get_by_label("Tenant", exact=True).fill("No tenant")
    operator.dialog.get_by_role("button", name="Create it").click()
    expect(operator.dialog.get_by_role("alert")).to_contain_text("tenant")
    assert axe(page) == []
    operator.dialog.get_by_label("Tenant", exact=True).fill("studio-a")
    operator.dialog.get_by_label("Days until it expires").fill("90")
    operator.dialog.get_by_role("button", name="Create it").click()
    expect(operator.dialog).to_contain_text("cannot be shown again")
    assert axe(page) == []
    secret = operator.dialog.locator(".secret").inner_text()
    operator.dialog.get_by_role("button", name="Close").click()
    expect(page.get_by_text(secret)).to_have_count(0)
    header = {"authorization": f"Key {secret}"}
    assert page.request.get(f"{operator.darkroom.url}/v1/keys/self", headers=header).json() == {
        "key_id": secret.partition(":")[0],
        "tenant": "studio-a",
        "scopes": ["api"],
        "grants": ["api", "cancel", "files", "read", "submit", "usage"],
        "endpoints": [],
    }
    operator.row("Tenants", "studio-a").get_by_role("button", name="Keys").click()
    key = operator.row("Keys", "the web app")
    key.get_by_role("button", name="Revoke").click()
    operator.dialog.get_by_role("button", name="Revoke it").click()
    expect(key).to_contain_text("revoked")
    assert page.request.get(f"{operator.darkroom.url}/v1/keys/self", headers=header).status == 401


@pytest.mark.long
def test_the_key_in_use_cannot_be_revoked_with_itself(operator: Operator) -> None:
    operator.open("Keys")
    own = operator.row("Keys", "this one")
    expect(own).to_be_visible()
    expect(own.get_by_role("button", name="Revoke")).to_have_count(0)


@pytest.mark.long
def test_a_key_for_some_endpoints_is_created_and_rotated(operator: Operator) -> None:
    operator.open("Keys")
    operator.page.get_by_role("button", name="Create a key").click()
    operator.dialog.get_by_label("Name").fill("thumbnails")
    operator.dialog.get_by_label("Only these endpoints").fill("fal-ai/flux/* test/probe")
    operator.dialog.get_by_label("read: only read").check()
    operator.dialog.get_by_label("api: submit").uncheck()
    operator.dialog.get_by_role("button", name="Create it").click()
    expect(operator.dialog.locator(".secret")).to_be_visible()
    operator.dialog.get_by_role("button", name="Close").click()
    key = operator.row("Keys", "thumbnails")
    expect(key).to_contain_text("fal-ai/flux/*, test/probe")
    expect(key).to_contain_text("never")
    key.get_by_role("button", name="Rotate").click()
    operator.dialog.get_by_label("Hours in which the old key").fill("2")
    operator.dialog.get_by_role("button", name="Rotate it").click()
    expect(operator.dialog).to_contain_text("cannot be shown again")
    operator.dialog.get_by_role("button", name="Close").click()
    expect(key).to_have_count(2)
    expect(key.filter(has_text="rotated").get_by_role("button", name="Rotate")).to_have_count(0)


def test_a_tenant_is_created_limited_disabled_and_enabled(operator: Operator) -> None:
    operator.open("Keys")
    operator.page.get_by_role("button", name="Create a tenant").click()
    operator.dialog.get_by_label("Id").fill("studio-b")
    operator.dialog.get_by_label("Name for people").fill("Studio B")
    operator.dialog.get_by_role("button", name="Create it").click()
    tenant = operator.row("Tenants", "studio-b")
    expect(tenant).to_contain_text("Studio B")
    tenant.get_by_role("button", name="Change").click()
    operator.dialog.get_by_label("Max running").fill("3")
    operator.dialog.get_by_label("Files", exact=True).select_option("private")
    operator.dialog.get_by_role("button", name="Change it").click()
    expect(tenant.get_by_role("cell", name="3", exact=True)).to_be_visible()
    tenant.get_by_role("button", name="Change").click()
    expect(operator.dialog.get_by_label("Files", exact=True)).to_have_value("private")
    operator.dialog.get_by_role("button", name="Cancel").click()
    tenant.get_by_role("button", name="Disable").click()
    operator.dialog.get_by_role("button", name="Disable it").click()
    expect(tenant).to_contain_text("disabled")
    tenant.get_by_role("button", name="Enable").click()
    operator.dialog.get_by_role("button", name="Enable it").click()
    expect(tenant).not_to_contain_text("disabled")


@pytest.mark.long
def test_a_tenant_gets_a_budget_and_loses_it(operator: Operator) -> None:
    operator.open("Keys")
    tenant = operator.row("Tenants", "other")
    expect(tenant.get_by_role("cell", name="any", exact=True).last).to_be_visible()
    tenant.get_by_role("button", name="Budget").click()
    operator.dialog.get_by_label("Amount").fill("much")
    operator.dialog.get_by_role("button", name="Change it").click()
    expect(operator.dialog.get_by_role("alert")).to_contain_text("amount")
    operator.dialog.get_by_label("Amount").fill("200.50")
    operator.dialog.get_by_label("Currency").fill("EUR")
    operator.dialog.get_by_label("Period", exact=True).select_option("day")
    operator.dialog.get_by_label("Percent").fill("50 90")
    operator.dialog.get_by_role("button", name="Change it").click()
    operator.expect_said("The budget of other is changed.")
    expect(tenant).to_contain_text("200.50 EUR a day")
    own = {"authorization": f"Key {operator.darkroom.key}"}
    response = operator.page.request.get(f"{operator.darkroom.url}/v1/tenants/other", headers=own)
    budget = response.json()["budget"]
    assert (budget["warn_at"], budget["stop"], budget["webhook"]) == ([0.5, 0.9], True, None)
    tenant.get_by_role("button", name="Budget").click()
    expect(operator.dialog.get_by_label("Percent")).to_have_value("50 90")
    operator.dialog.get_by_label("Amount").fill("")
    operator.dialog.get_by_role("button", name="Change it").click()
    expect(tenant).not_to_contain_text("EUR")


@pytest.mark.long
def test_the_tenant_of_the_key_in_use_cannot_be_disabled_with_it(operator: Operator) -> None:
    operator.open("Keys")
    own = operator.row("Tenants", "default")
    expect(own).to_be_visible()
    expect(own.get_by_role("button", name="Disable")).to_have_count(0)


@pytest.mark.long
def test_usage_is_shown_by_time_tenant_and_endpoint_and_saved_as_a_file(operator: Operator) -> None:
    expect_images(Reader(operator.page, operator.darkroom).generate("a hill"), 1)
    operator.open("Usage")
    page = operator.page
    expect(operator.row("By tenant and endpoint", FLUX)).to_contain_text("default")
    today = operator.table("Requests by day").get_by_role("row")
    expect(today).to_have_count(1)
    expect(today).to_contain_text("1")
    page.get_by_role("button", name="Compute time").click()
    expect(operator.table("Compute time by day").get_by_role("row")).to_have_count(1)
    time = page.get_by_label("Time", exact=True)
    for period, unit in (("60", "minute"), ("24", "hour")):
        time.select_option(period)
        expect(operator.table(f"Compute time by {unit}").get_by_role("row")).to_have_count(1)
    time.select_option("30")
    expect(operator.table("Compute time by day").get_by_role("row")).to_have_count(1)
    with page.expect_download() as saved:
        page.get_by_role("button", name="Download as CSV").click()
    head, line = saved.value.path().read_text().splitlines()
    assert head.startswith("day,tenant,key_id,endpoint_id,requests,successes,images,run_s,steps,")
    assert re.search(rf",default,[^,]+,{FLUX},1,1,1,0.25,4,", line)
    page.get_by_label("By", exact=True).select_option("key")
    expect(operator.table("By key").get_by_role("row")).to_have_count(2)
    expect(page.get_by_text("Together: 0 hours paid, 0 busy, 0 idle", exact=True)).to_be_visible()
    page.get_by_label("Tenant", exact=True).select_option("other")
    expect(page.get_by_text("Nothing was made in this time.")).to_be_visible()


def test_what_an_operator_did_is_in_the_audit_log(operator: Operator) -> None:
    own = {"authorization": f"Key {operator.darkroom.key}"}
    path = f"{operator.darkroom.url}/v1/endpoints/test/probe/pause"
    operator.page.request.put(path, headers=own)
    operator.open("Audit")
    expect(operator.row("Audit log", "endpoint.pause")).to_contain_text("test/probe")
