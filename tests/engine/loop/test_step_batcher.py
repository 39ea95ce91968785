"""Whose turn it is, and who shares it: properties over any mix of generations."""

from collections import Counter
from dataclasses import replace
from itertools import chain, pairwise
from math import inf

from hypothesis import given
from hypothesis import strategies as st

from deployments.engine.loop.step_batcher import Candidate, StepBatcher

MOST = 3
priorities = st.lists(st.integers(0, 2), min_size=1, max_size=8)
candidates = st.builds(
    Candidate,
    generation=st.just(0),
    priority=st.integers(0, 2),
    last_turn=st.just(0),
    key=st.sampled_from([None, "a", "b", "c"]),
    deadline=st.sampled_from([inf, 1.0, 2.0]),
    remaining=st.sampled_from([inf, 1.0, 5.0, 50.0]),
    max_calls=st.just(MOST),
)
mixes = st.lists(candidates, min_size=1, max_size=8).map(
    lambda those: [replace(each, generation=n) for n, each in enumerate(those)]
)


def turns(waiting, count, batcher=None):
    """Which generations go on in each of ``count`` turns, when none ends or comes nearer to it."""
    batcher = batcher or StepBatcher()
    waiting = {each.generation: each for each in waiting}
    chosen = []
    for turn in range(1, count + 1):
        going = [each.generation for each in batcher.choose(list(waiting.values()), turn)]
        for generation in going:
            waiting[generation] = replace(waiting[generation], last_turn=turn)
        chosen.append(going)
    return chosen


def of_priorities(priorities):
    """None shares its call with another."""
    return [Candidate(n, priority, 0, f"key {n}") for n, priority in enumerate(priorities)]


def test_from_no_candidates_none_is_chosen():
    assert StepBatcher().choose([], 1) == ()


@given(st.integers(1, 8), st.integers(1, 50))
def test_equals_get_turns_that_differ_by_one_at_most(generations, count):
    steps = Counter(chain(*turns(of_priorities([1] * generations), count)))
    assert max(steps.values()) - min(steps[n] for n in range(generations)) <= 1


@given(mixes, st.integers(1, 10))
def test_the_highest_priority_goes_first(mix, turn):
    leader, *_ = StepBatcher().choose(mix, turn)
    assert leader.priority == max(each.priority for each in mix)


@given(mixes, st.integers(1, 60))
def test_those_that_go_together_have_one_key_and_are_no_more_than_may(mix, turn):
    chosen = StepBatcher().choose(mix, turn)
    assert len({each.key for each in chosen}) == 1
    assert len(chosen) <= MOST
    assert len(chosen) == 1 or chosen[0].key is not None
    assert len({each.generation for each in chosen}) == len(chosen)


@given(mixes, st.integers(1, 60))
def test_none_is_left_behind_that_could_have_come_along(mix, turn):
    chosen = StepBatcher().choose(mix, turn)
    same = [each for each in mix if each.key == chosen[0].key]
    if chosen[0].key is not None:
        assert len(chosen) == min(MOST, len(same))


@given(mixes, st.integers(1, 40), st.integers(1, 10))
def test_nothing_starves(mix, patience, standstill):
    count = len(mix)
    bound = patience + count + 1
    chosen = turns(mix, 3 * bound, StepBatcher(patience, standstill))
    for generation in range(count):
        waits = [turn for turn, going in enumerate(chosen) if generation in going]
        gaps = [after - before for before, after in zip([-1, *waits], waits, strict=False)]
        assert waits
        assert max(gaps) <= bound


@given(mixes)
def test_within_a_priority_no_request_starves(mix):
    equals = [replace(each, priority=1) for each in mix]
    span = 8 + len(mix)
    chosen = turns(equals, 10 * span, StepBatcher(idle_turns=8))
    for start in range(0, len(chosen), span):
        assert set(chain(*chosen[start : start + span])) == set(range(len(mix)))


