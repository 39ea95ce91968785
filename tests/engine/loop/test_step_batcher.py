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
    lambda those: [replace(candidate, generation=n) for n, candidate in enumerate(those)]
)


def turns(waiting, count, batcher=None, now=0.0):
    """Which generations go on in each of ``count`` turns, when none ends or comes nearer to it."""
    batcher = batcher or StepBatcher()
    waiting = {candidate.generation: candidate for candidate in waiting}
    chosen = []
    for turn in range(1, count + 1):
        going = [choice.generation for choice in batcher.choose(list(waiting.values()), turn, now)]
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
    """So that calls of theirs that can share a forward meet, as long as none is ahead."""
    steps = Counter(chain(*turns(of_priorities([1] * generations), count)))
    assert max(steps.values()) - min(steps[n] for n in range(generations)) <= 1


def test_one_that_is_a_step_ahead_goes_on():
    ahead = Candidate(2, 0, 5, "a", remaining=2)
    others = [Candidate(n, 0, 0, "b", remaining=3) for n in (1, 3)]
    assert turns([*others, ahead], 3) == [[2]] * 3


@given(mixes, st.integers(1, 10))
def test_the_highest_priority_goes_first(mix, turn):
    leader, *_ = StepBatcher().choose(mix, turn)
    assert leader.priority == max(candidate.priority for candidate in mix)


@given(mixes, st.integers(1, 60))
def test_those_that_go_together_have_one_key_and_are_no_more_than_may(mix, turn):
    chosen = StepBatcher().choose(mix, turn)
    assert len({choice.key for choice in chosen}) == 1
    assert len(chosen) <= MOST
    assert len(chosen) == 1 or chosen[0].key is not None
    assert len({choice.generation for choice in chosen}) == len(chosen)


@given(mixes, st.integers(1, 60))
def test_none_is_left_behind_that_could_have_come_along(mix, turn):
    chosen = StepBatcher().choose(mix, turn)
    same = [candidate for candidate in mix if candidate.key == chosen[0].key]
    if chosen[0].key is not None:
        assert len(chosen) == min(MOST, len(same))


@given(mixes, st.integers(1, 40))
def test_no_priority_starves(mix, patience):
    those = {candidate.generation: candidate.priority for candidate in mix}
    bound = patience + len(set(those.values()))
    chosen = turns(mix, 3 * bound, StepBatcher(patience))
    for priority in set(those.values()):
        has_turn = [turn for turn, gone in enumerate(chosen) if priority in map(those.get, gone)]
        gaps = [after - before for before, after in zip([-1, *has_turn], has_turn, strict=False)]
        assert has_turn
        assert max(gaps) <= bound


def test_one_that_is_due_has_every_second_forward():
    long = stepping(1, 0, remaining=50.0, due_at=10.0)
    short = Candidate(2, 0, 0, "another", remaining=1.0)
    assert turns([long, short], 4) == [[2]] * 4
    assert turns([long, short], 4, now=10.0) == [[2], [1], [2], [1]]


def test_the_due_and_the_others_change_seldom_where_each_change_moves_weights():
    there = 2
    gone = []
    last = {1: 0, 2: 0}
    for turn in range(1, 40):
        long = Candidate(1, 0, last[1], "long", remaining=50, due_at=0, moves_weights=there != 1)
        short = Candidate(2, 0, last[2], "short", remaining=1, moves_weights=there != 2)
        (chosen,) = StepBatcher().choose([long, short], turn, now=1.0)
        there = chosen.generation
        last[there] = turn
        gone.append(there)
    changes = sum(previous != other for previous, other in pairwise(gone))
    assert changes == 4
    assert 15 <= gone.count(1) <= 24


def test_of_equal_ones_that_whose_weights_are_there_goes_on():
    there = Candidate(1, 0, 9, "there")
    other = Candidate(2, 0, 0, "other", moves_weights=True)
    assert StepBatcher().choose([there, other], 10) == (there,)


def test_those_that_are_due_have_half_of_the_rows():
    due = [stepping(n, 0, remaining=50.0, due_at=10.0 - n, max_calls=4) for n in (1, 2, 3)]
    short = [stepping(n, 0, remaining=1.0, max_calls=4) for n in (4, 5, 6, 7)]
    (gone,) = turns([*due, *short], 1, now=10.0)
    assert sorted(gone) == [2, 3, 4, 5]


def test_one_that_is_due_does_not_go_before_a_higher_priority():
    due = stepping(1, 0, due_at=1.0)
    urgent = Candidate(2, 1, 0, "another")
    assert turns([due, urgent], 3, now=10.0) == [[2]] * 3


def test_prompts_do_not_wait_while_another_is_due():
    due = Candidate(1, 0, 0, "due", remaining=50.0, due_at=1.0)
    short = stepping(2, 0, remaining=1.0)
    prompts = [encoding(n, 0, f"prompt {n}", remaining=20.0) for n in (3, 4)]
    gone = list(chain(*turns([due, short, *prompts], 9, now=10.0)))
    assert gone.count(1) in (4, 5)
    assert 2 in gone
    assert 3 in gone


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
    assert all(previous != other for previous, other in pairwise(gone))


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
