"""Realtime sessions: frames in, images out, without the queue."""

from __future__ import annotations

import base64
from decimal import Decimal

import httpx
import msgpack
import pytest

from serve_app.domain.request import State
from serve_app.ingress.realtime import session
from serve_app.settings import BudgetConfig, TenantLimits
from tests.deployments.waiting import until
from tests.ingress.house import House, build_house
from tests.ingress.socket import connect


async def sessions_of(house: House) -> list:
    """Requests of sessions, newest first."""
    page = await house.queue.page("default")
    return [request for request in page if request.input == {"realtime": True}]


async def test_a_frame_is_answered_with_its_images_inside(house: House) -> None:
    async with connect(house) as client:
        client.send(artifacts=1, content="abc", echo="é", request_id="r-1")
        answer = await client.hear()
    (image,) = answer["images"]
    assert image["content"] == b"abc"
    assert image["content_type"] == "application/octet-stream"
    assert "artifact" not in image
    assert (answer["echo"], answer["request_id"]) == ("é", "r-1")


async def test_with_sync_mode_an_image_is_a_data_uri(house: House) -> None:
    async with connect(house, "/run/test/probe/realtime") as client:
        client.send(artifacts=1, content="abc", sync_mode=True)
        (image,) = (await client.hear())["images"]
    assert base64.b64decode(image["url"].partition(",")[2]) == b"abc"
    assert "content" not in image


async def test_bytes_in_a_frame_become_data_uris(house: House) -> None:
    async with connect(house) as client:
        client.send(echo=[b"\xff\xd8\xff image"], nothing=None)
        answer = await client.hear()
    assert answer["echo"][0].startswith("data:image/jpeg;base64,")
    assert "nothing" not in house.replica.drawn[0].input


async def test_a_session_holds_one_lease_and_each_frame_has_a_usage_line(house: House) -> None:
    async with connect(house) as client:
        for number in range(3):
            client.send(echo=number)
            assert (await client.hear())["echo"] == number
        (session,) = await sessions_of(house)
        assert session.state is State.RUNNING
        assert (await house.queue.demand())["studio"].running == 1
    drawn = [frame.request_id for frame in house.replica.drawn]
    assert len(set(drawn)) == 3
    assert house.queue.usage == [*drawn, session.id]
    (session,) = await sessions_of(house)
    assert session.state is State.SUCCEEDED


async def test_frames_are_billed_at_the_price_of_their_endpoint_to_the_key_of_the_session() -> None:
    price = {"unit": "request", "amount": "0.02", "currency": "EUR"}
    async with build_house(prices={"test/probe": price}) as house:
        async with connect(house) as client:
            for number in range(3):
                client.send(echo=number)
                await client.hear()
        await until(lambda: len(house.queue.usage) == 4)  # the session's own comes last
        async with house.client() as asking:
            answer = await asking.get("/v1/usage", params={"by": "key"})
            assert house.key.startswith(answer.json()["results"][0]["key_id"])
            assert answer.json()["costs"] == [{"currency": "EUR", "cost": 0.06}]


@pytest.mark.parametrize(
    ("message", "word"),
    [
        (msgpack.packb({"prompt": "x", "num_inference_steps": 99}), "num_inference_steps"),
        (msgpack.packb([1, 2]), "map"),
        (msgpack.packb({1: 2}), "strict_map_key"),
        (msgpack.packb({"a": msgpack.Timestamp(1)}), "Timestamp"),
        (msgpack.packb({"a": float("nan")}), "finite"),
        (msgpack.packb({"a": "\0"}), "NUL"),
        (b"\xc1", ""),
        (b"", ""),
        (b"\x81\xa1a" + b"\x91" * 100_000, "deeply"),
        (b"\x81\xa1a" + b"\x91" * 40 + b"\x01", "deeply"),
        (b"\x81\xa1a\xdf\xff\xff\xff\xff", ""),
        (b"x" * 3000, "2048"),
    ],
)
async def test_a_wrong_frame_is_refused_in_a_sentence_and_the_session_goes_on(
    message: bytes, word: str
) -> None:
    async with (
        build_house(max_frame_bytes=2048 if message[:1] == b"x" else 1 << 20) as house,
        connect(house, "/fal-ai/flux/schnell/realtime") as client,
    ):
        client.send_bytes(message)
        refusal = await client.hear()
        assert refusal["type"] == "x-fal-error"
        assert word in refusal["reason"]
        client.send(prompt="x")
        assert (await client.hear())["prompt"] == "x"


async def test_a_frame_neither_makes_drafts_nor_goes_on_from_one() -> None:
    async with build_house() as house, connect(house, "/fal-ai/flux/schnell/realtime") as client:
        for field, value in {"draft": {"count": 2}, "from_draft": "one"}.items():
            client.send(prompt="x", **{field: value})
            assert (await client.hear())["reason"].startswith(f"{field}: ")
        client.send(prompt="x")
        assert (await client.hear())["prompt"] == "x"


