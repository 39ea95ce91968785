from __future__ import annotations

import asyncio

import pytest

from serve_app.ingress.services.background import Background
from serve_app.ingress.services.health import FRESH_S, PATIENCE_S, Readiness
from tests.captured_logs import CapturedLogs
from tests.fakes.clock import FakeClock


async def test_a_shutdown_waits_for_what_still_goes_on() -> None:
    background, done = Background(), asyncio.Event()

    async def work() -> None:
        await asyncio.sleep(0.05)
        done.set()

    background.start_detached(work(), "work")
    await background.join()
    assert done.is_set()


async def test_a_failure_that_no_one_waits_for_is_in_the_log(
    caplog: CapturedLogs,
) -> None:
    async def broken() -> None:
        raise ZeroDivisionError("boom")

    background = Background()
    background.start_detached(broken(), "the work")
    await background.join()
    await asyncio.sleep(0)
    assert "the work failed: boom" in caplog.text


async def test_a_failure_that_somebody_waits_for_is_theirs(
    caplog: CapturedLogs,
) -> None:
    async def broken() -> int:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await Background().start(broken())
    assert caplog.text == ""


async def test_readiness_is_looked_at_once_a_second_however_often_it_is_asked() -> None:
    clock, looks = FakeClock(), 0

    async def check() -> None:
        nonlocal looks
        looks += 1

    readiness = Readiness({"it": check}, clock)
    await asyncio.gather(*(readiness.report() for _ in range(10)))
    assert looks == 1
    clock.advance(FRESH_S)
    assert await readiness.report() == {"it": "ok"}
    assert looks == 2


async def test_a_check_that_hangs_is_a_failed_check(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serve_app.ingress.services.health.PATIENCE_S", 0.05)

    async def hangs() -> None:
        await asyncio.Event().wait()

    assert PATIENCE_S > 1
    report = await Readiness({"it": hangs}, FakeClock()).report()
    assert report == {"it": "no response within 0.05 s"}
