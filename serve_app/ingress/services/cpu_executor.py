"""Threads for CPU work that clients cause, such as JSON of large bodies, digests and base64. Each
tenant has a share of them.

The event loop's default executor is left to the process itself (health, demand, liveness), so that
no client can delay it.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from contextvars import copy_context
from functools import partial
from typing import ParamSpec, TypeVar

from serve_app.domain.sharing.fair_queue import FairThreads

P = ParamSpec("P")
T = TypeVar("T")

MAX_THREADS = 8
_THREADS = FairThreads(min(MAX_THREADS, (os.cpu_count() or 1) + 1), "cpu")


async def in_cpu_thread(work: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
    """Run ``work`` in a thread, in the context of the caller."""
    call = partial(copy_context().run, work, *arguments, **named)
    return await asyncio.get_running_loop().run_in_executor(_THREADS, call)
