"""A part that hangs ends its replica, and fails the attempts that wait for it. No real time passes:
workers block when the test says so, and their clock jumps."""

import threading
import time
from types import SimpleNamespace

import pytest

from deployments.engine.loading.loads import LoadHeartbeat
from deployments.replica import engine_replica
from serve_app.domain.endpoint import Endpoint, Weights
from serve_app.domain.errors import Misconfigured
from tests.deployments.waiting import until
from tests.fakes import family, probe_pipeline
from tests.fakes.lease_port import FakeLeasePort

pytestmark = pytest.mark.engine

LATER_S = 1e9


class Standstill:
    """Replacement for the module ``time``: a sleep lasts until the test is over."""

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


def said_to_hang(replica):
    """Message of the health check."""
    with pytest.raises(Misconfigured, match=r"it hangs, and the replica is replaced\.$") as raised:
        replica.check_health()
    return raised.value.message


async def test_what_runs_when_the_engine_hangs_fails_and_is_tried_again(
    make_rig, standstill, monkeypatch
):
    monkeypatch.setattr(probe_pipeline, "time", SimpleNamespace(sleep=standstill.sleep))
    rig = await make_rig()
    key = rig.offer("hangs", steps=2, step_ms=1)
    await rig.port.until(lambda: standstill.begun.is_set() and rig.port.renewals(key))
    rig.replica.check_health()
    rig.resources.engine._loop._turn_watch._monotonic = later
    assert said_to_hang(rig.replica).startswith("One turn of the engine has taken 1000000")
    assert rig.replica._make_ask().slots == 0
    failure = (await rig.outcome(key)).failure
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
    key = rig.offer("hangs", endpoint=slow)
    await rig.port.until(lambda: standstill.begun.is_set() and rig.port.renewals(key))
    runs = rig.offer("runs", steps=20, step_ms=10)
    await rig.wait_for_report(runs)
    rig.replica.check_health()
    rig.resources.residency._heartbeat._monotonic = later
    assert "The load of probe:slow has not reported" in said_to_hang(rig.replica)
    assert rig.replica._make_ask().slots == 0
    failure = (await rig.outcome(key)).failure
    assert (failure.code, failure.retryable) == ("replica_died", True)
    assert (await rig.outcome(runs)).failure is None
    standstill.over.set()


async def test_a_replica_whose_weights_hang_at_its_start_starts_and_is_replaced(
    make_rig, standstill, monkeypatch
):
    monkeypatch.setattr(engine_replica, "START_CHECK_S", 0.01)
    monkeypatch.setattr(family, "time", SimpleNamespace(sleep=standstill.sleep))
    monkeypatch.setattr(LoadHeartbeat, "longest", lambda _: ("probe:slow", LATER_S))
    slow = Endpoint("slow", "probe", Weights("slow"), "probe")
    rig = await make_rig(port=FakeLeasePort(ask_wait_s=0.2, keep=(((slow, "hot"),), "1")))
    assert "The load of probe:slow has not reported" in said_to_hang(rig.replica)
    assert rig.replica._make_ask().slots == 0
    standstill.over.set()


async def test_a_replica_whose_engine_has_failed_takes_nothing_more(rig):
    assert (await rig.outcome(rig.offer("one", steps=1))).succeeded
    assert rig.replica._make_ask().slots > 0
    rig.resources.engine.close()
    await until(lambda: not rig.resources.engine.alive)
    assert rig.replica._make_ask().slots == 0
    with pytest.raises(Misconfigured, match="engine"):
        rig.replica.check_health()
