"""Threads for CPU work that clients cause, such as JSON of large bodies, digests and base64.

The event loop's default executor is left to the process itself (health, demand, liveness), so that
no client can delay it.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from functools import partial
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

MAX_THREADS = 8
_THREADS = ThreadPoolExecutor(min(MAX_THREADS, (os.cpu_count() or 1) + 1), thread_name_prefix="cpu")


async def in_cpu_thread(work: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
    """Run ``work`` in a thread, in the context of the caller."""
    call = partial(copy_context().run, work, *arguments, **named)
    return await asyncio.get_running_loop().run_in_executor(_THREADS, call)
