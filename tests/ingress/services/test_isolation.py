"""A tenant whose name server does not answer delays no other tenant."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from serve_app.domain.name_resolution import NameResolver
from serve_app.ingress.http.body import PARSE_IN_THREAD_BYTES
from serve_app.storage.directory import DirectoryStorage
from serve_app.telemetry.clock import SystemClock
from tests.ingress.house import ORIGIN, built

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
    made = HangingLookUps()
    monkeypatch.setattr(socket, "getaddrinfo", made.getaddrinfo)
    # Its own limit would end the look-ups while a slow machine answers the other tenant.
    monkeypatch.setitem(NameResolver.__init__.__kwdefaults__, "limit_s", PATIENCE_S)
    yield made
    made.released.set()


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
        built(replica=False, storage=storage) as house,
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
        assert not any(each.done() for each in submits)
        hanging.released.set()
        assert {each.status_code for each in await asyncio.gather(*submits)} == {200}
