"""Predictions of which parts fail after their request was stored."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from serve_app.domain.errors import DatabaseUnavailable, StorageUnavailable
from serve_app.domain.request import Request
from tests.fakes.clock import FakeClock
from tests.ingress.house import OTHERS, House, built

CREATE = "/replicate/v1/models/test/images/predictions"


def fail(monkeypatch: pytest.MonkeyPatch, house: House, *names: str) -> None:
    async def failing(*_: Any) -> Any:
        raise DatabaseUnavailable("The database does not answer.")

    for name in names:
        monkeypatch.setattr(house.queue, name, failing)


async def created(client: httpx.AsyncClient, **headers: str) -> httpx.Response:
    return await client.post(CREATE, json={"input": {"prompt": "x"}}, headers=headers)


async def test_a_prediction_whose_wait_fails_is_answered_with_its_id(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with built(catalog=OTHERS, replica=False) as house, house.client() as client:
        with monkeypatch.context() as broken:
            fail(broken, house, "wait")
            answer = await created(client, prefer="wait=5")
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

    async with built(clock=clock, catalog=OTHERS, replica=False) as house, house.client() as client:
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


async def test_a_prediction_whose_log_cannot_be_read_is_answered_without_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with built(catalog=OTHERS, replica=False) as house, house.client() as client:
        fail(monkeypatch, house, "lines")
        answer = await created(client)
        assert (answer.status_code, answer.json()["logs"]) == (201, "")


async def test_a_prediction_whose_files_cannot_be_read_is_answered_with_its_id(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with built(catalog=OTHERS) as house, house.client() as client:
        # To its own clients, Replicate's protocol gives files inside the answer over plain HTTP.
        own = {"user-agent": "replicate-python/1.0", "prefer": "wait=20", "idempotency-key": "one"}
        done = await created(client, **own)
        assert (done.status_code, done.json()["status"]) == (201, "succeeded")
        with monkeypatch.context() as broken:
            broken.setattr(house.storage, "away", StorageUnavailable("The storage is away."))
            repeated = await created(client, **own)
        assert (repeated.status_code, repeated.json()["status"]) == (202, "starting")
        assert repeated.json()["id"] == done.json()["id"]
        assert (await created(client, **own)).json()["output"] == done.json()["output"]