async def test_text_is_refused(house: House) -> None:
    async with connect(house) as client:
        client.send_text('{"echo": 1}')
        assert "msgpack" in (await client.hear())["reason"]


async def test_a_frame_that_fails_says_why_and_the_session_goes_on(house: House) -> None:
    async with connect(house) as client:
        client.send(fail="pipeline_failed", message="No paint.", request_id=7)
        failure = await client.hear()
        assert failure["error"] == "INTERNAL_SERVER_ERROR"
        assert (failure["reason"], failure["request_id"]) == ("No paint.", 7)
        client.send(echo=1)
        assert (await client.hear())["echo"] == 1


async def test_frames_that_have_not_begun_give_way_to_newer_ones(house: House) -> None:
    async with connect(house, max_buffering=1) as client:
        client.send(echo=0)
        await client.hear()
        client.send(echo=1, sleep_s=0.3)
        await until(lambda: len(house.replica.drawn) == 2)
        for number in range(2, 6):
            client.send(echo=number, request_id=number)
        heard = [await client.hear() for _ in range(5)]
    dropped = [message["request_id"] for message in heard if message.get("action") == "dropped"]
    assert dropped == [2, 3, 4]
    assert [message["echo"] for message in heard if "echo" in message] == [1, 5]


async def test_without_max_buffering_frames_are_answered_in_their_order(house: House) -> None:
    async with connect(house) as client:
        for number in range(20):
            client.send(echo=number, sleep_s=0.01)
        assert [(await client.hear())["echo"] for _ in range(20)] == list(range(20))


@pytest.mark.parametrize("value", ["61", "0", "-1", "x"])
async def test_a_wrong_max_buffering_is_refused(house: House, value: str) -> None:
    async with connect(house, max_buffering=value) as client:
        assert "max_buffering" in (await client.hear())["reason"]
        assert await client.end() == 1008


async def test_a_limit_of_costs_is_refused_and_not_ignored(house: House) -> None:
    async with connect(house, headers={"x-darkroom-max-cost": "1 EUR"}) as client:
        refusal = await client.hear()
        assert "The header X-Darkroom-Max-Cost is for requests" in refusal["reason"]
        assert await client.end() == 1008
    assert await sessions_of(house) == []


async def test_a_session_to_which_nothing_comes_ends_cleanly() -> None:
    async with build_house(realtime_idle_s=0.2) as house, connect(house) as client:
        client.send(echo=1)
        await client.hear()
        assert await client.end() == 1000
        await house.services.background.join()
        (session,) = await sessions_of(house)
        assert session.state is State.SUCCEEDED


async def test_a_client_that_goes_away_gives_its_slot_back(house: House) -> None:
    async with connect(house) as client:
        client.send(sleep_s=60)
        await until(lambda: house.replica.drawn != [])
    (session,) = await sessions_of(house)
    assert session.state is State.SUCCEEDED
    assert (await house.queue.demand())["studio"].running == 0


async def test_a_replica_that_dies_ends_its_sessions_with_the_reason(house: House) -> None:
    async with connect(house) as client:
        client.send(echo=1)
        await client.hear()
        await house.replica.aclose()
        house.liveness.buried.add("actor-1")
        last = await client.hear()
        assert (last["type"], last["error"]) == ("x-fal-error", "RUNNER_DISCONNECTED")
        assert "died" in last["reason"]
        assert await client.end() == 1011
    (session,) = await sessions_of(house)
    assert session.state is State.CANCELLED, "no one else is to hold it"


async def test_cancelling_a_sessions_request_ends_it(house: House) -> None:
    async with connect(house) as client:
        client.send(echo=1)
        await client.hear()
        (session,) = await sessions_of(house)
        await house.queue.cancel("default", session.id)
        assert "cancelled" in (await client.hear())["reason"]
        assert await client.end() == 1000


async def test_a_session_ends_when_its_key_is_revoked(house: House) -> None:
    async with connect(house) as client:
        client.send(echo=1)
        await client.hear()
        assert await house.keys.revoke(house.key.partition(":")[0])
        message = await client.hear()
        assert (message["error"], message["reason"]) == (
            "Unauthorized",
            "The API key is no longer valid.",
        )
        assert await client.end() == 1008


async def test_a_session_ends_when_its_tenant_is_disabled(
    house: House, client: httpx.AsyncClient
) -> None:
    key = str(await house.keys.create("cat"))
    async with connect(house, key=key) as opened:
        opened.send(echo=1)
        await opened.hear()
        answer = await client.put("/v1/tenants/cat/disable", json={})
        assert answer.status_code == 200, answer.text
        assert "The tenant cat is disabled." in (await opened.hear())["reason"]
        assert await opened.end() == 1008


