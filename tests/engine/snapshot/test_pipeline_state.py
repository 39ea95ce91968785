"""What a generation has, taken apart and put back into another that came to the same place."""

import copy
import json
from typing import Any, Optional

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deployments.engine.snapshot.state import (
    MissingObject,
    OpaqueObject,
    StateDecoder,
    StateEncoder,
)

pytestmark = pytest.mark.engine

DTYPES = [torch.float32, torch.bfloat16, torch.int64, torch.bool, torch.complex64]
members = st.one_of(st.integers(), st.booleans(), st.text(max_size=3))
numbers = st.one_of(st.integers(), st.floats(), st.booleans(), st.none(), st.text(max_size=5))
tensors = st.builds(
    lambda seed, shape, dtype: torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(
        dtype
    ),
    st.integers(0, 99),
    st.lists(st.integers(0, 3), max_size=3),
    st.sampled_from(DTYPES),
)
things = st.recursive(
    st.one_of(numbers, tensors, st.sets(members, max_size=3), st.frozensets(members, max_size=3)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(st.one_of(st.text(max_size=3), st.integers()), inner, max_size=3),
    ),
    max_leaves=6,
)


few = settings(max_examples=40, deadline=None)


def round_trip(value, there):
    packing = StateEncoder()
    tree = json.loads(json.dumps(packing.pack(value)))
    return StateDecoder(packing.tensors, "cpu").put(there, tree)


def same(one, other):
    if isinstance(one, torch.Tensor):
        return (
            isinstance(other, torch.Tensor)
            and (one.shape, one.dtype) == (other.shape, other.dtype)
            and torch.equal(one, other)
        )
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, set | frozenset):
        return sorted(map(repr, one)) == sorted(map(repr, other))
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return repr(one) == repr(other)


def zero_tensors(value):
    """As it is in one that got zeros from its denoiser."""
    if isinstance(value, torch.Tensor):
        return torch.zeros_like(value)
    if isinstance(value, dict):
        return {key: zero_tensors(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(zero_tensors(item) for item in value)
    if isinstance(value, set | frozenset):
        return type(value)()
    return 0.0 if isinstance(value, float) else value


@few
@given(things)
def test_everything_is_put_back_where_other_contents_are(value):
    assert same(round_trip(value, zero_tensors(value)), value)


@few
@given(things)
def test_everything_is_put_back_where_nothing_is(value):
    assert same(round_trip(value, None), value)


@few
@given(things)
def test_what_is_equal_already_is_left_alone(value):
    there = copy.deepcopy(value)
    assert round_trip(value, there) is there or isinstance(value, int | float | str)


def test_what_shares_memory_does_so_afterwards():
    def pair(value):
        whole = torch.full((4,), value)
        return {"whole": whole, "half": whole[:2], "again": whole}

    there = round_trip(pair(1.0), pair(0.0))
    there["whole"].fill_(7)
    assert there["again"] is there["whole"]
    assert there["half"].tolist() == [7, 7]


def test_an_expanded_tensor_is_written_to_once():
    there = torch.zeros(1).expand(3)
    assert round_trip(torch.ones(1).expand(3), there) is there
    assert there.tolist() == [1, 1, 1]


def test_a_random_generator_goes_on_where_it_was():
    first, second = torch.Generator().manual_seed(1), torch.Generator().manual_seed(1)
    torch.rand(5, generator=first)
    round_trip(first, second)
    assert torch.equal(torch.rand(3, generator=first), torch.rand(3, generator=second))


def test_arrays_of_numpy_are_put_back():
    there = np.zeros(2)
    assert round_trip(np.ones(2), there) is there
    assert there.tolist() == [1, 1]
    assert round_trip(np.float64(2.5), np.float64(1)) == 2.5


def test_a_set_is_written_in_the_same_order_by_every_process():
    words = ["steps", "a", ("b", 1), 2, 10]
    for order in (words, words[::-1]):
        tree = StateEncoder().pack(set(order))
        assert tree == {"m": ["a", "steps", 10, 2, ["b", 1]], "of": "set", "i": 0}


def test_a_set_keeps_its_identity():
    there = {"a"}
    assert round_trip({"b", 1}, there) is there
    assert there == {"b", 1}
    first, other = round_trip([there, there], [set(), set()])
    assert first is other


@pytest.mark.parametrize("hint", [list[int], int | None, Optional[int], list[Any]])  # noqa: UP045
def test_type_hints_stay_as_they_are(hint):
    assert round_trip({"hint": hint}, {"hint": hint}) == {"hint": hint}


class Holder:
    def __init__(self, value):
        self.held = value
        self.me = self


def test_objects_keep_their_identity_and_may_hold_themselves():
    there = Holder(0)
    assert round_trip(Holder([1]), there) is there
    assert there.held == [1]
    assert there.me is there


def test_what_is_held_twice_is_one_thing_afterwards():
    shared = [1]
    first, other = round_trip([shared, shared], [[0], [0]])
    assert first is other
    assert first == [1]


@pytest.mark.parametrize(
    "value",
    [iter([1]), {object()}, lambda: (yield), object()],
)
def test_what_cannot_be_read_is_named(value):
    value = value() if callable(value) else value
    with pytest.raises(OpaqueObject, match=type(value).__name__):
        StateEncoder().pack(value)


@pytest.mark.parametrize(
    ("value", "there"),
    [
        (Holder(1), [1]),
        ({"a": 1}, {"a": 1, "b": 2}),
        (torch.Generator(), None),
        (torch.nn.ReLU(), 1),
    ],
)
def test_another_thing_in_its_place_is_reported(value, there):
    with pytest.raises(MissingObject):
        round_trip(value, there)
