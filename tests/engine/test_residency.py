"""Loading on demand."""

import threading

import pytest

from deployments.engine.engine import Engine
from deployments.engine.residency import Residency
from serve_app.domain.errors import WeightsUnavailable

pytestmark = pytest.mark.engine


@pytest.fixture
def engine():
    with Engine() as engine:
        yield engine


@pytest.fixture
def residency(engine):
    residency = Residency(engine)
    yield residency
    residency.close()


class Pipeline:
    def __call__(self):
        return "made"


def test_many_who_ask_for_one_pipeline_load_it_once(engine, residency):
    go, loads = threading.Event(), []

    def load():
        go.wait(30)
        loads.append(1)
        return Pipeline()

    waiting = [residency.load("it", load) for _ in range(5)]
    assert residency.find("it") is None
    go.set()
    pipelines = {future.result(30) for future in waiting}
    assert len(pipelines) == len(loads) == 1
    assert residency.load("it", load).result(30) in pipelines
    assert residency.find("it") in pipelines
    assert engine.submit(pipeline="it").result(30) == "made"


def test_a_failed_load_is_told_to_those_who_wait_and_tried_again_for_the_next(residency):
    attempts = []

    def load():
        attempts.append(1)
        if len(attempts) == 1:
            raise WeightsUnavailable("Not yet.")
        return Pipeline()

    with pytest.raises(WeightsUnavailable, match="Not yet"):
        residency.load("it", load).result(30)
    assert residency.load("it", load).result(30) is residency.find("it")


def test_one_failed_load_leaves_the_others_alone(residency):
    def fail():
        raise WeightsUnavailable("Never.")

    failing, loading = residency.load("bad", fail), residency.load("good", Pipeline)
    assert isinstance(loading.result(30), Pipeline)
    with pytest.raises(WeightsUnavailable):
        failing.result(30)
    assert residency.find("bad") is None
