"""What hangs ends its replica, and by itself those who wait for it. No time passes here: what works
stands still when the test says so, and its clock jumps."""

import threading
import time
from types import SimpleNamespace

import pytest

from serve_app.domain.endpoint import Endpoint, Weights
from serve_app.domain.errors import Misconfigured
from tests.fakes import family, probe_pipeline

pytestmark = pytest.mark.engine

LATER_S = 1e9


class Standstill:
    """In place of the module ``time``: whoever sleeps goes on when the test is over."""

    def __init__(self):
        self.begun, self.over = threading.Event(), threading.Event()

    def sleep(self, _seconds):
        self.begun.set()
        self.over.wait(60)


@pytest.fixture
def standstill():
    standstill = Standstill()
    yield standstill
    standstill.over.set()


def later():
    return time.monotonic() + LATER_S


def said_to_hang(core):
    """What a check of its health says."""
    with pytest.raises(Misconfigured, match=r"it hangs, and the replica is replaced\.$") as said:
        core.check()
    return said.value.message


async def test_what_runs_when_the_engine_hangs_fails_and_is_tried_again(
    make_rig, standstill, monkeypatch
):
    monkeypatch.setattr(probe_pipeline, "time", SimpleNamespace(sleep=standstill.sleep))
    rig = await make_rig()
    held = rig.offer("hangs", steps=2, step_ms=1)
    await rig.port.until(lambda: standstill.begun.is_set() and rig.port.renewals(held))
    rig.core.check()
    rig.workshop.engine._loop._turns._monotonic = later
    assert said_to_hang(rig.core).startswith("One turn of the engine takes 1000000")
    assert rig.core._make_ask().slots == 0
    failure = (await rig.outcome(held)).failure
    assert (failure.code, failure.retryable) == ("replica_died", True)
    assert failure.message.startswith("One turn of the engine")
    assert rig.port.handed_back == []
    standstill.over.set()


async def test_who_waits_for_a_load_that_hangs_fails_and_what_is_loaded_goes_on(
    make_rig, standstill, monkeypatch
):
    rig = await make_rig()
    await rig.outcome(rig.offer("quick", steps=1))
    monkeypatch.setattr(family, "time", SimpleNamespace(sleep=standstill.sleep))
    slow = Endpoint("slow", "probe", Weights("slow"), "probe")
    held = rig.offer("hangs", endpoint=slow)
    await rig.port.until(lambda: standstill.begun.is_set() and rig.port.renewals(held))
    runs = rig.offer("runs", steps=20, step_ms=10)
    await rig.reported(runs)
    rig.core.check()
    rig.workshop.residency._silence._monotonic = later
    assert "nothing was heard of the load of probe:slow" in said_to_hang(rig.core)
    assert rig.core._make_ask().slots == 0
    failure = (await rig.outcome(held)).failure
    assert (failure.code, failure.retryable) == ("replica_died", True)
    assert (await rig.outcome(runs)).failure is None
    standstill.over.set()
