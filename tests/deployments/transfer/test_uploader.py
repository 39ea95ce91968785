"""Uploads with tickets."""

import asyncio
import os
import shutil
import threading
import time
from dataclasses import replace
from pathlib import Path
from random import Random

import httpx2
import pytest

from deployments.families.base import MediaFile
from deployments.transfer.uploader import Backoff, StorageCalls, StorageRetry, Uploader, http_client
from serve_app.domain.artifact import UploadTicket
from serve_app.domain.errors import ArtifactNotFound, StorageUnavailable, TooLarge
from serve_app.storage.directory import DirectoryStorage
from serve_app.telemetry.clock import SystemClock
from tests.deployments.storage import HttpStorage
from tests.fakes.broken_s3 import DROP, HANG, Says, broken_s3
from tests.fakes.clock import FakeClock

KEY = "r/0195/1/abc.png"


@pytest.fixture
def storage():
    return HttpStorage()


@pytest.fixture
async def uploader(storage):
    backoff = Backoff(Random(1), first_s=0.001, most_s=0.01)  # noqa: S311
    uploader = Uploader(storage.client(), SystemClock(), backoff, give_up_s=1.0)
    yield uploader
    await uploader.aclose()


# AttributeError: of a connection that is reset as it is opened, see ``HttpTransport``.
@pytest.mark.parametrize(
    "problem", [500, 503, 429, 409, 408, httpx2.ConnectError, httpx2.ReadTimeout, AttributeError]
)
async def test_what_may_pass_is_tried_again(storage, uploader, problem):
    storage.problems.extend([problem] * 3)
    await uploader.put(MediaFile(storage.ticket("key"), b"body"))
    assert storage.objects == {"key": b"body"}
    assert len(storage.requests) == 4


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 412, 501, 302])
async def test_a_refusal_is_not_tried_again(storage, uploader, status):
    storage.problems.append(status)
    with pytest.raises(StorageUnavailable, match=str(status)):
        await uploader.put(MediaFile(storage.ticket("key"), b"body"))
    assert len(storage.requests) == 1


async def test_each_try_is_counted_by_its_result():
    storage, calls = HttpStorage(), StorageCalls()
    backoff = Backoff(Random(1), first_s=0.001, most_s=0.01)  # noqa: S311
    uploader = Uploader(storage.client(), SystemClock(), backoff, 1.0, calls=calls)
    storage.problems.extend([503, 500, httpx2.ReadError, httpx2.ReadTimeout])
    await uploader.put(MediaFile(storage.ticket("key"), b"body"))
    storage.problems.append(403)
    with pytest.raises(StorageUnavailable):
        await uploader.put(MediaFile(storage.ticket("key"), b"body"))
    storage.closed = asyncio.Event()  # it hangs
    with pytest.raises(StorageRetry):
        await uploader.put(MediaFile(storage.ticket("key"), b"body"))
    cancelled = asyncio.create_task(uploader.put(MediaFile(storage.ticket("key"), b"body")))
    await asyncio.sleep(0)
    cancelled.cancel()
    await asyncio.gather(cancelled, return_exceptions=True)
    await uploader.aclose()
    counts = calls.counts()
    assert counts["storage_calls"] == {
        ("write", "error"): 2,
        ("write", "no_answer"): 1,
        ("write", "timeout"): 2,
        ("write", "done"): 1,
        ("write", "storage_unavailable"): 1,
    }
    assert counts["storage_seconds"]["write", "timeout"] >= 0.9


async def test_it_gives_up_in_the_end(storage, uploader):
    storage.problems.extend([503] * 10_000)
    with pytest.raises(StorageRetry, match="503"):
        await uploader.put(MediaFile(storage.ticket("key"), b"body"))


async def test_it_does_not_give_up_what_is_nowhere_else(storage, uploader):
    storage.problems.extend([503] * 300)
    await uploader.put(MediaFile(storage.ticket("key"), b"body"), without_end=True)
    assert storage.objects == {"key": b"body"}


