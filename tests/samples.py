"""Samples of parameters whose tests prove the same of each."""

from collections.abc import Iterable
from typing import Any

import pytest


def sampled(values: Iterable[Any], *always: Any) -> list[Any]:
    """All ``values``, for ``parametrize``. Tests of others than ``always`` are marked ``long``."""
    values = list(values)
    if missing := [each for each in always if each not in values]:
        raise ValueError(f"There is no {missing[0]!r} among {values}.")
    return [
        pytest.param(each, marks=[] if each in always else [pytest.mark.long]) for each in values
    ]
