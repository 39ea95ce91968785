"""What fits into memory: properties over any measurements."""

from hypothesis import given
from hypothesis import strategies as st

from deployments.engine.memory.admission import (
    MARGIN,
    MEASUREMENTS,
    AdmittedGeneration,
    BatchLimit,
    Footprint,
    ForwardBytes,
    may_begin,
    median_footprint,
)

sizes = st.integers(0, 10**12)  # bytes
counts = st.integers(1, 16)  # calls
measurements = st.dictionaries(counts, sizes, min_size=1)


def record_sizes(seen):
    takes = ForwardBytes()
    for calls, size in seen.items():
        takes.record(calls, size)
    return takes


@given(measurements)
def test_never_less_is_expected_than_was_seen(seen):
    takes = record_sizes(seen)
    for calls, size in seen.items():
        assert takes.estimate(calls) >= size - 1  # floats are rounded


@given(measurements, counts)
def test_more_calls_never_take_less(seen, calls):
    takes = record_sizes(seen)
    assert takes.estimate(calls) <= takes.estimate(calls + 1)


@given(sizes, st.integers(0, 10**10), st.sets(counts, min_size=2), counts)
def test_what_lies_on_a_line_is_expected_on_it(always, per_call, seen, calls):
    takes = record_sizes({n: always + per_call * n for n in seen})
    assert abs(takes.estimate(calls) - (always + per_call * calls)) <= 1 + 1e-6 * (
        always + 16 * per_call
    )


def test_of_one_measurement_all_is_taken_as_growing_with_the_calls():
    assert record_sizes({2: 100}).estimate(6) == 300


def test_one_of_three_measurements_may_be_disturbed():
    takes = ForwardBytes()
    for size in (100, 9000, 110):
        takes.record(1, size)
    assert takes.estimate(1) == 110
    assert not takes.needs_measurement(1)
    assert takes.needs_measurement(2)


@given(measurements, st.integers(0, 10**13), counts)
def test_what_is_expected_not_to_fit_is_not_merged(seen, free, most):
    takes = record_sizes(seen)
    fitting = takes.max_calls(free, most)
    assert 1 <= fitting <= most
    if fitting > 1:
        assert takes.estimate(fitting) * MARGIN <= free
    if fitting < most:
        assert takes.estimate(fitting + 1) * MARGIN > free


@given(measurements, sizes, sizes, counts)
def test_with_more_memory_no_fewer_fit(seen, free, more, most):
    takes = record_sizes(seen)
    assert takes.max_calls(free, most) <= takes.max_calls(free + more, most)


def test_before_anything_is_measured_one_goes_alone_unless_nothing_is_counted():
    assert ForwardBytes().max_calls(10**12, 8) == 1
    assert ForwardBytes().max_calls(None, 8) == 8


@given(
    st.integers(1, 16),
    st.lists(st.tuples(st.booleans(), counts, st.none() | sizes), max_size=300),
)
def test_a_limit_stays_between_one_and_what_it_was(most, events):
    limit = BatchLimit(most, patience=2)
    for went_well, calls, free in events:
        (limit.record_success if went_well else limit.record_oom)(calls, free)
        assert 1 <= limit.max_calls <= most


@given(st.integers(2, 16), st.integers(1, 20))
def test_a_limit_is_halved_and_grows_back_by_one_after_so_many_good_forwards(most, patience):
    limit = BatchLimit(most, patience=patience)
    limit.record_oom(most, 100)
    half = most // 2
    assert limit.max_calls == half
    for _ in range(patience - 1):
        limit.record_success(half, 101)
    assert limit.max_calls == half
    limit.record_success(half, 101)
    assert limit.max_calls == half + 1


def test_a_limit_does_not_grow_back_without_more_memory_or_by_small_forwards():
    limit = BatchLimit(8, patience=2)
    limit.record_oom(8, 100)
    for _ in range(10):
        limit.record_success(4, 100)
        limit.record_success(3, 200)
    assert limit.max_calls == 4
    limit.record_success(4, 200)
    assert limit.max_calls == 5


def test_a_limit_that_grew_back_too_far_waits_twice_as_long():
    limit = BatchLimit(4, patience=2)
    limit.record_oom(4, None)
    for _ in range(2):
        limit.record_success(2, None)
    assert limit.max_calls == 3
    limit.record_oom(3, None)
    assert (limit.max_calls, limit.patience) == (1, 4)


footprints = st.builds(Footprint, sizes, sizes)
guests = st.lists(
    st.builds(AdmittedGeneration, st.none() | footprints, sizes), min_size=1, max_size=8
)


@given(footprints, guests, sizes)
def test_who_begins_leaves_the_others_what_they_still_need(expected, others, free):
    if not may_begin(expected, others, free):
        return
    rest = free - expected.resident
    for guest in others:
        if guest.expected is not None:
            rest -= max(0, guest.expected.resident - guest.resident)
    known = [expected, *(admitted.expected for admitted in others if admitted.expected is not None)]
    assert all(footprint.transient <= rest for footprint in known)


@given(footprints, guests, sizes, sizes)
def test_with_more_memory_no_request_waits_that_did_not_before(expected, others, free, more):
    assert may_begin(expected, others, free) <= may_begin(expected, others, free + more)


@given(st.none() | footprints, guests)
def test_one_alone_or_the_first_of_a_kind_begins_and_so_do_all_where_nothing_is_counted(
    expected, others
):
    assert may_begin(expected, [], 0)
    assert may_begin(None, others, 0)
    assert may_begin(expected, others, None)


def test_the_footprint_of_a_kind_is_the_middle_one():
    assert median_footprint([]) is None
    those = [Footprint(10, 5), Footprint(900, 6), Footprint(11, 700)]
    assert median_footprint(those) == Footprint(11, 6)
    assert MEASUREMENTS >= 3
