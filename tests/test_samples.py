"""Samples of parameters."""

from __future__ import annotations

import pytest

from tests.samples import leave_variants, sample_params


def test_all_but_those_named_are_left_to_the_long_tests() -> None:
    marks = {
        param.values[0]: [mark.name for mark in param.marks] for param in sample_params("abc", "b")
    }
    assert marks == {"a": ["long"], "b": [], "c": ["long"]}


def test_a_parameter_that_there_is_not_is_refused() -> None:
    with pytest.raises(ValueError, match="no 'd'"):
        sample_params("abc", "d")


def test_all_but_the_first_variants_of_a_test_are_left_to_the_long_tests(
    request: pytest.FixtureRequest,
) -> None:
    @pytest.mark.variants(2)
    def test() -> None: ...

    items = [
        pytest.Function.from_parent(request.node.parent, name=f"test[{letter}]", callobj=test)
        for letter in "abc"
    ]
    leave_variants(items)
    assert [item.get_closest_marker("long") is not None for item in items] == [False, False, True]
