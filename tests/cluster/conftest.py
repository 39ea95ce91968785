"""Fixtures of the cluster tests."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.history import History, Tally, record_tally
from tests.cluster.darkroom import Darkroom

MakeDarkroom = Callable[..., Darkroom]


@pytest.fixture
def make_darkroom(tmp_path: Path) -> Iterator[MakeDarkroom]:
    """Makes Darkrooms, not started; whatever is left of them at the end is ended."""
    numbers = itertools.count()
    with contextlib.ExitStack() as stack:  # one that cannot be ended keeps no other from its end

        def make(pools: dict[str, Any] | None = None, **settings: str) -> Darkroom:
            darkroom = Darkroom(tmp_path / f"data{next(numbers)}", pools, **settings)
            stack.callback(darkroom.clear_away)
            return darkroom

        yield make


Check = Callable[[Darkroom, Iterable[str]], Tally]


@pytest.fixture
def check(tally_file: Path | None) -> Check:
    """Compares what clients heard of requests that have all ended with what is stored."""

    def check(darkroom: Darkroom, accepted: Iterable[str]) -> Tally:
        history = History(accepted=set(accepted))
        with darkroom.database() as connection:
            # The Darkroom of all tests has requests of the others.
            return record_tally(
                history.check(connection, darkroom.objects(), others=False), tally_file
            )

    return check
