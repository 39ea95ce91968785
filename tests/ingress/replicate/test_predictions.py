"""Predictions of which parts fail after their request was stored."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime
from typing import Any

import httpx
import pytest

from serve_app.domain.errors import DatabaseUnavailable, InvalidInput, StorageUnavailable
from serve_app.domain.request import Request
from serve_app.ingress.replicate.headers import cancel_after_s
from tests.fakes.clock import FakeClock
from tests.ingress.house import CATALOG, OTHERS, House, build_house

CREATE = "/replicate/v1/models/test/images/predictions"


def fail(monkeypatch: pytest.MonkeyPatch, house: House, *names: str) -> None:
    async def failing(*_: Any) -> Any:
        raise DatabaseUnavailable("The database does not answer.")

    for name in names:
        monkeypatch.setattr(house.queue, name, failing)


async def create_prediction(client: httpx.AsyncClient, **headers: str) -> httpx.Response:
    return await client.post(CREATE, json={"input": {"prompt": "x"}}, headers=headers)


async def test_a_prediction_whose_wait_fails_is_answered_with_its_id(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with build_house(catalog=OTHERS, replica=False) as house, house.client() as client:
        with monkeypatch.context() as broken:
            fail(broken, house, "wait")
            answer = await create_prediction(client, prefer="wait=5")
        assert answer.status_code == 202, answer.text
        assert answer.json()["status"] == "starting"
        (listed,) = (await client.get("/replicate/v1/predictions")).json()["results"]
        assert listed["id"] == answer.json()["id"]


@pytest.mark.parametrize(("wait", "left"), [("wait=8", [3]), ("wait=5", [])])
async def test_the_time_of_a_wait_begins_before_the_body_arrives(
    monkeypatch: pytest.MonkeyPatch, wait: str, left: list[float]
) -> None:
    """Replicate's client gives up half a second after the time that it asks for."""
    clock = FakeClock()

    async def slowly() -> AsyncIterator[bytes]:
        yield b'{"version": "test/images", '
        clock.advance(5)
        yield b'"input": {}}'

    async with (
        build_house(clock=clock, catalog=OTHERS, replica=False) as house,
        house.client() as client,
    ):
        waits: list[float] = []

        async def waited(tenant: str, request_id: str, timeout_s: float) -> Request:
            waits.append(timeout_s)
            return await house.queue.get(tenant, request_id)

        monkeypatch.setattr(house.queue, "wait", waited)
        headers = {"prefer": wait, "content-type": "application/json"}
        for path in (CREATE, "/replicate/v1/predictions"):
            answer = await client.post(path, content=slowly(), headers=headers)
            assert (answer.status_code, answer.json()["status"]) == (202, "starting"), answer.text
    assert waits == [*left, *left]


async def test_the_version_of_a_prediction_is_the_one_that_was_asked_for() -> None:
    async with build_house(catalog=OTHERS, replica=False) as house, house.client() as client:
        version = OTHERS.get_listed("test/images").endpoint.digest
        body = {"version": version, "input": {}}
        prediction = (await client.post("/replicate/v1/predictions", json=body)).json()
        assert prediction["version"] == version
        house.services.catalog.become(CATALOG)  # where the endpoint is another one, or none
        for path in (f"/replicate/v1/predictions/{prediction['id']}", "/replicate/v1/predictions"):
            shown = (await client.get(path)).json()
            (later,) = shown.get("results", [shown])
            assert (later["model"], later["version"]) == ("test/images", version)


@pytest.mark.parametrize(
    ("called", "shown"),
    [
        ("black-forest-labs/flux-schnell", "black-forest-labs/flux-schnell"),
        ("fal-ai/flux/schnell", "fal-ai/flux-schnell"),
        ("fal-ai/flux-schnell:{version}", "fal-ai/flux-schnell"),
        ("{version}", "fal-ai/flux-schnell"),
        ("acme/any", "acme/any"),
        ("acme/any\nname", "fal-ai/flux-schnell"),
        ("acme/" + "x" * 1000, "fal-ai/flux-schnell"),
    ],
)
async def test_the_model_of_a_prediction_is_the_one_that_was_asked_for(
    called: str, shown: str
) -> None:
    version = OTHERS.get_listed("fal-ai/flux/schnell").endpoint.digest
    aliases = dict.fromkeys(("black-forest-labs/flux-schnell", "acme/*"), "fal-ai/flux/schnell")
    building = build_house(catalog=OTHERS, replica=False, model_aliases=aliases)
    async with building as house, house.client() as client:
        body = {"version": called.format(version=version), "input": {"prompt": "x"}}
        prediction = (await client.post("/replicate/v1/predictions", json=body)).json()
        (listed,) = (await client.get("/replicate/v1/predictions")).json()["results"]
        for document in (prediction, listed):
            assert (document["model"], document["version"]) == (shown, version)
            assert document["darkroom_endpoint"] == "fal-ai/flux/schnell"


