"""Threads for CPU work that clients cause, such as JSON of large bodies, digests and base64. Each
tenant has a share of them.

The event loop's default executor is left to the process itself (health, demand, liveness), so that
no client can delay it.
"""

from __future__ import annotations

import os

from serve_app.domain.sharing.fair_queue import FairThreads

MAX_THREADS = 8
_THREADS = FairThreads(min(MAX_THREADS, (os.cpu_count() or 1) + 1), "cpu")
in_cpu_thread = _THREADS.run
