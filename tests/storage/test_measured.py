"""Counts of what is read, written and deleted in storage, as Prometheus reads them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing

import pytest
from prometheus_client import CollectorRegistry

from serve_app.domain.errors import ArtifactNotFound, StorageUnavailable
from serve_app.storage.measured import MeasuredStorage
from serve_app.telemetry.metrics import Metrics
from tests.fakes.clock import FakeClock
from tests.fakes.storage import FakeStorage
from tests.telemetry.reading import scraping

KEY, PNG = "r/0195/1/abc.png", "image/png"


async def chunks(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


async def content(storage: MeasuredStorage, key: str) -> bytes:
    return b"".join([chunk async for chunk in storage.read(key, 0, 100)])


async def test_reads_writes_and_deletes_are_counted_by_result() -> None:
    fake, metrics = FakeStorage(b"k" * 32, "http://in", FakeClock()), Metrics(CollectorRegistry())
    storage = MeasuredStorage(fake, metrics)
    await storage.put(KEY, PNG, chunks(b"ab"))
    assert await content(storage, KEY) == b"ab"
    assert await storage.size(KEY) == 2
    async with aclosing(storage.read(KEY, 0, 2)) as left_early:
        await anext(left_early)
    with pytest.raises(ArtifactNotFound):
        await content(storage, "r/0195/1/none.png")
    await storage.delete([KEY, "r/0195/1/none.png"])
    parts_id = await storage.begin_parts(KEY, PNG)
    await storage.drop_parts(KEY, parts_id)
    fake.away = StorageUnavailable("It is away.")
    with pytest.raises(StorageUnavailable):
        await storage.put(KEY, PNG, chunks(b"ab"))
    with pytest.raises(StorageUnavailable):
        await storage.delete([KEY])
    async with scraping(metrics) as scrapes:
        counts = {
            (dict(labels)["call"], dict(labels)["result"]): value
            for (name, labels), value in (await scrapes.read()).items()
            if name == "darkroom_storage_calls_total" and value
        }
    assert counts == {
        ("write", "done"): 2,
        ("write", "storage_unavailable"): 1,
        ("read", "done"): 1,
        ("read", "aborted"): 1,
        ("read", "artifact_not_found"): 1,
        ("size", "done"): 1,
        ("delete", "done"): 3,
        ("delete", "storage_unavailable"): 1,
    }
