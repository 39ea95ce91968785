"""Threads for CPU work that clients cause, such as JSON of large bodies, digests and base64. Each
tenant has a share of them.

The event loop's default executor is left to the process itself (health, demand, liveness), so that
no client can delay it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from serve_app.domain.json_size import JsonRoom
from serve_app.domain.sharing.fair_queue import FairThreads

MAX_THREADS = 8
_THREADS = FairThreads(min(MAX_THREADS, (os.cpu_count() or 1) + 1), "cpu")
in_cpu_thread = _THREADS.run

P = ParamSpec("P")
T = TypeVar("T")

QUICK_VALUES, QUICK_BYTES = 1000, 256 * 1024
"""Size of JSON up to which a pass over it takes less time than a change of threads."""


async def pass_over(value: Any, work: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
    """Do ``work``, which takes a pass over ``value``; over a large one in a thread."""
    if JsonRoom(QUICK_BYTES, QUICK_VALUES).take(value):
        return work(*arguments, **named)
    return await in_cpu_thread(work, *arguments, **named)
