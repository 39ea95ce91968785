"""Previews and progress of a running request, over HTTP."""

from __future__ import annotations

import httpx

from serve_app.domain.lease import Ask, LeaseKey, Report
from serve_app.domain.media.data_uri import data_uri
from serve_app.domain.progress import Preview, Progress, Stage
from tests.ingress.house import House, build_house

JPEG = b"\xff\xd8\xff an image"


class Maker:
    """Replica whose reports the test decides."""

    def __init__(self, house: House) -> None:
        self._queue = house.queue
        self.lease_key = LeaseKey("", 0)

    async def take(self) -> None:
        work = await self._queue.ask(Ask("r1", "actor-1", "studio", 1))
        self.lease_key = work.leases[0].key

    async def report(
        self, step: int, stage: Stage = Stage.DENOISING, preview: Preview | None = None
    ) -> bool:
        """True if a client polls for previews."""
        progress = Progress(stage, step, 8, rate=2.0)
        previews = () if preview is None else ((self.lease_key, preview),)
        reply = await self._queue.report(
            Report("r1", (self.lease_key,), ((self.lease_key, progress),), previews)
        )
        return self.lease_key in reply.watched


async def begin_request(
    house: House, client: httpx.AsyncClient, **headers: str
) -> tuple[Maker, dict[str, str]]:
    answer = await client.post("/queue/test/probe", json={}, headers=headers)
    assert answer.status_code == 200, answer.text
    maker = Maker(house)
    await maker.take()
    return maker, answer.json()


async def ours(client: httpx.AsyncClient, submitted: dict[str, str]) -> dict[str, object]:
    return (await client.get(submitted["status_url"])).json()["darkroom"]


async def test_asking_for_a_preview_makes_one(idle: House, idle_client: httpx.AsyncClient) -> None:
    maker, submitted = await begin_request(idle, idle_client)
    await maker.report(1)
    url = str((await ours(idle_client, submitted))["preview"])
    assert url.endswith(f"/v1/requests/{submitted['request_id']}/preview")
    assert not await maker.report(2), "a status alone makes no preview"
    assert (await idle_client.get(url)).status_code == 204
    assert await maker.report(3)
    await maker.report(4, preview=Preview(3, JPEG))
    url = str((await ours(idle_client, submitted))["preview"])
    assert url.endswith("?attempt=1&step=3")
    answer = await idle_client.get(url)
    assert (answer.status_code, answer.content) == (200, JPEG)
    assert answer.headers["content-type"] == "image/jpeg"
    assert answer.headers["x-darkroom-step"] == "3"
    assert answer.headers["cache-control"] == "private, no-store"


async def test_a_status_has_a_new_preview_on_request(
    idle: House, idle_client: httpx.AsyncClient
) -> None:
    maker, submitted = await begin_request(idle, idle_client)
    await maker.report(1)
    url = f"{submitted['status_url']}?previews=1"
    assert "images" not in (await idle_client.get(url)).json()
    assert await maker.report(2), "the call has asked for one"
    await maker.report(3, preview=Preview(2, JPEG))
    (image,) = (await idle_client.get(url)).json()["images"]
    assert image == {"url": data_uri(JPEG, "image/jpeg"), "content_type": "image/jpeg"}


async def test_a_new_preview_ends_the_hold_of_a_poll(
    idle: House, idle_client: httpx.AsyncClient
) -> None:
    maker, submitted = await begin_request(idle, idle_client)
    await maker.report(1)
    before = (await idle_client.get(submitted["status_url"])).json()
    await maker.report(1, preview=Preview(1, JPEG))
    after = (await idle_client.get(submitted["status_url"])).json()
    assert before["darkroom"]["preview"] != after["darkroom"]["preview"]


async def test_statuses_contain_the_rate_and_the_time_that_is_left(
    idle: House, idle_client: httpx.AsyncClient
) -> None:
    maker, submitted = await begin_request(idle, idle_client)
    await maker.report(2)
    status = await ours(idle_client, submitted)
    assert (status["rate"], status["left_s"]) == (2.0, 3.0)
    shown = (await idle_client.get(f"/v1/requests/{submitted['request_id']}")).json()
    assert shown["progress"]["left_s"] == 3.0


async def test_there_is_no_address_before_there_can_be_something_to_see(
    idle: House, idle_client: httpx.AsyncClient
) -> None:
    maker, submitted = await begin_request(idle, idle_client)
    assert (await ours(idle_client, submitted))["preview"] is None
    await maker.report(0, Stage.LOADING)
    assert (await ours(idle_client, submitted))["preview"] is None


async def test_another_tenant_sees_nothing(idle: House, idle_client: httpx.AsyncClient) -> None:
    maker, submitted = await begin_request(idle, idle_client)
    await maker.report(1, preview=Preview(1, JPEG))
    url = f"/v1/requests/{submitted['request_id']}/preview"
    async with idle.client(idle.other_key) as other:
        answer = await other.get(url)
    assert answer.status_code == 404
    assert JPEG not in answer.content
    assert not await maker.report(2)
    answer = await idle_client.get(url, headers={"Authorization": ""})
    assert answer.status_code == 401


async def test_a_request_can_be_submitted_without_previews(
    idle: House, idle_client: httpx.AsyncClient
) -> None:
    maker, submitted = await begin_request(idle, idle_client, **{"X-Darkroom-Preview": "0"})
    await maker.report(1)
    assert (await ours(idle_client, submitted))["preview"] is None
    answer = await idle_client.get(f"/v1/requests/{submitted['request_id']}/preview")
    assert answer.status_code == 404
    assert "without previews" in answer.json()["detail"]
    assert not await maker.report(2)


async def test_an_installation_can_do_without_previews() -> None:
    async with build_house(replica=False, previews=False) as house, house.client() as client:
        maker, submitted = await begin_request(house, client)
        await maker.report(1)
        assert (await ours(client, submitted))["preview"] is None
        answer = await client.get(f"/v1/requests/{submitted['request_id']}/preview")
        assert answer.status_code == 404
        assert not await maker.report(2)


async def test_a_header_that_says_neither_is_refused(idle_client: httpx.AsyncClient) -> None:
    headers = {"X-Darkroom-Preview": "maybe"}
    answer = await idle_client.post("/queue/test/probe", json={}, headers=headers)
    assert answer.status_code == 422
