"""Fixtures of the cluster tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

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
