"""Loads that no request waits for: what they leave alone, and when they end."""

import threading

import pytest

from deployments.engine.loading.loads import LoadPlan, NoSpareRoom, SpareLoadStopped
from tests.engine.loading.test_residency import Pipeline, engine, loaded_names, plan, small, use

__all__ = ["engine", "small"]

pytestmark = pytest.mark.engine


def test_kept_weights_go_last_and_a_load_that_no_request_waits_for_evicts_none_of_them(small):
    for name in ("kept", "a", "b"):
        use(small, name, 300)
    small.keep({"kept"}, ())
    spare = small.acquire("c", plan(300), spare=True)
    spare.future.result(30)
    small.release(spare)
    assert loaded_names(small, "kept", "a", "b", "c") == ["kept", "b", "c"]
    with pytest.raises(NoSpareRoom, match="kept leaves"):
        small.acquire("large", plan(800), spare=True).future.result(30)
    assert loaded_names(small, "kept", "b", "c") == ["kept", "b", "c"]
    use(small, "large", 800)
    assert loaded_names(small, "kept", "b", "c", "large") == ["large"]


def test_a_load_that_no_request_waits_for_evicts_nothing_that_queued_requests_need(small):
    for name in ("needed", "a"):
        use(small, name, 300)
    small.keep((), (), {"needed", "b"})
    spare = small.acquire("b", plan(700), spare=True)
    spare.future.result(30)
    small.release(spare)
    assert loaded_names(small, "needed", "a", "b") == ["needed", "b"]
    with pytest.raises(NoSpareRoom):
        small.acquire("c", plan(300), spare=True).future.result(30)
    use(small, "c", 300)  # a request evicts the longest unused
    assert loaded_names(small, "needed", "b", "c") == ["b", "c"]


def test_a_load_for_nobody_ends_when_a_request_comes_for_other_weights(small):
    go, loading = threading.Event(), threading.Event()

    def load(*_):
        loading.set()
        go.wait(30)
        return Pipeline(300)

    spare = small.acquire("it", LoadPlan(load), spare=True)
    assert loading.wait(30)
    claim = small.acquire("asked", plan(300))
    go.set()
    with pytest.raises(SpareLoadStopped):
        spare.future.result(30)
    assert claim.future.result(30) is small.find("asked")
    assert small.find("it") is None
    use(small, "it", 300)


def test_a_load_for_nobody_becomes_that_of_a_request_that_comes_to_wait_for_it(small):
    use(small, "kept", 900)
    small.keep({"kept"}, ())
    go, loading = threading.Event(), threading.Event()

    def load(*_):
        loading.set()
        go.wait(30)
        return Pipeline(300)

    spare = small.acquire("it", LoadPlan(load), spare=True)
    assert loading.wait(30)
    claim = small.acquire("it", LoadPlan(load))
    go.set()
    assert claim.future.result(30) is spare.future.result(30) is small.find("it")
    assert small.find("kept") is None


def test_a_request_that_comes_when_a_load_for_nobody_gives_up_is_served(small):
    use(small, "kept", 900)
    small.keep({"kept"}, ())
    given_up, late = small._give_up_spare, []

    def a_moment_before(name, plan, error):
        late.append(small.acquire(name, plan))
        given_up(name, plan, error)

    small._give_up_spare = a_moment_before
    with pytest.raises(NoSpareRoom):
        small.acquire("it", plan(300), spare=True).future.result(30)
    assert isinstance(late[0].future.result(30), Pipeline)