async def test_a_session_ends_when_the_budget_for_its_frames_is_used_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(session, "BUDGET_S", 0.05)
    budget = BudgetConfig(amount=Decimal("0.05"), currency="EUR")
    limits = {"default": TenantLimits(budget=budget)}
    price = {"unit": "image", "amount": "0.02", "currency": "EUR"}
    async with build_house(tenant_limits=limits, prices={"test/probe": price}) as house:
        async with connect(house) as client:
            client.send(echo=1)
            assert (await client.hear())["echo"] == 1
            with pytest.raises(TimeoutError):  # with the frame that may come, 0.04 are spent
                await client.hear(within_s=0.3)
            client.send(echo=2)
            assert (await client.hear())["echo"] == 2
            assert "Exhausted balance" in (await client.hear())["reason"]
            assert await client.end() == 1008


async def test_sessions_count_against_the_limits_of_their_tenant() -> None:
    async with build_house(max_running_per_tenant=1) as house, connect(house) as first:
        first.send(echo=1)
        await first.hear()
        async with connect(house) as second:
            second.send(echo=2)
            with pytest.raises(TimeoutError):
                await second.hear(within_s=0.3)
            first.hang_up()
            assert (await second.hear())["echo"] == 2


async def test_a_session_for_which_there_is_no_room_is_refused() -> None:
    async with build_house(max_waiting=1, replica=False) as house:
        async with house.client() as other:
            await other.post("/queue/test/probe", json={})
        async with connect(house) as client:
            assert "waiting already" in (await client.hear())["reason"]
            assert await client.end() == 1013


async def test_a_client_that_leaves_before_a_replica_is_there_is_not_waited_for(
    idle: House,
) -> None:
    async with connect(idle) as client:
        client.send(echo=1)
        await until(lambda: len(idle.queue._rows) == 1)
    (session,) = await sessions_of(idle)
    assert session.state is State.CANCELLED


@pytest.mark.parametrize(
    ("path", "word"),
    [
        ("/nobody/nothing/realtime", "nobody/nothing"),
        ("/test/unserved/realtime", "not served"),
        ("/test/probe", "realtime"),
        ("/", "realtime"),
    ],
)
async def test_where_there_is_no_session_to_be_had_the_reason_is_said(
    house: House, path: str, word: str
) -> None:
    async with connect(house, path) as client:
        assert word in (await client.hear())["reason"]
        assert await client.end() == 1008


@pytest.mark.parametrize("key", [None, "dk_no:0123456789abcdef"])
async def test_without_a_good_key_the_client_is_asked_to_authenticate(
    house: House, key: str | None
) -> None:
    async with connect(house, key=key) as client:
        message = await client.hear()
        # The JavaScript client reads the first two, the Python client the third.
        assert (message["status"], message["error"], message["type"]) == (
            *("error", "Unauthorized"),
            "x-fal-error",
        )
        assert await client.end() == 1008


async def test_a_token_opens_sessions_of_its_endpoints(
    house: House, client: httpx.AsyncClient
) -> None:
    answer = await client.post("/rest/tokens/", json={"allowed_apps": ["probe"]})
    token = answer.json()
    async with connect(house, key=None, fal_jwt_token=token) as session:
        session.send(echo=1)
        assert (await session.hear())["echo"] == 1
    async with connect(
        house, "/fal-ai/flux/schnell/realtime", key=None, fal_jwt_token=token
    ) as session:
        assert "does not allow" in (await session.hear())["reason"]
        assert await session.end() == 1008


async def test_an_endpoint_whose_id_ends_so_is_called_by_its_own_name() -> None:
    from serve_app.ingress.http.paths import strip_verb  # noqa: PLC0415

    known = {"owner/model/realtime", "owner/other"}.__contains__
    assert strip_verb("owner/model/realtime", "realtime", known) == "owner/model/realtime"
    assert strip_verb("owner/model/realtime/realtime", "realtime", known) == "owner/model/realtime"
    assert strip_verb("owner/other/realtime", "realtime", known) == "owner/other"
    assert strip_verb("owner/none/realtime", "realtime", known) == "owner/none"
    assert strip_verb("owner/other", "realtime", known) is None


async def test_sessions_and_frames_are_counted(house: House) -> None:
    def count(name: str, **labels: str) -> float | None:
        return house.services.metrics.registry.get_sample_value(name, labels)

    async with connect(house) as client:
        client.send(echo=1)
        await client.hear()
        client.send_bytes(b"")
        await client.hear()
        assert count("darkroom_realtime_sessions", endpoint="test/probe") == 1
    assert count("darkroom_realtime_sessions", endpoint="test/probe") == 0
    frames = "darkroom_realtime_frames_total"
    assert count(frames, endpoint="test/probe", end="drawn") == 1
    assert count(frames, endpoint="test/probe", end="refused") == 1
