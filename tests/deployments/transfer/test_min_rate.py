"""Least rate of downloads, with a real HTTP server that sends slowly."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from deployments.transfer.fetcher import (
    NO_FILES,
    Fetcher,
    MinRate,
    OwnFiles,
    RateCheck,
    fetcher_client,
)
from deployments.transfer.lora_cache import LoraCache
from deployments.transfer.lora_fetcher import LoraFetcher, RequestedLora
from serve_app.domain.endpoint import StoreConfig
from serve_app.domain.errors import InvalidInput
from serve_app.domain.lora import FileUrl
from serve_app.domain.name_resolution import NameResolver
from serve_app.telemetry.clock import SystemClock
from tests.deployments.slow_server import SlowServer
from weights.repository_files import RepositoryFiles
from weights.store import Store

RATE = MinRate(bytes_per_s=1_000, window_s=0.2, grace_s=0.1)
SENT_LESS = "the server of the file sent less than 1,000 bytes a second"


def fetcher(rate: MinRate) -> Fetcher:
    return Fetcher(
        fetcher_client(),
        NameResolver(),
        max_bytes=10**6,
        timeout_s=600.0,
        allow_private=True,
        min_rate=rate,
    )


@pytest.fixture
async def server() -> AsyncIterator[SlowServer]:
    async with SlowServer() as slow:
        yield slow


@pytest.mark.parametrize("way", ["drip", "silent", "no_headers"])
async def test_a_download_below_the_least_rate_fails_and_names_the_field(
    server: SlowServer, way: str
) -> None:
    web = fetcher(RATE)
    with pytest.raises(InvalidInput, match=SENT_LESS) as caught:
        await web.fetch(server.url(way), "image_url")
    (problem,) = caught.value.problems
    assert (problem.loc, problem.type) == (("body", "image_url"), "file_download_error")
    await web.aclose()


async def test_a_lora_below_the_least_rate_fails_and_names_its_field(
    server: SlowServer, tmp_path: Path
) -> None:
    clock = SystemClock()
    loras = LoraFetcher(
        fetcher(RATE),
        RepositoryFiles(Store(StoreConfig())),
        LoraCache(tmp_path, 10**8, clock.now),
        clock,
        10**6,
    )
    lora = RequestedLora("loras.0.path", FileUrl(server.url("silent")), 1.0)
    with pytest.raises(InvalidInput, match=SENT_LESS) as caught:
        await loras.acquire([lora], [], NO_FILES)
    assert caught.value.problems[0].loc == ("body", "loras", 0, "path")
    await loras.aclose()


async def test_without_a_least_rate_only_the_time_limit_counts(server: SlowServer) -> None:
    web = fetcher(MinRate(0, window_s=0.01, grace_s=0.0))
    assert await web.fetch(server.url("late"), "image_url") == b"all of it"
    await web.aclose()


async def test_our_own_storage_may_be_slow(server: SlowServer) -> None:
    web = fetcher(MinRate(1_000_000, window_s=0.01, grace_s=0.0))
    body = await web.fetch(server.url("files/r/late"), "image_url", files=OwnFiles(server.origin))
    assert body == b"all of it"
    await web.aclose()


def test_each_window_counts_anew_and_the_first_has_the_grace() -> None:
    check = RateCheck(MinRate(100, window_s=15.0, grace_s=10.0), now=1000.0)
    assert check.due == 1025.0
    assert not check.receive(1499, now=1020.0)
    assert check.receive(1, now=1021.0)
    assert check.due == 1036.0
    assert not check.receive(1499, now=1035.9)
    assert check.due == 1036.0


def test_what_a_fast_start_saves_up_is_no_more_than_the_first_window() -> None:
    check = RateCheck(MinRate(100, window_s=15.0, grace_s=10.0), now=1000.0)
    assert check.receive(10**9, now=1001.0)
    assert check.due == 1025.0
