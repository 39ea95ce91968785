"""pytest plugin that lets threads start their work late: no test may rely on when they do.

``python -m pytest -p tests.chaos.late [PYTEST ARGUMENTS]`` delays a third of all that is passed to
threads and thread pools, as a busy machine does that gives its cores to other threads first. All of
the other threads go on meanwhile; ``tests.chaos.stutter`` freezes all of them together.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from time import sleep  # the function itself, before a test replaces it
from typing import ParamSpec, TypeVar

import pytest

P = ParamSpec("P")
T = TypeVar("T")

LATE_S = 0.3
SHARE = 1 / 3

_chance = random.Random()  # noqa: S311
_submit = ThreadPoolExecutor.submit
_start = threading.Thread.start


def wait() -> None:
    if _chance.random() < SHARE:
        sleep(_chance.uniform(0, LATE_S))


def submit(
    self: ThreadPoolExecutor, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs
) -> Future[T]:
    def late() -> T:
        wait()
        return fn(*args, **kwargs)

    return _submit(self, late)


def start(self: threading.Thread) -> None:
    run = self.run

    def late() -> None:
        del self.run  # or the thread would keep itself alive
        wait()
        run()

    self.run = late
    _start(self)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--late-seed", type=int, default=_chance.randrange(10**6), help="Repeat what chance did."
    )


def pytest_configure(config: pytest.Config) -> None:
    _chance.seed(config.option.late_seed)
    ThreadPoolExecutor.submit = submit
    threading.Thread.start = start


def pytest_unconfigure(config: pytest.Config) -> None:
    ThreadPoolExecutor.submit = _submit
    threading.Thread.start = _start


def pytest_report_header(config: pytest.Config) -> str:
    return f"threads start late: --late-seed={config.option.late_seed}"
