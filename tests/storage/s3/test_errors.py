"""Slow, failing or missing storage: the error message, and that it comes in time."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest

from serve_app.domain.errors import (
    ArtifactNotFound,
    DarkroomError,
    Misconfigured,
    StorageFull,
    StorageUnavailable,
)
from serve_app.ingress.services.health import Readiness
from serve_app.storage.s3 import clients
from serve_app.storage.s3.clients import S3Clients, StaticKey
from serve_app.storage.s3.location import Encryption, S3Location
from serve_app.storage.s3.storage import S3Storage
from serve_app.telemetry.clock import SystemClock
from tests.deployments.waiting import until
from tests.fakes.broken_s3 import DROP, HANG, BrokenS3, Says, broken_s3
from tests.storage.s3.chunks import chunks, content
from tests.storage.s3_servers import S3Server

KEY = "r/0195/1/abc.png"
PNG = "image/png"
ANY = StaticKey("any", "any")


@pytest.fixture
def failing_server() -> Any:
    with broken_s3() as broken:
        yield broken


@pytest.fixture
async def storage(failing_server: BrokenS3) -> AsyncIterator[S3Storage]:
    storage = S3Storage(location(failing_server.url), ANY)
    await storage.start()
    yield storage
    await storage.aclose()


def location(url: str, **changes: Any) -> S3Location:
    return S3Location("pics", **{"endpoint_url": url, "region": "us-east-1", **changes})


def nothing_listens() -> str:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{listener.getsockname()[1]}"


@pytest.mark.variants(2)
@pytest.mark.parametrize(
    ("answer", "kind", "sentence"),
    [
        (Says(404, "NoSuchBucket"), StorageUnavailable, "no bucket pics.*DARKROOM_S3_BUCKET"),
        (Says(403, "AccessDenied"), StorageUnavailable, "may not do s3:PutObject"),
        (Says(403, "InvalidAccessKeyId"), StorageUnavailable, "DARKROOM_S3_ACCESS_KEY_ID"),
        (Says(403, "SignatureDoesNotMatch"), StorageUnavailable, "rejects the signature"),
        (Says(400, "ExpiredToken"), StorageUnavailable, "does not accept the credentials"),
        (Says(403, "RequestTimeTooSkewed"), StorageUnavailable, "clock of this machine"),
        (
            Says(400, "AuthorizationHeaderMalformed", headers={"x-amz-bucket-region": "eu-west-3"}),
            StorageUnavailable,
            "region eu-west-3. Set DARKROOM_S3_REGION",
        ),
        (Says(301, "PermanentRedirect"), StorageUnavailable, "another region"),
        (Says(501, "NotImplemented"), StorageUnavailable, "DARKROOM_S3_PROVIDER"),
        (Says(405, "MethodNotAllowed"), StorageUnavailable, "DARKROOM_S3_PATH_STYLE=0"),
        (Says(507, "InsufficientCapacity"), StorageFull, "no space left"),
        (Says(503, "SlowDown", "Slow down."), StorageUnavailable, "503 SlowDown: Slow down"),
        (Says(418, "Teapot", "Short and stout."), StorageUnavailable, "418 Teapot: Short"),
        (Says(400, "InvalidRequest", ""), StorageUnavailable, r"with 400 InvalidRequest\.$"),
        (DROP, StorageUnavailable, "connection to S3 at .* broke"),
        (HANG, StorageUnavailable, "does not answer in time"),
    ],
)
async def test_what_is_wrong_is_said_with_what_to_do(
    failing_server: BrokenS3,
    storage: S3Storage,
    answer: Says | str,
    kind: type[DarkroomError],
    sentence: str,
) -> None:
    failing_server.after = answer
    began = time.monotonic()
    with pytest.raises(kind, match=sentence):
        await storage.check()
    assert time.monotonic() - began < 15.0


async def test_a_store_that_may_not_encrypt_is_said(failing_server: BrokenS3) -> None:
    # Ceph without a service of keys says no more than this.
    failing_server.after = Says(400, "InvalidRequest", "")
    storage = S3Storage(location(failing_server.url, encryption=Encryption()), ANY)
    await storage.start()
    try:
        with pytest.raises(StorageUnavailable, match="unset DARKROOM_S3_ENCRYPTION"):
            await storage.check()
    finally:
        await storage.aclose()


async def test_a_store_without_tls_is_not_said_to_have_a_bad_certificate(
    failing_server: BrokenS3,
) -> None:
    storage = S3Storage(location(failing_server.url.replace("http:", "https:")), ANY)
    await storage.start()
    try:
        with pytest.raises(StorageUnavailable, match=r"begin with http://") as raised:
            await storage.check()
        assert "AWS_CA_BUNDLE" not in raised.value.message
    finally:
        await storage.aclose()


async def test_a_store_that_is_gone_is_said() -> None:
    storage = S3Storage(location(nothing_listens()), ANY)
    await storage.start()
    try:
        with pytest.raises(
            StorageUnavailable, match=r"cannot be reached.*DARKROOM_S3_ENDPOINT_URL"
        ):
            await storage.check()
        with pytest.raises(StorageUnavailable):
            await storage.put(KEY, PNG, chunks(b"x"))
        with pytest.raises(StorageUnavailable):
            await content(storage, KEY)
    finally:
        await storage.aclose()


async def test_a_host_that_no_name_service_knows_points_at_the_path_style() -> None:
    storage = S3Storage(location("http://store.invalid", path_style=False), ANY)
    await storage.start()
    try:
        with pytest.raises(StorageUnavailable, match="DARKROOM_S3_PATH_STYLE=1"):
            await storage.check()
    finally:
        await storage.aclose()


@pytest.mark.long
@pytest.mark.parametrize("answer", [HANG, DROP, Says(503, "SlowDown")])
async def test_readiness_says_what_is_wrong_with_the_storage(
    failing_server: BrokenS3, storage: S3Storage, answer: Says | str
) -> None:
    readiness = Readiness({"storage": storage.check}, SystemClock())
    failing_server.after = answer
    assert "S3" in (await readiness.report())["storage"]


async def test_a_real_server_finds_a_skewed_clock_and_a_wrong_key(moto_server: S3Server) -> None:
    place = moto_server.new_bucket()
    assert moto_server.strict is not None
    wrong = StaticKey(moto_server.key.access_key_id, "wrong")
    for key, sentence, skew_h in (
        (moto_server.key, "clock of this machine", 1),
        (wrong, "rejects the signature", 0),
        (StaticKey("nobody", "wrong"), "does not accept the credentials", 0),
    ):
        moto_server.strict.skew = timedelta(hours=skew_h)
        storage = S3Storage(place, key)
        await storage.start()
        try:
            with pytest.raises(StorageUnavailable, match=sentence):
                await storage.check()
        finally:
            moto_server.strict.skew = timedelta()
            await storage.aclose()


async def test_a_failing_store_is_tried_a_few_times(
    failing_server: BrokenS3, storage: S3Storage
) -> None:
    failing_server.planned.extend([Says(404), Says(500, "InternalError"), Says(503, "SlowDown")])
    assert await storage.put(KEY, PNG, chunks(b"x")) == 1
    assert [method for method, _ in failing_server.seen] == ["HEAD", "PUT", "PUT", "PUT"]


async def test_and_not_for_ever(failing_server: BrokenS3, storage: S3Storage) -> None:
    failing_server.planned.append(Says(404))
    failing_server.after = Says(500, "InternalError")
    with pytest.raises(StorageUnavailable, match="500 InternalError"):
        await storage.put(KEY, PNG, chunks(b"x"))
    assert len(failing_server.seen) == 1 + clients.ATTEMPTS


async def test_a_put_whose_answer_was_lost_is_found_to_be_stored(
    failing_server: BrokenS3, storage: S3Storage
) -> None:
    there = Says(200, body=b"abc")
    failing_server.planned.extend(
        [Says(404), DROP, Says(412, "PreconditionFailed"), there, there, there]
    )
    assert await storage.put(KEY, PNG, chunks(b"abc")) == 3


async def test_a_download_that_breaks_goes_on_where_it_broke(
    failing_server: BrokenS3, storage: S3Storage
) -> None:
    body = b"0123456789"
    failing_server.planned.extend([Says(206, body=body, cut=4), Says(206, body=body[4:])])
    assert await content(storage, KEY, 0, 10) == body
    assert [method for method, _ in failing_server.seen] == ["GET", "GET"]


async def test_a_download_that_breaks_for_ever_ends(
    failing_server: BrokenS3, storage: S3Storage
) -> None:
    failing_server.after = Says(206, body=b"0123456789", cut=0)
    with pytest.raises(StorageUnavailable, match="broke"):
        await content(storage, KEY, 0, 10)


async def test_a_missing_object_is_no_trouble(failing_server: BrokenS3, storage: S3Storage) -> None:
    failing_server.after = Says(404, "NoSuchKey")
    with pytest.raises(ArtifactNotFound):
        await content(storage, KEY)


@pytest.mark.long
async def test_a_store_that_hangs_is_said_also_when_every_call_waits_for_it(
    failing_server: BrokenS3, storage: S3Storage
) -> None:
    failing_server.after = HANG
    reads = [asyncio.create_task(storage.size(KEY)) for _ in range(40)]
    await until(lambda: len(failing_server.seen) >= clients.THREADS)
    with pytest.raises(StorageUnavailable, match="does not answer in time"):
        await storage.check()
    await asyncio.to_thread(int)  # the threads of the event loop are free
    for task in reads:
        task.cancel()
    failing_server.closing.set()
    assert all(
        isinstance(outcome, BaseException)
        for outcome in await asyncio.gather(*reads, return_exceptions=True)
    )


async def test_without_credentials_it_does_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/dev/null")
    with pytest.raises(Misconfigured, match="DARKROOM_S3_ACCESS_KEY_ID"):
        await S3Storage(location("http://127.0.0.1:1"), None).start()


async def test_a_profile_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    with pytest.raises(StorageUnavailable, match=r"nobody.*DARKROOM_S3_ACCESS_KEY_ID"):
        await S3Storage(location("http://127.0.0.1:1"), None).start()


async def test_the_environment_of_aws_works_too(
    monkeypatch: pytest.MonkeyPatch, moto_server: S3Server
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", moto_server.key.access_key_id)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", moto_server.key.secret_access_key)
    storage = S3Storage(moto_server.new_bucket(region=None), None)
    await storage.start()
    await storage.check()
    await storage.aclose()


async def test_credentials_that_change_sign_the_next_ticket(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(clients, "REFRESH_S", 0.01)
    s3_clients = S3Clients(location("http://127.0.0.1:1"), StaticKey("first", "x"))
    await s3_clients.start()
    try:
        before = s3_clients.uploads
        session = s3_clients._session
        session._session.set_credentials("second", "y")
        await until(lambda: s3_clients.uploads is not before)
        url = s3_clients.uploads.url("PUT", "k", 60)
        assert "second" in url
    finally:
        await s3_clients.aclose()
