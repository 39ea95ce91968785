from __future__ import annotations

from dataclasses import replace

import httpx
import pytest

from serve_app.domain.errors import Misconfigured, StorageFull, StorageUnavailable
from serve_app.ingress.services.health import Readiness
from serve_app.settings import PoolConfig
from tests.ingress.house import House, build_house
from tests.queue.requests import new


async def test_alive_takes_no_key(house: House) -> None:
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(house.app), base_url="http://localhost"
    ) as stranger:
        assert (await stranger.get("/healthz")).json() == {"status": "ok"}
        assert (await stranger.get("/readyz")).json()["checks"] == {"storage": "ok"}


async def test_what_a_load_balancer_asks_ends_no_rest_and_what_a_client_asks_does(
    house: House, client: httpx.AsyncClient
) -> None:
    called = 0

    def announce() -> None:
        nonlocal called
        called += 1

    house.services.rest.announce = announce
    for path in ("/healthz", "/readyz", "/readyz/reads"):
        await client.get(path)
    assert called == 0
    await client.get("/v1/models")
    assert called == 1


async def test_not_ready_names_the_part_that_is_away(
    house: House, client: httpx.AsyncClient
) -> None:
    house.storage.away = StorageUnavailable("The artifact directory does not work.")
    answer = await client.get("/readyz")
    assert answer.status_code == 503
    assert answer.json()["checks"] == {"storage": "The artifact directory does not work."}


async def raise_misconfigured() -> None:
    raise Misconfigured("The file is not valid.")


async def full() -> None:
    raise StorageFull("Too little disk space to accept requests.")


async def test_a_wrong_configuration_file_is_shown_and_requests_go_on(house: House) -> None:
    readiness = Readiness({}, house.services.clock, notices={"configuration": raise_misconfigured})
    house.services.health = replace(house.services.health, readiness=readiness)
    async with house.client() as client:
        answer = await client.get("/readyz")
        assert answer.status_code == 200
        shown = {"status": "ok", "checks": {"configuration": "The file is not valid."}}
        assert answer.json() == shown


async def test_a_full_disk_ends_the_readiness_for_submits_and_reads_go_on() -> None:
    async with build_house(room=full) as house, house.client() as client:
        readiness = Readiness(
            {"storage": house.storage.check}, house.services.clock, submits={"disk": full}
        )
        house.services.health = replace(house.services.health, readiness=readiness)
        assert (await client.post("/queue/test/probe", json={})).status_code == 507
        submits, reads = await client.get("/readyz"), await client.get("/readyz/reads")
        assert (submits.status_code, reads.status_code) == (503, 200)
        assert submits.json() == reads.json()
        assert submits.json()["status"] == "no_submits"
        assert submits.json()["checks"]["disk"].startswith("Too little disk space")


async def test_reads_need_the_storage(house: House, client: httpx.AsyncClient) -> None:
    house.storage.away = StorageUnavailable("The artifact directory does not work.")
    answer = await client.get("/readyz/reads")
    assert (answer.status_code, answer.json()["status"]) == (503, "unavailable")


async def test_a_check_that_fails_in_an_unforeseen_way_is_a_failed_check(house: House) -> None:
    async def broken() -> None:
        raise ZeroDivisionError("x")

    report = await Readiness({"it": broken}, house.services.clock).report()
    assert report == {"it": "ZeroDivisionError: x"}


async def test_requests_are_listed_newest_first_page_by_page(client: httpx.AsyncClient) -> None:
    sent = [
        (await client.post("/test/probe", json={})).headers["x-fal-request-id"] for _ in range(5)
    ]
    first = (await client.get("/v1/requests?limit=3")).json()
    rest = (await client.get(f"/v1/requests?limit=3&before={first['next_before']}")).json()
    listed = [request["request_id"] for request in (*first["requests"], *rest["requests"])]
    assert listed == sent[::-1]
    assert rest["next_before"] is None
    assert {request["state"] for request in first["requests"]} == {"succeeded"}


async def test_a_listed_request_is_known_again_by_the_beginning_of_its_prompt(
    client: httpx.AsyncClient,
) -> None:
    await client.post("/test/probe", json={"prompt": "a heart " * 100})
    await client.post("/test/probe", json={"prompt": 7})
    listed = (await client.get("/v1/requests")).json()["requests"]
    assert [request["prompt"] for request in listed] == [None, ("a heart " * 100)[:200]]


async def test_requests_are_listed_by_state_and_only_ones_own(house: House) -> None:
    async with house.client() as mine, house.client(house.other_key) as other:
        await mine.post("/test/probe", json={})
        await mine.post("/test/probe", json={"fail": "pipeline_failed", "message": "No."})
        failed = (await mine.get("/v1/requests?state=failed")).json()["requests"]
        assert [request["error"] for request in failed] == [
            {"code": "pipeline_failed", "message": "No."}
        ]
        assert (await other.get("/v1/requests")).json()["requests"] == []


async def test_a_request_is_shown_with_its_input_and_its_log_to_its_owner_only(
    house: House,
) -> None:
    async with house.client() as mine, house.client(house.other_key) as other:
        sent = await mine.post("/test/probe", json={"echo": "hello"})
        path = f"/v1/requests/{sent.headers['x-fal-request-id']}"
        shown = (await mine.get(path)).json()
        assert shown["state"] == "succeeded"
        assert shown["input"]["echo"] == "hello"
        assert shown["log"][0]["message"] == "Queued."
        assert (await other.get(path)).status_code == 404


async def test_a_finished_request_cannot_be_cancelled_and_says_so(
    client: httpx.AsyncClient,
) -> None:
    sent = await client.post("/test/probe", json={})
    path = f"/v1/requests/{sent.headers['x-fal-request-id']}/cancel"
    assert (await client.put(path)).json() == {"verdict": "already_final"}


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=x", "limit=99999999999999", "state=done", "before=1"]
)
async def test_a_wrong_query_is_named(client: httpx.AsyncClient, query: str) -> None:
    answer = await client.get(f"/v1/requests?{query}")
    assert answer.status_code == 422
    assert answer.json()["detail"][0]["loc"] == ["query", query.partition("=")[0]]


async def test_the_status_shows_the_bounds_of_pools_that_were_never_used() -> None:
    pools = {"clips": PoolConfig(families=("video",), min_replicas=0, max_replicas=4)}
    async with build_house(pools=pools, replica=False) as house, house.client() as client:
        await house.queue.submit(new(pool="gone"))
        shown = (await client.get("/v1/status")).json()["pools"]
    assert (shown["clips"]["min_replicas"], shown["clips"]["max_replicas"]) == (0, 4)
    assert shown["clips"]["queued"] == 0
    assert (shown["gone"]["min_replicas"], shown["gone"]["queued"]) == (None, 1)


async def test_the_installations_figures_take_a_stronger_key(house: House) -> None:
    async with house.client() as strong, house.client(house.weak_key) as weak:
        await strong.post("/test/probe", json={})
        figures = (await strong.get("/v1/status")).json()
        assert figures["pools"]["studio"]["queued"] == 0
        assert figures["demo"] is True
        assert (await weak.get("/v1/status")).status_code == 403
