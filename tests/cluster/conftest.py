"""Fixtures of the cluster tests."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.history import History, Tally, noted
from tests.cluster.darkroom import Darkroom

MakeDarkroom = Callable[..., Darkroom]


@pytest.fixture
def make_darkroom(tmp_path: Path) -> Iterator[MakeDarkroom]:
    """Makes Darkrooms, not started; whatever is left of them at the end is ended."""
    made: list[Darkroom] = []

    def make(pools: dict[str, Any] | None = None, **settings: str) -> Darkroom:
        made.append(Darkroom(tmp_path / f"data{len(made)}", pools, **settings))
        return made[-1]

    yield make
    for darkroom in made:
        darkroom.clear_away()


Check = Callable[[Darkroom, Iterable[str]], Tally]


@pytest.fixture
def check(tally_file: Path | None) -> Check:
    """Compares what clients were told of requests that have all ended with what is stored."""

    def check(darkroom: Darkroom, accepted: Iterable[str]) -> Tally:
        history = History(accepted=set(accepted))
        with darkroom.database() as connection:
            # The Darkroom of all tests has requests of the others.
            return noted(history.check(connection, darkroom.objects(), others=False), tally_file)

    return check
