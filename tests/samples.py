"""Samples of parameters whose tests prove the same of each."""

from collections import Counter
from collections.abc import Iterable
from typing import Any

import pytest


def sample_params(values: Iterable[Any], *always: Any) -> list[Any]:
    """All ``values``, for ``parametrize``. Tests of others than ``always`` are marked ``long``."""
    values = list(values)
    if missing := [value for value in always if value not in values]:
        raise ValueError(f"There is no {missing[0]!r} among {values}.")
    return [
        pytest.param(value, marks=[] if value in always else [pytest.mark.long]) for value in values
    ]


def leave_variants(items: Iterable[pytest.Item]) -> None:
    """Mark ``long`` all but the first of each test with the mark ``variants``, which has their
    number."""
    seen: Counter[str] = Counter()
    for item in items:
        if (mark := item.get_closest_marker("variants")) is None:
            continue
        test = item.nodeid.partition("[")[0]
        seen[test] += 1
        if seen[test] > mark.args[0]:
            item.add_marker(pytest.mark.long)