@given(mixes)
def test_the_order_is_always_the_same(mix):
    assert turns(mix, 30) == turns(mix, 30)


def first_of(*mix):
    return StepBatcher().choose(mix, 1)[0].generation


def test_an_earlier_deadline_goes_before_fewer_steps():
    soon = Candidate(1, 0, 0, "a", deadline=5.0, remaining=50)
    short = Candidate(2, 0, 0, "b", remaining=1)
    assert first_of(short, soon) == 1


def test_fewer_steps_go_before_a_fuller_batch():
    short = Candidate(1, 0, 0, "a", remaining=1, max_calls=8)
    full = [Candidate(n, 0, 0, "b", remaining=2, max_calls=8) for n in (2, 3, 4)]
    assert first_of(*full, short) == 1


def test_the_fuller_batch_goes_before_who_has_waited_longer():
    lonely = Candidate(1, 0, 0, "a", remaining=2, max_calls=8)
    full = [Candidate(n, 0, 0, "b", remaining=2, max_calls=8) for n in (2, 3)]
    assert first_of(lonely, *full) == 2


def test_who_has_not_begun_does_so_before_others_of_its_priority_step():
    stepping = Candidate(1, 0, 0, "a", remaining=1)
    new = Candidate(2, 0, 0, None, remaining=50)
    urgent = Candidate(3, 1, 0, "b", remaining=9)
    assert first_of(stepping, new) == 2
    assert first_of(stepping, new, urgent) == 3


def stepping(number, last_turn, **more):
    return Candidate(number, 0, last_turn, "steps", **more)


def encoding(number, last_turn, key="encodes", **more):
    return Candidate(number, 0, last_turn, key, steps=False, fresh=True, **more)


def test_the_steps_of_a_short_one_and_prompts_of_longer_ones_take_turns():
    queue = [encoding(n, 0, f"prompt {n}", remaining=20.0) for n in range(1, 9)]
    chosen = turns([stepping(0, 0, remaining=5.0), *queue], 8)
    gone = [0 in going for going in chosen]
    assert all(one != other for one, other in pairwise(gone))


def test_a_short_one_that_comes_to_its_decoder_does_not_wait_for_a_step_of_a_long_one():
    decoding = Candidate(1, 0, 4, "decodes", steps=False, same_kind_as_last=False, remaining=0.0)
    long = stepping(2, 3, remaining=50.0)
    (leader,) = StepBatcher().choose([decoding, long], 5)
    assert leader is decoding
    (leader,) = StepBatcher().choose([replace(decoding, same_kind_as_last=True), long], 5)
    assert leader is long


def test_a_first_step_waits_for_those_of_its_pipeline_that_still_encode():
    first = stepping(0, 4, fresh=True, remaining=1.0, pipeline="it")
    other = encoding(1, 4, remaining=20.0, pipeline="it")
    (leader,) = StepBatcher().choose([first, other], 5)
    assert leader is other
    (leader,) = StepBatcher().choose([first, replace(other, pipeline="another")], 6)
    assert leader is first
    (leader,) = StepBatcher().choose([first, replace(other, last_turn=12)], 13)
    assert leader is first  # but not for ever


def test_a_first_step_waits_as_well_for_those_that_encode_a_video_chunk_by_chunk():
    first = stepping(0, 4, fresh=True, remaining=1.0, pipeline="it")
    chunk = Candidate(
        1, 0, 4, "chunk", fresh=True, encodes_input=True, remaining=20.0, pipeline="it"
    )
    (leader,) = StepBatcher().choose([first, chunk], 5)
    assert leader is chunk
    prompt = encoding(2, 4, remaining=50.0, pipeline="it")
    (leader,) = StepBatcher().choose(
        [replace(chunk, remaining=1.0, same_kind_as_last=False), prompt], 5
    )
    assert leader.encodes_input  # which waits for no other itself
