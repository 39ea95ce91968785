"""A tenant whose name server does not answer, or whose work is slow, delays no other tenant."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from serve_app.domain.atomic_file import AtomicFile
from serve_app.domain.name_resolution import NameResolver
from serve_app.domain.sharing.fair_queue import FairThreads
from serve_app.ingress.api import workflows
from serve_app.ingress.http.body import PARSE_IN_THREAD_BYTES
from serve_app.ingress.services import cpu_executor
from serve_app.storage import blocking
from serve_app.storage.directory import DirectoryStorage
from serve_app.telemetry.clock import SystemClock
from tests.ingress.house import ORIGIN, build_house

JOBS = 40  # more than any pool of the ingress has threads
LOOK_UPS = 40  # more than asyncio's default executor has threads on any machine
PUBLIC = "93.184.215.14"
PATIENCE_S = 120.0
"""Ends what hangs."""


@dataclass(frozen=True, slots=True)
class HangingLookUps:
    """Look-ups of all hosts but ``bob.example`` hang until ``released``."""

    hosts: list[str] = field(default_factory=list)
    released: threading.Event = field(default_factory=threading.Event)

    def getaddrinfo(self, host: str, *_: object, **__: object) -> list[Any]:
        if host == "bob.example":
            return [(socket.AF_INET, socket.SOCK_STREAM, 0, "", (PUBLIC, 0))]
        self.hosts.append(host)
        self.released.wait(PATIENCE_S)
        raise socket.gaierror(socket.EAI_AGAIN, "no answer")


@pytest.fixture
def hanging(monkeypatch: pytest.MonkeyPatch) -> Iterator[HangingLookUps]:
    look_ups = HangingLookUps()
    monkeypatch.setattr(socket, "getaddrinfo", look_ups.getaddrinfo)
    # Its own limit would end the look-ups while a slow machine answers the other tenant.
    monkeypatch.setitem(NameResolver.__init__.__kwdefaults__, "limit_s", PATIENCE_S)
    yield look_ups
    look_ups.released.set()


async def one_chunk(data: bytes) -> AsyncIterator[bytes]:
    yield data


async def test_slow_dns_of_one_tenant_delays_no_file_and_no_submit_of_another(
    tmp_path: Path, hanging: HangingLookUps
) -> None:
    storage = DirectoryStorage(tmp_path, b"k" * 32, ORIGIN, SystemClock(), 1 << 20)
    await storage.start()
    key = "u/0190f5ab-0000-7000-8000-000000000000/a.png"
    await storage.put(key, "image/png", one_chunk(b"png"))
    async with (
        build_house(replica=False, storage=storage) as house,
        house.client() as ann,
        house.client(house.other_key) as bob,
    ):
        submits = [
            asyncio.create_task(
                ann.post(
                    "/queue/test/probe",
                    params={"fal_webhook": f"https://{n}.example/hook"},
                    json={},
                )
            )
            for n in range(LOOK_UPS)
        ]
        async with asyncio.timeout(PATIENCE_S):
            while len(hanging.hosts) < 6:  # noqa: ASYNC110 - threads fill it
                await asyncio.sleep(0.005)
        large = {"prompt": "x" * (PARSE_IN_THREAD_BYTES + 1)}
        async with asyncio.timeout(PATIENCE_S):
            file = await bob.get(f"/files/{key}")
            submitted = await bob.post(
                "/queue/test/probe", params={"fal_webhook": "https://bob.example/"}, json={}
            )
            read = await bob.post("/queue/test/probe", json=large)
        assert (file.status_code, file.content) == (200, b"png")
        assert submitted.status_code == 200, submitted.text
        assert read.status_code in (200, 422)
        assert not any(submit.done() for submit in submits)
        hanging.released.set()
        assert {response.status_code for response in await asyncio.gather(*submits)} == {200}


@dataclass(frozen=True, slots=True)
class SlowWork:
    """Uploads that begin with ``slow``, and checks of workflows, wait until ``released``."""

    released: threading.Event = field(default_factory=threading.Event)

    def wait(self) -> None:
        self.released.wait(PATIENCE_S)

    def slow_down(self, monkeypatch: pytest.MonkeyPatch) -> None:
        write, read = AtomicFile.write, workflows.read

        def slow_write(file: AtomicFile, data: bytes) -> None:
            if data.startswith(b"slow"):
                self.wait()
            write(file, data)

        def slow_read(document: Any) -> Any:
            self.wait()
            return read(document)

        monkeypatch.setattr(AtomicFile, "write", slow_write)
        monkeypatch.setattr(workflows, "read", slow_read)


async def until_waiting(*pools: FairThreads) -> None:
    """Wait until jobs that find no thread wait in each pool."""
    async with asyncio.timeout(PATIENCE_S):
        while not all(pool.waiting for pool in pools):  # noqa: ASYNC110 - handlers fill them
            await asyncio.sleep(0.005)


async def upload(client: httpx.AsyncClient, content: bytes) -> httpx.Response:
    begun = await client.post("/rest/storage/upload/initiate", json={"file_name": "a.txt"})
    return await client.put(begun.json()["upload_url"], content=content)


async def test_slow_work_of_one_tenant_leaves_threads_to_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = SlowWork()
    slow.slow_down(monkeypatch)
    storage = DirectoryStorage(tmp_path, b"k" * 32, ORIGIN, SystemClock(), 1 << 20)
    await storage.start()
    async with (
        build_house(replica=False, storage=storage) as house,
        house.client() as mallory,
        house.client(house.other_key) as bob,
    ):
        tasks: list[asyncio.Task[httpx.Response]] = []
        for kind in (
            lambda: upload(mallory, b"slow"),
            lambda: mallory.post("/v1/workflows", json={}),
        ):
            tasks += [asyncio.create_task(kind()) for _ in range(JOBS)]
        await until_waiting(blocking._THREADS, cpu_executor._THREADS)
        large = {"prompt": "x" * (PARSE_IN_THREAD_BYTES + 1)}
        async with asyncio.timeout(PATIENCE_S):
            stored = await upload(bob, b"quick")
            submitted = await bob.post("/queue/test/probe", json=large)
        assert stored.status_code == 200, stored.text
        assert submitted.status_code in (200, 422)
        assert not any(task.done() for task in tasks)
        slow.released.set()
        answers = await asyncio.gather(*tasks)
        assert {answer.status_code for answer in answers} == {200, 422}
