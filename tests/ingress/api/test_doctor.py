"""``GET /v1/doctor``: the checks of ``darkroom doctor``, on the machine of the ingress."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest

from serve_app.domain.errors import Misconfigured
from serve_app.ingress.services import health
from serve_app.ingress.services.health import Examination
from tests.deployments.waiting import until
from tests.ingress.house import House


def full() -> str:
    raise Misconfigured("The disk is full. Delete something.")


def give(house: House, examination: Examination) -> None:
    services = house.services
    services.health = replace(services.health, examination=examination)


async def test_each_check_is_shown_with_its_result_or_its_problem(house: House) -> None:
    give(house, Examination(lambda: [("memory", lambda: "16 GB"), ("disk", full)]))
    async with house.client() as client:
        answer = await client.get("/v1/doctor")
    assert answer.json() == {
        "problems": 1,
        "findings": [
            {"name": "memory", "ok": True, "message": "16 GB"},
            {"name": "disk", "ok": False, "message": "The disk is full. Delete something."},
        ],
    }


async def test_the_doctor_is_for_operators(house: House) -> None:
    async with house.client(house.weak_key) as client:
        assert (await client.get("/v1/doctor")).status_code == 403


async def test_checks_that_do_not_end_are_a_503_and_do_not_run_twice_at_once(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "EXAMINATION_S", 0.05)
    let_go, runs = threading.Event(), list[int]()

    def waits() -> str:
        runs.append(1)
        let_go.wait(60)
        return "it came back"

    give(house, Examination(lambda: [("provider", waits)]))
    async with house.client() as client:
        for _ in range(2):
            answer = await client.get("/v1/doctor")
            assert answer.status_code == 503
            assert "darkroom doctor" in answer.text
        await until(lambda: runs)
        assert len(runs) == 1
        let_go.set()
        monkeypatch.setattr(health, "EXAMINATION_S", 60)
        findings = (await client.get("/v1/doctor")).json()["findings"]
    assert findings == [{"name": "provider", "ok": True, "message": "it came back"}]
