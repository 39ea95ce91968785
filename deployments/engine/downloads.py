"""Bringing weights to this machine, beside what is loaded and what runs."""

from __future__ import annotations

import threading
from collections.abc import Callable

from deployments.engine.loan import Fetch
from deployments.engine.silence import Silence
from deployments.engine.threads import Threads
from serve_app.domain.errors import Cancelled
from serve_app.domain.progress import OnDownload

AT_ONCE = 4
"""So many download at a time, in the order in which they were asked for."""
THREADS = 64  # what is here need not wait for those that wait


class Downloads:
    """Thread-safe."""

    def __init__(self, silence: Silence) -> None:
        self._silence = silence
        self._turn = threading.Semaphore(AT_ONCE)
        self._closed = False
        self._threads = Threads(max_workers=THREADS, thread_name_prefix="download")

    def submit(
        self,
        name: str,
        fetch: Fetch,
        on_download: OnDownload,
        done: Callable[[BaseException | None], None],
    ) -> None:
        """``on_download`` is told of 0 of 0 bytes when others have their turn first, and of nothing
        when all is here. ``done`` is called in the end, with what went wrong."""
        self._threads.submit(self._run, name, fetch, on_download, done)

    def close(self) -> None:
        """Begin no more. What has begun is not waited for."""
        self._closed = True
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _run(
        self,
        name: str,
        fetch: Fetch,
        on_download: OnDownload,
        done: Callable[[BaseException | None], None],
    ) -> None:
        try:
            if not fetch.is_here():
                self._bring(name, fetch, on_download)
        except BaseException as error:
            done(error)
        else:
            done(None)

    def _bring(self, name: str, fetch: Fetch, on_download: OnDownload) -> None:
        if not self._turn.acquire(blocking=False):
            on_download(0, 0)
            self._turn.acquire()
        try:
            if self._closed:
                raise Cancelled("The replica is closing.")
            with self._silence.at_work(name):
                fetch.bring(on_download)
        finally:
            self._turn.release()