async def test_a_refusal_is_not_taken_for_a_storage_that_is_away(storage, uploader):
    storage.problems.append(403)
    with pytest.raises(StorageUnavailable) as caught:
        await uploader.put(MediaFile(storage.ticket("key"), b"body"))
    assert not isinstance(caught.value, StorageRetry)


async def test_a_refusal_of_s3_is_reported_without_the_key_that_it_names():
    async def refused(request):
        xml = "<Error><Code>AccessDenied</Code><Message>No</Message><KeyId>AKID</KeyId></Error>"
        return httpx2.Response(403, text=xml)

    client = httpx2.AsyncClient(transport=httpx2.MockTransport(refused))
    uploader = Uploader(client, SystemClock(), Backoff(Random(1)), give_up_s=1.0)  # noqa: S311
    with pytest.raises(StorageUnavailable, match=r"403 AccessDenied: No$"):
        await uploader.put(MediaFile(HttpStorage().ticket("key"), b"body"))
    await uploader.aclose()


async def test_an_upload_whose_answer_was_lost_is_known_again(storage, uploader):
    storage.problems.extend([httpx2.ReadError, 412])
    await uploader.put(MediaFile(storage.ticket("key"), b"body"))
    assert len(storage.requests) == 2


async def test_a_checksum_goes_along_where_storage_takes_it(storage, uploader):
    await uploader.put(MediaFile(storage.ticket("one"), b"body"))
    await uploader.put(MediaFile(replace(storage.ticket("two"), takes_md5=True), b"body"))
    checksums = [request.headers.get("content-md5") for request in storage.requests]
    assert checksums == [None, "hBotaJrYa9FhFEdFPCLG/A=="]


async def test_deleting_goes_where_the_ticket_says(storage, uploader):
    ticket = replace(storage.ticket("key"), delete_url="http://storage/elsewhere")
    await uploader.delete(ticket)
    (request,) = storage.requests
    assert (request.method, request.url.path) == ("DELETE", "/elsewhere")
    assert "x-ticket" not in request.headers  # it was signed for the PUT


async def real(url, give_up_s, test):
    """Run ``test`` with an uploader over real sockets."""
    uploader = Uploader(
        http_client(),
        SystemClock(),
        Backoff(Random(1), first_s=0.01, most_s=0.05),  # noqa: S311
        give_up_s,
    )
    ticket = UploadTicket("key", f"{url}/key", "image/png", 100)
    try:
        await test(uploader, MediaFile(ticket, b"body"))
    finally:
        await uploader.aclose()


async def test_a_storage_that_comes_back_gets_the_file():
    async def test(uploader, file):
        await uploader.put(file)

    with broken_s3(after=Says(200)) as broken:
        broken.planned.extend([DROP, Says(503, "SlowDown"), DROP])
        await real(broken.url, 10.0, test)
        assert [method for method, _ in broken.seen] == ["PUT"] * 4


@pytest.mark.parametrize("answer", [HANG, DROP, Says(500, "InternalError")])
async def test_a_storage_that_stays_away_is_given_up_in_time(answer):
    async def test(uploader, file):
        with pytest.raises(StorageRetry):
            await uploader.put(file)

    with broken_s3(after=answer) as broken:
        began = time.monotonic()
        await real(broken.url, 0.5, test)
        assert time.monotonic() - began < 60.0


async def test_a_file_over_the_limit_is_not_sent(storage, uploader):
    with pytest.raises(TooLarge):
        await uploader.put(MediaFile(storage.ticket("key", max_bytes=3), b"body"))
    assert storage.requests == []


async def test_storage_may_say_that_it_is_too_large(storage, uploader):
    storage.problems.append(413)
    with pytest.raises(TooLarge):
        await uploader.put(MediaFile(storage.ticket("key"), b"body"))


