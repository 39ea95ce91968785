"""Samples of parameters."""

from __future__ import annotations

import pytest

from tests.samples import sampled


def test_all_but_those_named_are_left_to_the_long_tests() -> None:
    marks = {each.values[0]: [mark.name for mark in each.marks] for each in sampled("abc", "b")}
    assert marks == {"a": ["long"], "b": [], "c": ["long"]}


def test_a_parameter_that_there_is_not_is_refused() -> None:
    with pytest.raises(ValueError, match="no 'd'"):
        sampled("abc", "d")
