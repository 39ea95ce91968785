"""Clients that wait: fal's own, unmodified, each subscribed to a long request.

    FAL_KEY=id:secret python -m benchmarks.subscribers URL ENDPOINT COUNT

Says `waiting` when every one of them has had a first status. Ended by SIGTERM it says how many
statuses they got a second, and what share of a CPU that took here, and cancels the requests.
"""

from __future__ import annotations

import asyncio
import signal
import sys
import time

import fal_client

import fal_plain_http


class Subscriber:
    """One request and the polling for it."""

    def __init__(self) -> None:
        self.statuses = 0
        self.request_id: str | None = None
        self.waiting = asyncio.Event()

    async def run(self, endpoint: str) -> None:
        def enqueued(request_id: str) -> None:
            self.request_id = request_id

        def updated(_: object) -> None:
            self.statuses += 1
            self.waiting.set()

        await fal_client.subscribe_async(
            endpoint, {"sleep_s": 3600}, on_enqueue=enqueued, on_queue_update=updated
        )


async def main(url: str, endpoint: str, number: int) -> None:
    fal_plain_http.use(url)
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    subscribers = [Subscriber() for _ in range(number)]
    tasks = [asyncio.create_task(reader.run(endpoint)) for reader in subscribers]
    for subscriber in subscribers:
        await subscriber.waiting.wait()
    began, cpu, before = time.perf_counter(), time.process_time(), _statuses(subscribers)
    print("waiting", flush=True)
    await ended.wait()
    took_s = time.perf_counter() - began
    rate, share = (_statuses(subscribers) - before) / took_s, (time.process_time() - cpu) / took_s
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    for subscriber in subscribers:
        if subscriber.request_id is not None:
            await fal_client.cancel_async(endpoint, subscriber.request_id)
    print(f"{rate:.1f} {share:.3f}", flush=True)


def _statuses(subscribers: list[Subscriber]) -> int:
    return sum(subscriber.statuses for subscriber in subscribers)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