@pytest.fixture
async def folder(tmp_path):
    """Our own storage in a directory, as an ingress on this machine has it."""
    storage = DirectoryStorage(tmp_path / "a", b"k" * 32, "http://storage", FakeClock())
    await storage.start()
    return storage


def ticket_of(folder, max_bytes=100):
    return folder.ticket(KEY, "image/png", max_bytes, 60)


async def read_content(folder):
    size = await folder.size(KEY)
    return b"".join([part async for part in folder.read(KEY, 0, size)])


@pytest.mark.parametrize("body", [b"body", b""])
@pytest.mark.parametrize("on_disk", [False, True])
async def test_beside_the_storage_a_file_is_written_without_a_call(
    tmp_path, storage, uploader, folder, body, on_disk
):
    path = tmp_path / "made.png"
    path.write_bytes(body)
    file = MediaFile(ticket_of(folder), path if on_disk else body)
    for _ in range(2):  # a repeat changes nothing
        await uploader.put(file)
        assert await read_content(folder) == body
    assert storage.requests == []
    assert [entry.name for entry in (folder.root / KEY).parent.iterdir()] == [Path(KEY).name]


async def elsewhere(folder):
    shutil.rmtree(folder.root)


async def nearly_full(folder):
    folder.tickets.least_free = lambda: 2**60


async def already_there(folder):
    async def other():
        yield b"other"

    await folder.put(KEY, "image/png", other())


async def in_the_way(folder):
    (folder.root / KEY).parent.parent.mkdir(parents=True)
    (folder.root / KEY).parent.write_bytes(b"a file in place of a folder")


@pytest.mark.parametrize("state", [elsewhere, nearly_full, already_there, in_the_way])
async def test_what_cannot_be_written_beside_the_storage_is_sent_to_it(
    storage, uploader, folder, state
):
    await state(folder)
    ticket = ticket_of(folder)
    await uploader.put(MediaFile(ticket, b"body"))
    assert list(storage.objects.values()) == [b"body"]
    left = list(folder.root.rglob("*.part")) if folder.root.exists() else []
    assert left == []


async def test_a_folder_of_another_user_is_left_alone(storage, uploader, folder, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    await uploader.put(MediaFile(ticket_of(folder), b"body"))
    assert list(storage.objects.values()) == [b"body"]
    with pytest.raises(ArtifactNotFound):
        await folder.size(KEY)


async def test_storage_that_hangs_here_is_given_up_in_time(storage, folder, monkeypatch):
    released = threading.Event()
    monkeypatch.setattr(shutil, "disk_usage", lambda _: released.wait(60.0))
    storage.closed = asyncio.Event()  # it hangs over HTTP too
    uploader = Uploader(storage.client(), SystemClock(), Backoff(Random(1)), give_up_s=0.2)  # noqa: S311
    try:
        with pytest.raises(StorageRetry):
            await uploader.put(MediaFile(ticket_of(folder), b"body"))
    finally:
        released.set()
        await uploader.aclose()


async def test_deleting_may_fail_silently(storage, uploader):
    await uploader.put(MediaFile(storage.ticket("key"), b"body"))
    storage.problems.append(httpx2.ConnectError)
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


async def test_a_file_on_the_disk_is_sent_part_by_part_with_its_size_first(
    tmp_path, storage, uploader
):
    body = bytes(range(256)) * 10_000  # more than two parts
    path = tmp_path / "video.mp4"
    path.write_bytes(body)
    file = MediaFile(replace(storage.ticket("key", max_bytes=10**7), takes_md5=True), path)
    storage.problems.append(503)
    await uploader.put(file)
    assert storage.objects == {"key": body}
    for request in storage.requests:
        assert request.headers["content-length"] == str(len(body))
        assert "transfer-encoding" not in request.headers
    assert file.artifact() == MediaFile(file.ticket, body).artifact()
    assert file.md5() == MediaFile(file.ticket, body).md5()
