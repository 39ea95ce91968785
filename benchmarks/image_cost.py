"""CPU time of a delivered file by process, over an idle installation.

    python -m benchmarks.image_cost [--seconds 10] [--clients 1 8 64] [--only 20kB 1MB 20MB]
        [--storage directory s3]

For each file a client submits, follows the status stream, reads the result and downloads the file;
once in ``GALLERY`` files it lists so many for the gallery, and downloads their thumbnails. The
replica's files are finished (``benchmarks.finished_files``), so that what is counted is all but
drawing. Processes are counted by the operating system, so that a busy machine makes no figure
worse, apart from its caches. What the installation takes while it is idle is measured first, and
left out.

``s3``: uploads go to the store and downloads are redirected to it; the store is not counted.
``loop`` is the event loop of the replica, and part of it.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import tempfile
import time
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import httpx2
import yaml

from benchmarks.cpu import ROLES, CpuByRole
from tests.cluster.darkroom import Darkroom
from tests.cluster.nodes import in_bucket
from tests.storage.s3_servers import S3Server, s3rver

SIDES = {"20kB": 96, "1MB": 1024, "20MB": 0}
"""Pixels of an image that is so large as a PNG; 0: a video."""
LOOP = "test/loop"
GALLERY = 20
IDLE_S = 10.0
SHOWN = *(role for role, _ in ROLES if role not in ("bare", "plain")), "ray", "loop"


def models() -> str:
    """Catalogue with an endpoint for each size, and one that says what the event loop took."""
    endpoints: dict[str, Any] = {LOOP: {"family": "finished", "schema": "open"}}
    for size, side in SIDES.items():
        media_type = "image/png" if side else "video/mp4"
        options = {"side": side, "artifacts_field": "artifacts", "media_type": media_type}
        endpoints[f"test/{size.lower()}"] = {
            "family": "finished",
            "schema": "open",
            "options": options,
        }
    return yaml.safe_dump({"built_in": False, "endpoints": endpoints})


@contextmanager
def running(folder: Path, store: S3Server | None) -> Generator[Darkroom]:
    (folder / "models.yaml").write_text(models())
    settings = {
        "families": json.dumps({"finished": "benchmarks.finished_files:FinishedFiles"}),
        "models": str(folder / "models.yaml"),
    }
    if store is not None:
        settings |= {name: value for name, value in in_bucket(store).items() if value} | {
            "s3_access_key_id": store.key.access_key_id,
            "s3_secret_access_key": store.key.secret_access_key,
            "s3_downloads": "redirect",
        }
    pool = {"families": ["finished"], "slots": 64, "num_cpus": 0.1}
    darkroom = Darkroom(folder / "data", {"finished": pool}, **settings)
    try:
        yield darkroom.start()
        darkroom.stop()
    finally:
        darkroom.clear_away()


class Client:
    """A client of the queue. Its own cost is not counted."""

    def __init__(self, http: httpx2.AsyncClient, endpoint: str, numbers: Iterator[int]) -> None:
        self._http = http
        self._endpoint = endpoint
        self._numbers = numbers

    async def deliver_until(self, end: float) -> int:
        """Files until this time of the monotonic clock."""
        files = 0
        while time.monotonic() < end:
            await self._deliver()
            files += 1
        return files

    async def _deliver(self) -> None:
        number = next(self._numbers)
        submitted = await self._call(
            "POST", f"/queue/{self._endpoint}", json={"artifacts": 1, "number": number}
        )
        request = submitted.json()
        await self._call("GET", f"{request['status_url']}/stream")
        output = (await self._call("GET", request["response_url"])).json()
        file = output["images"][0]
        await self._call("GET", file["url"])
        if number % GALLERY == 0:
            await self._show_gallery()

    async def _show_gallery(self) -> None:
        listed = (await self._call("GET", f"/v1/requests?limit={GALLERY}")).json()["requests"]
        for request in listed:
            for file in request["files"]:
                await self._call("GET", file["thumbnail"]["url"])

    async def _call(self, method: str, url: str, **options: Any) -> httpx2.Response:
        answer = await self._http.request(method, url, **options)
        if not answer.is_success:
            raise RuntimeError(f"{url} answered {answer.status_code}: {answer.text[:300]}")
        return answer


class Bench:
    """An installation, and what it takes while it is idle."""

    def __init__(self, darkroom: Darkroom, seconds: float) -> None:
        self._darkroom = darkroom
        self._seconds = seconds
        self._numbers = itertools.count(1)
        self._idle: Mapping[str, float] = {}

    def measure_idle(self) -> None:
        self._loop_s()  # the first one loads
        time.sleep(IDLE_S)
        self._idle = self._spent(lambda: time.sleep(IDLE_S))

    def measure(self, size: str, clients: int) -> None:
        """One line of the table."""
        files = 0

        def deliver() -> None:
            nonlocal files
            files = asyncio.run(self._deliver(f"test/{size.lower()}", clients))

        began = time.monotonic()
        spent = self._spent(deliver)
        took_s = time.monotonic() - began
        costs = {
            role: (seconds - self._idle.get(role, 0.0) / IDLE_S * took_s) / files * 1000
            for role, seconds in spent.items()
        }
        figures = "".join(f"{costs.get(role, 0.0):10.2f}" for role in SHOWN)
        print(f"{size:>6}{clients:>8}{files / took_s:10.1f}{figures}", flush=True)

    async def _deliver(self, endpoint: str, clients: int) -> int:
        darkroom = self._darkroom
        async with httpx2.AsyncClient(
            base_url=darkroom.url,
            headers={"Authorization": f"Key {darkroom.key}"},
            timeout=120,
            follow_redirects=True,
            limits=httpx2.Limits(max_connections=clients),
        ) as http:
            end = time.monotonic() + self._seconds
            clients_ = [Client(http, endpoint, self._numbers) for _ in range(clients)]
            return sum(await asyncio.gather(*(client.deliver_until(end) for client in clients_)))

    def _spent(self, work: Any) -> dict[str, float]:
        """Seconds by role."""
        cpu, loop_s = CpuByRole(self._darkroom), self._loop_s()
        cpu.start()
        work()
        spent = cpu.per_call(1000.0)
        return {**spent, "loop": self._loop_s() - loop_s}

    def _loop_s(self) -> float:
        answer = self._darkroom.http.post(f"/run/{LOOP}", json={"number": next(self._numbers)})
        answer.raise_for_status()
        return float(answer.json()["loop_s"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=10.0, help="of each measurement")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--only", nargs="+", choices=SIDES, default=[*SIDES])
    storages = ("directory", "s3")
    parser.add_argument("--storage", nargs="+", choices=storages, default=storages)
    options = parser.parse_args()
    print("Milliseconds of CPU for each file.")
    for storage in options.storage:
        head = "".join(f"{role:>10}" for role in SHOWN)
        print(f"{storage}\n{'size':>6}{'clients':>8}{'files/s':>10}{head}")
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            (folder / "s3").mkdir()
            with s3rver(folder / "s3") if storage == "s3" else nullcontext() as store:
                with running(folder, store) as darkroom:
                    bench = Bench(darkroom, options.seconds)
                    bench.measure_idle()
                    for size in options.only:
                        for clients in options.clients:
                            bench.measure(size, clients)


if __name__ == "__main__":
    main()
