"""The Darkroom that the tests of this folder change, one after the other.

The start of one takes 25 s of CPU time, so they share it.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest

from tests.cluster.darkroom import Darkroom, eventually, living

WithPool = Callable[..., Darkroom]

KEY = "first:" + "ab" * 32
HUB_TOKEN = "hf_for-weights-only"

# As `nohup` does, and also as a shell without job control starts what is in the background.
IGNORING = ("sh", "-c", 'trap "" HUP INT; exec "$@"', "sh")

BOUNDS = {"min_replicas", "max_replicas", "keep_alive_s", "target_wait_s"}
"""Settings of a pool that change without another replica."""


def probe_pool(replicas: int, slots: int = 2) -> dict[str, Any]:
    return {
        "families": ["probe"],
        "slots": slots,
        "num_cpus": 0.1,
        "min_replicas": replicas,
        "max_replicas": replicas,
    }


@pytest.fixture(scope="package")
def with_pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WithPool]:
    """Gives the Darkroom this pool in place of its last, and starts it the first time. It has its
    first key from its environment, and ignores hangups and, at its start, interrupts."""
    with contextlib.ExitStack() as stack:
        darkroom = Darkroom(tmp_path_factory.mktemp("changing") / "data", api_key=KEY)
        stack.callback(darkroom.clear_away)
        last: Mapping[str, Any] = {}

        def give(pool: Mapping[str, Any], endpoint: str = "test/probe") -> Darkroom:
            """Returns when ``endpoint`` is served, and not by replicas that the pool replaces."""
            nonlocal last
            before = darkroom.replicas() if last else []
            darkroom.configure(pools={"studio": dict(pool)})
            if not last:
                darkroom.start(under=("env", f"HF_TOKEN={HUB_TOKEN}", *IGNORING))
            elif _without_bounds(pool) != _without_bounds(last):
                eventually(lambda: not living(before), "the replicas are replaced")
            last = pool
            eventually(lambda: _serves(darkroom, endpoint), f"{endpoint} is served")
            return darkroom

        yield give
        if last:
            darkroom.stop(signal.SIGINT)  # which it hears, although it was started to ignore it
            assert darkroom.leftovers() == []


def _without_bounds(pool: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in pool.items() if name not in BOUNDS}


def _serves(darkroom: Darkroom, endpoint: str) -> bool:
    answer = darkroom.http.get("/v1/models", params={"endpoint_id": endpoint})
    return any(model["darkroom"]["served"] for model in answer.json()["models"])