async def test_a_prediction_whose_log_cannot_be_read_is_answered_without_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with build_house(catalog=OTHERS, replica=False) as house, house.client() as client:
        fail(monkeypatch, house, "lines")
        answer = await create_prediction(client)
        assert (answer.status_code, answer.json()["logs"]) == (201, "")


async def test_a_prediction_whose_files_cannot_be_read_is_answered_with_its_id(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with build_house(catalog=OTHERS) as house, house.client() as client:
        # To its own clients, Replicate's protocol gives files inside the answer over plain HTTP.
        own = {"user-agent": "replicate-python/1.0", "prefer": "wait=20", "idempotency-key": "one"}
        done = await create_prediction(client, **own)
        assert (done.status_code, done.json()["status"]) == (201, "succeeded")
        with monkeypatch.context() as broken:
            broken.setattr(house.storage, "away", StorageUnavailable("The storage is away."))
            repeated = await create_prediction(client, **own)
        assert (repeated.status_code, repeated.json()["status"]) == (202, "starting")
        assert repeated.json()["id"] == done.json()["id"]
        assert (await create_prediction(client, **own)).json()["output"] == done.json()["output"]


@pytest.mark.parametrize(
    ("header", "seconds"),
    [("5", 5), ("30s", 30), ("5m", 300), ("1h30m", 5400), ("1H30M45S", 5445), (" 90 ", 90)],
)
def test_the_time_until_a_prediction_is_canceled(header: str, seconds: int) -> None:
    assert cancel_after_s({"cancel-after": header}) == seconds
    assert cancel_after_s({}) is None


@pytest.mark.parametrize(
    "header", ["", "4s", "0", "soon", "1.5m", "-5s", "5s5m", "1d", "m", "800h", "٣٠s", "9" * 5000]
)
async def test_a_time_that_is_none_is_refused_with_its_header(header: str) -> None:
    with pytest.raises(InvalidInput, match="Cancel-After: should be like 30s") as refused:
        cancel_after_s({"cancel-after": header})
    assert refused.value.problems[0].loc == ("header", "Cancel-After")


async def test_the_shorter_deadline_counts_and_a_late_start_is_a_failure() -> None:
    clock = FakeClock()
    async with (
        build_house(clock=clock, catalog=OTHERS, replica=False) as house,
        house.client() as client,
    ):
        wrong = await create_prediction(client, **{"cancel-after": "1s"})
        assert (wrong.status_code, "- Cancel-After: " in wrong.json()["detail"]) == (422, True)
        cases = [
            ({"cancel-after": "30s"}, 30, "canceled"),
            ({"cancel-after": "30s", "x-darkroom-deadline": "10"}, 10, "canceled"),
            ({"cancel-after": "10s", "x-darkroom-deadline": "30"}, 10, "canceled"),
            ({"cancel-after": "30s", "x-fal-request-timeout": "10"}, 30, "failed"),
        ]
        predictions = [
            (await create_prediction(client, **headers)).json() for headers, _, _ in cases
        ]
        for prediction, (_, seconds, _) in zip(predictions, cases, strict=True):
            life = datetime.fromisoformat(prediction["deadline"]) - clock.now()
            assert life.total_seconds() == pytest.approx(seconds)
        for seconds, ended in ((11, [1, 2, 3]), (20, [0])):
            clock.advance(seconds)
            for number in ended:
                await house.queue.wait("default", predictions[number]["id"], 5)
                shown = await client.get(f"/replicate/v1/predictions/{predictions[number]['id']}")
                assert shown.json()["status"] == cases[number][2], cases[number]
