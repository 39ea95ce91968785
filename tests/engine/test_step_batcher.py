"""Whose turn it is: properties over any mix of generations."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from deployments.engine.step_batcher import Candidate, StepBatcher

priorities = st.lists(st.integers(0, 2), min_size=1, max_size=8)


def turns(priorities, count, batcher=None):
    """Which generation goes on in each of ``count`` turns, when none ends."""
    batcher = batcher or StepBatcher()
    last = dict.fromkeys(range(len(priorities)), 0)
    chosen = []
    for turn in range(1, count + 1):
        candidates = [
            Candidate(n, priority, last[n], None) for n, priority in enumerate(priorities)
        ]
        (candidate,) = batcher.choose(candidates, turn)
        last[candidate.generation] = turn
        chosen.append(candidate.generation)
    return chosen


def test_nobody_to_choose_from_is_nobody_chosen():
    assert StepBatcher().choose([], 1) == ()


@given(st.integers(1, 8), st.integers(1, 50))
def test_equals_get_turns_that_differ_by_one_at_most(generations, count):
    steps = Counter(turns([1] * generations, count))
    assert max(steps.values()) - min(steps[n] for n in range(generations)) <= 1


@given(priorities)
def test_the_highest_priority_goes_first(priorities):
    (first,) = turns(priorities, 1)
    assert priorities[first] == max(priorities)


@given(priorities, st.integers(1, 40))
def test_nothing_starves(priorities, patience):
    count = len(priorities)
    chosen = turns(priorities, 3 * (patience + count + 1), StepBatcher(patience))
    for generation in range(count):
        waits = [turn for turn, n in enumerate(chosen) if n == generation]
        gaps = [after - before for before, after in zip([-1, *waits], waits, strict=False)]
        assert waits
        assert max(gaps) <= patience + count + 1


@given(priorities)
def test_the_order_is_always_the_same(priorities):
    assert turns(priorities, 30) == turns(priorities, 30)
