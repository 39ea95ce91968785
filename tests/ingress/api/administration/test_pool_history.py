"""``/v1/status/history``: what the pools had in the last hours."""

from __future__ import annotations

import httpx
import pytest

from tests.ingress.house import House
from tests.queue.requests import new

PATH = "/v1/status/history"


async def test_the_last_hour_is_shown_by_minute_and_a_day_by_ten(
    house: House, client: httpx.AsyncClient
) -> None:
    request = await house.queue.submit(new())
    await house.queue.pool_history.sample()
    hour = (await client.get(PATH)).json()
    assert hour["step_s"] == 60
    (point,) = hour["pools"][request.pool]
    assert (point["queued"], point["running"]) == (1, 0)
    day = (await client.get(PATH, params={"hours": 24})).json()
    assert (day["step_s"], day["pools"].keys()) == (600, hour["pools"].keys())


@pytest.mark.parametrize("hours", ["25", "-1", "many"])
async def test_other_hours_are_refused(client: httpx.AsyncClient, hours: str) -> None:
    answer = await client.get(PATH, params={"hours": hours})
    assert answer.status_code == 422
    assert answer.json()["detail"][0]["loc"] == ["query", "hours"]
