"""Uploads by ticket."""

from random import Random

import httpx
import pytest

from deployments.backoff import Backoff
from deployments.family import MediaFile
from deployments.upload import Uploader, http_client
from serve_app.domain.errors import StorageUnavailable, TooLarge
from serve_app.telemetry.clock import SystemClock
from tests.deployments.storage import HttpStorage


@pytest.fixture
def storage():
    return HttpStorage()


@pytest.fixture
async def uploader(storage):
    backoff = Backoff(Random(1), first_s=0.001, most_s=0.01)  # noqa: S311
    uploader = Uploader(storage.client(), SystemClock(), backoff, give_up_s=1.0)
    yield uploader
    await uploader.aclose()


@pytest.mark.parametrize("problem", [500, 503, 429, 408, httpx.ConnectError, httpx.ReadTimeout])
async def test_what_may_pass_is_tried_again(storage, uploader, problem):
    storage.problems.extend([problem] * 3)
    await uploader.put(MediaFile(storage.ticket("key"), b"body"))
    assert storage.objects == {"key": b"body"}
    assert len(storage.requests) == 4


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 302])
async def test_a_refusal_is_not_tried_again(storage, uploader, status):
    storage.problems.append(status)
    with pytest.raises(StorageUnavailable, match=str(status)):
        await uploader.put(MediaFile(storage.ticket("key"), b"body"))
    assert len(storage.requests) == 1


async def test_it_gives_up_in_the_end(storage, uploader):
    storage.problems.extend([503] * 10_000)
    with pytest.raises(StorageUnavailable, match="503"):
        await uploader.put(MediaFile(storage.ticket("key"), b"body"))


async def test_a_file_over_the_limit_is_not_sent(storage, uploader):
    with pytest.raises(TooLarge):
        await uploader.put(MediaFile(storage.ticket("key", max_bytes=3), b"body"))
    assert storage.requests == []


async def test_storage_may_say_that_it_is_too_large(storage, uploader):
    storage.problems.append(413)
    with pytest.raises(TooLarge):
        await uploader.put(MediaFile(storage.ticket("key"), b"body"))


async def test_deleting_may_fail_silently(storage, uploader):
    await uploader.put(MediaFile(storage.ticket("key"), b"body"))
    storage.problems.append(httpx.ConnectError)
    await uploader.delete(storage.ticket("key"))
    await uploader.delete(storage.ticket("key"))
    assert storage.objects == {}


async def test_the_real_client_takes_no_proxy_from_the_environment(monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://192.0.2.1:1")
    async with http_client() as client:
        assert not client.trust_env


def test_delays_double_with_jitter_up_to_the_most():
    delays = Backoff(Random(1), first_s=0.1, most_s=1.0).delays()  # noqa: S311
    drawn = [next(delays) for _ in range(8)]
    for delay, most in zip(drawn, [0.1, 0.2, 0.4, 0.8, 1, 1, 1, 1], strict=True):
        assert most / 2 <= delay <= most
