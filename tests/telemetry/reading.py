"""Metrics as Prometheus reads them: the text over HTTP, by the client's own parser."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager

import httpx
from prometheus_client.parser import text_string_to_metric_families

from serve_app.telemetry.metrics import Metrics, MetricsServer

PATIENCE_S = 120.0
Series = Mapping[tuple[str, frozenset[tuple[str, str]]], float]


class Scrapes:
    """Reader of one ``/metrics``."""

    def __init__(self, url: str) -> None:
        self._url = url

    async def read(self) -> Series:
        async with httpx.AsyncClient() as client:
            answer = await client.get(self._url)
        return parse_series(answer.text)

    async def value(self, name: str, **labels: str) -> float | None:
        """Value of one series without ``darkroom_``; None if there is none."""
        return (await self.read()).get((f"darkroom_{name}", frozenset(labels.items())))

    async def until(self, true: Callable[[float], bool], name: str, **labels: str) -> None:
        """Wait until the value of a series, 0 if there is none, is as wanted."""
        end = time.monotonic() + PATIENCE_S
        while not true(value := await self.value(name, **labels) or 0.0):
            assert time.monotonic() < end, f"{name} {labels} stays {value}"
            await asyncio.sleep(0.05)


def parse_series(text: str) -> Series:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


@asynccontextmanager
async def scraping(metrics: Metrics) -> AsyncGenerator[Scrapes]:
    server = MetricsServer(metrics.registry, 0)
    server.start()
    try:
        yield Scrapes(f"http://127.0.0.1:{server.port}/metrics")
    finally:
        await asyncio.to_thread(server.close)
