"""What attacks of one tenant cost another: p95 of Bob's runs beside each attack of Mallory, against
Bob alone. One Darkroom as it comes, with all its defaults, except that webhooks may go to this
machine.

    python -m benchmarks.hostile [--seconds 10] [--only flood bodies history hooks names uploads]

Mallory's load comes from a process of its own and lives on the same cores, so on a small machine
the ratio includes the CPU time that the attack itself needs. ``names`` is as slow as this machine's
name server for names that do not exist.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Generator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import httpx

from tests.cluster.darkroom import PROBE, ROOT, Darkroom, clean_environment

RUN = PROBE.replace("/queue/", "/run/")
ATTACKERS = 32
BODY_BYTES = 15 * 2**20
SLOW_CHUNK_S = 0.2
SILENT_PORT = 19_009  # of the receivers, which take connections and say nothing
PAUSE_S = 0.05  # after a refusal, as a client that retries at once
BOBS = 2  # calls of Bob at the same time
POOL = {"families": ["probe"], "slots": 8, "num_cpus": 0.1, "min_replicas": 1}


async def flood(http: httpx.AsyncClient, _: int) -> None:
    """Submits as fast as they are answered."""
    await http.post(PROBE, json={"steps": 1})


async def bodies(http: httpx.AsyncClient, _: int) -> None:
    """Bodies near the limit, full of escapes."""
    content = b'{"prompt":"' + b"\\u0041" * (BODY_BYTES // 6) + b'"}'
    await http.post(PROBE, content=content, headers={"content-type": "application/json"})


async def history(http: httpx.AsyncClient, number: int) -> None:
    """Searches of all requests."""
    await http.get("/v1/requests", params={"q": f"x{number}", "limit": 100})


async def hooks(http: httpx.AsyncClient, number: int) -> None:
    """Webhooks to receivers that never answer, each at an address of its own."""
    host = f"127.0.{number // 250 % 250}.{number % 250 + 1}:{SILENT_PORT}"
    await http.post(PROBE, json={"steps": 0}, params={"fal_webhook": f"http://{host}/"})


async def names(http: httpx.AsyncClient, number: int) -> None:
    """Webhooks to hosts whose names do not exist."""
    url = f"https://{number}.stall.invalid/"
    await http.post(PROBE, json={"steps": 0}, params={"fal_webhook": url})


async def uploads(http: httpx.AsyncClient, _: int) -> None:
    """Uploads of a few bytes a second."""

    async def drips() -> AsyncIterator[bytes]:
        for _ in range(500):
            yield b"x" * 64
            await asyncio.sleep(SLOW_CHUNK_S)

    await http.post("/cdn/files/upload", content=drips())


ATTACKS: dict[str, Callable[[httpx.AsyncClient, int], Awaitable[None]]] = {
    each.__name__: each for each in (flood, bodies, history, hooks, names, uploads)
}


async def attack(name: str, url: str, key: str) -> None:
    """Attack until the process is ended."""
    numbers = count()
    limits = httpx.Limits(max_connections=ATTACKERS)
    headers = {"Authorization": f"Key {key}"}
    async with httpx.AsyncClient(base_url=url, headers=headers, timeout=60, limits=limits) as http:

        async def again_and_again() -> None:
            while True:
                try:
                    await ATTACKS[name](http, next(numbers))
                except httpx.HTTPError:  # cut, as it should be
                    await asyncio.sleep(PAUSE_S)

        async with await asyncio.start_server(_silent, "0.0.0.0", SILENT_PORT):  # noqa: S104
            await asyncio.gather(*(again_and_again() for _ in range(ATTACKERS)))


async def _silent(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
    while await reader.read(1 << 16):
        pass


@contextmanager
def beside(name: str, darkroom: Darkroom, key: str) -> Generator[None]:
    """Mallory's attack while the block runs."""
    command = [sys.executable, "-m", "benchmarks.hostile", "--attack", name, darkroom.url, key]
    attacker = subprocess.Popen(command, cwd=ROOT, env=clean_environment())  # noqa: S603
    try:
        yield
    finally:
        attacker.kill()
        attacker.wait()


async def bobs_times(url: str, key: str, seconds: float) -> list[float]:
    """Milliseconds of Bob's runs. Raises ``HTTPStatusError`` if one fails."""
    took: list[float] = []
    headers = {"Authorization": f"Key {key}"}
    async with httpx.AsyncClient(base_url=url, headers=headers, timeout=120) as http:
        end = time.monotonic() + seconds

        async def again_and_again() -> None:
            while time.monotonic() < end:
                began = time.monotonic()
                (await http.post(RUN, json={"steps": 1})).raise_for_status()
                took.append(1e3 * (time.monotonic() - began))

        await asyncio.gather(*(again_and_again() for _ in range(BOBS)))
    return took


def figures(took: list[float]) -> tuple[float, float]:
    """Median and p95."""
    return statistics.median(took), sorted(took)[int(0.95 * (len(took) - 1))]


def show(name: str, took: list[float], alone: float | None = None) -> float:
    median, p95 = figures(took)
    ratio = "" if alone is None else f"{p95 / alone:8.2f}"
    load = os.getloadavg()[0]
    print(f"{name:12}{len(took):7}{median:10.1f}{p95:10.1f}{ratio:>8}{load:8.1f}", flush=True)
    return p95


def measure(darkroom: Darkroom, seconds: float, attacks: list[str]) -> None:
    keys = {
        tenant: darkroom.http.post("/v1/keys", json={"tenant": tenant}).json()["key"]
        for tenant in ("bob", "mallory")
    }

    def bob() -> list[float]:
        return asyncio.run(bobs_times(darkroom.url, keys["bob"], seconds))

    bob()  # warms up
    print(f"{'beside':12}{'runs':>7}{'p50 ms':>10}{'p95 ms':>10}{'ratio':>8}{'load':>8}")
    for name in attacks:
        alone = show("alone", bob())
        with beside(name, darkroom, keys["mallory"]):
            time.sleep(seconds / 2)  # the attack is at its height
            show(name, bob(), alone)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--seconds", type=float, default=10.0, help="of each measurement")
    parser.add_argument("--only", nargs="*", choices=[*ATTACKS], default=[*ATTACKS])
    parser.add_argument("--attack", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.attack is not None:
        asyncio.run(attack(*given.attack))
        return
    with tempfile.TemporaryDirectory(prefix="dkh") as scratch:
        darkroom = Darkroom(Path(scratch) / "data", {"studio": POOL}).start()
        try:
            darkroom.all_ready(1)
            measure(darkroom, given.seconds, given.only)
            darkroom.stop()
        finally:
            darkroom.clear_away()


if __name__ == "__main__":
    main()
