"""Which generations begin when more are submitted than may run at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from deployments.engine.engine import Engine
from deployments.engine.loop.options import GenerationOptions
from deployments.engine.loop.run_queue import MAX_OVERTAKEN
from tests.engine.gate import Gate

pytestmark = pytest.mark.engine


def deadline_options(deadline_s, priority=0):
    return {"options": GenerationOptions(priority=priority, deadline_s=deadline_s)}


def start_order(terms: Sequence[Mapping[str, Any]], times: Sequence[float] = ()) -> list[int]:
    """Numbers of ``terms`` in the order in which they begin, one at a time. ``times``: on the
    engine's clock, when each is submitted."""
    order: list[int] = []

    def begin(number: int) -> None:
        order.append(number)

    now = [0.0]
    with Engine(max_generations=1, monotonic=lambda: now[0]) as engine:
        engine.add("it", begin)
        gate = Gate(engine)
        running: list[Any] = []
        for number, its in enumerate(terms):
            now[0] = times[number] if times else 0.0
            running.append(engine.submit(pipeline="it", number=number, **its))
        gate.open()
        for generation in running:
            generation.result(60)
    return order


def test_without_deadlines_they_begin_in_their_order_and_by_priority():
    assert start_order([{}, {}, deadline_options(None, priority=1), {}]) == [2, 0, 1, 3]


def test_of_equal_priority_the_earliest_deadline_begins_first():
    terms = [{}, deadline_options(30), deadline_options(10), deadline_options(None, priority=1)]
    assert start_order(terms) == [3, 2, 1, 0]


def test_a_deadline_counts_from_its_submission_and_not_from_the_beginning():
    """The one that has waited for 50 s of its 60 has less left than a new one with 20."""
    assert start_order([deadline_options(20), deadline_options(60)], times=[50.0, 0.0]) == [1, 0]


def test_one_without_a_deadline_is_passed_by_few_however_many_come():
    order = start_order([{}, *[deadline_options(10)] * (3 * MAX_OVERTAKEN)])
    assert order.index(0) == MAX_OVERTAKEN
