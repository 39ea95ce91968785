"""Uploads to buckets of clients: real forms of boto3, a server that checks them, real sockets."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from random import Random
from typing import Any
from urllib.parse import urlsplit

import pytest

from deployments.transfer.uploader import Backoff, MediaFile, Uploader
from serve_app.domain.artifact import UploadTicket
from serve_app.domain.errors import UploadPolicyFailed
from serve_app.telemetry.clock import SystemClock
from tests.deployments.client_bucket import (
    TYPED,
    Bucket,
    bucket,
    forge_signature,
    moto_server,
    uploading,
)
from tests.deployments.storage import HttpStorage
from tests.fakes.broken_s3 import DROP, HANG, Says, broken_s3
from tests.fakes.upload_policies import upload_policy

__all__ = ["bucket", "moto_server"]


async def test_a_file_is_stored_with_its_type_at_the_url_of_its_key(bucket: Bucket) -> None:
    ticket = bucket.ticket(bucket.policy(TYPED, ["content-length-range", 1, 100]))
    async with uploading() as uploader:
        await uploader.put(MediaFile(ticket, b"image"))
    assert bucket.objects() == {"out/r-0.png": b"image"}
    assert bucket.read("out/r-0.png")["ContentType"] == "image/png"
    assert urlsplit(ticket.key).path.endswith("/out/r-0.png")


async def test_a_policy_without_a_condition_for_the_type_gets_no_field_for_it(
    bucket: Bucket,
) -> None:
    """S3 refuses a form with a field that no condition names."""
    async with uploading() as uploader:
        await uploader.put(MediaFile(bucket.ticket(bucket.policy()), b"image"))
    assert bucket.objects() == {"out/r-0.png": b"image"}


async def test_a_large_file_is_sent_from_disk(bucket: Bucket, tmp_path: Path) -> None:
    body = bytes(range(256)) * 20_000
    path = tmp_path / "video.mp4"
    path.write_bytes(body)
    ticket = replace(bucket.ticket(bucket.policy(TYPED)), max_bytes=len(body))
    async with uploading() as uploader:
        await uploader.put(MediaFile(ticket, path))
    assert bucket.objects() == {"out/r-0.png": body}


async def test_another_attempt_replaces_the_file_and_leaves_no_second(bucket: Bucket) -> None:
    policy = bucket.policy(TYPED)
    async with uploading() as uploader:
        await uploader.put(MediaFile(bucket.ticket(policy), b"of an attempt that died"))
        await uploader.delete(bucket.ticket(policy))
        await uploader.put(MediaFile(bucket.ticket(policy), b"image"))
    assert bucket.objects() == {"out/r-0.png": b"image"}


async def test_a_redirect_after_the_upload_is_a_success(bucket: Bucket) -> None:
    policy = bucket.policy(TYPED, fields={"success_action_status": "201"})
    async with uploading() as uploader:
        await uploader.put(MediaFile(bucket.ticket(policy), b"image"))
    with broken_s3(after=Says(303)) as broken:
        elsewhere = replace(bucket.ticket(policy), url=f"{broken.url}/acme")
        async with uploading() as uploader:
            await uploader.put(MediaFile(elsewhere, b"image"))
        assert [method for method, _ in broken.seen] == ["POST"]


async def refusal(bucket: Bucket, ticket: UploadTicket, body: bytes = b"image") -> str:
    async with uploading() as uploader:
        with pytest.raises(UploadPolicyFailed) as caught:
            await uploader.put(MediaFile(ticket, body))
    assert bucket.objects() == {}
    signature = dict(ticket.form).get("x-amz-signature", "?")
    assert signature not in caught.value.message
    return caught.value.message


async def test_a_bucket_that_refuses_is_named_with_its_reason(bucket: Bucket) -> None:
    ticket = bucket.ticket(bucket.policy(TYPED, ["content-length-range", 1, 100]))
    assert "403 SignatureDoesNotMatch" in await refusal(bucket, forge_signature(ticket))
    assert "400 EntityTooLarge" in await refusal(bucket, ticket, b"x" * 101)
    assert bucket.server.strict is not None
    bucket.server.strict.skew = timedelta(minutes=2)
    try:
        assert "expired" in await refusal(bucket, ticket)
    finally:
        bucket.server.strict.skew = timedelta()


async def test_a_file_over_the_policys_limit_is_not_sent(bucket: Bucket) -> None:
    ticket = replace(bucket.ticket(bucket.policy(TYPED)), max_bytes=3)
    assert "5 bytes" in await refusal(bucket, ticket)


@pytest.mark.parametrize("status", [307, 404, 501])
async def test_only_the_reason_that_s3_gives_is_told(bucket: Bucket, status: int) -> None:
    """The server may be any, so its answer says nothing else to the owner of the request."""
    ticket = bucket.ticket(bucket.policy(TYPED))
    with broken_s3(after=Says(status, body=b"<html>secret</html>")) as broken:
        async with uploading() as uploader:
            with pytest.raises(UploadPolicyFailed, match=str(status)) as caught:
                await uploader.put(MediaFile(replace(ticket, url=f"{broken.url}/acme"), b"image"))
        assert [method for method, _ in broken.seen] == ["POST"]
    assert "secret" not in caught.value.message


async def test_a_bucket_that_comes_back_gets_the_file(bucket: Bucket) -> None:
    ticket = bucket.ticket(bucket.policy(TYPED))
    with broken_s3(after=Says(204)) as broken:
        broken.planned.extend([DROP, Says(503, "SlowDown"), DROP])
        async with uploading() as uploader:
            await uploader.put(MediaFile(replace(ticket, url=f"{broken.url}/acme"), b"image"))
        assert [method for method, _ in broken.seen] == ["POST"] * 4


@pytest.mark.parametrize("answer", [HANG, DROP, Says(500, "InternalError")])
async def test_a_bucket_that_stays_away_ends_the_request(bucket: Bucket, answer: Any) -> None:
    """It is not handed back: each attempt would generate the files again."""
    ticket = bucket.ticket(bucket.policy(TYPED))
    with broken_s3(after=answer) as broken:
        began = time.monotonic()
        async with uploading(give_up_s=0.5) as uploader:
            with pytest.raises(UploadPolicyFailed, match=r"within 0\.5 s"):
                await uploader.put(MediaFile(replace(ticket, url=f"{broken.url}/acme"), b"image"))
        assert time.monotonic() - began < 60.0


async def test_a_name_that_has_become_private_is_not_connected_to() -> None:
    async def moved(host: str, port: int) -> Sequence[str]:
        del host, port
        return ["10.0.0.7"]

    policy = upload_policy()
    ticket = UploadTicket("k", policy.url, "image/png", 100, form=policy.form("a", "image/png"))
    async with uploading(allow_private=False, resolve=moved) as uploader:
        with pytest.raises(UploadPolicyFailed, match="private address"):
            await uploader.put(MediaFile(ticket, b"image"))


async def test_a_replica_without_an_uploader_for_buckets_says_so() -> None:
    policy = upload_policy()
    ticket = UploadTicket("k", policy.url, "image/png", 100, form=policy.form("a", "image/png"))
    backoff = Backoff(Random(1))  # noqa: S311
    uploader = Uploader(HttpStorage().client(), SystemClock(), backoff, 1.0)
    with pytest.raises(UploadPolicyFailed):
        await uploader.put(MediaFile(ticket, b"image"))
    await uploader.aclose()


def test_a_type_that_the_policy_does_not_allow_is_named() -> None:
    policy = replace(upload_policy(), fields={**upload_policy().fields, "Content-Type": "a/b"})
    with pytest.raises(UploadPolicyFailed, match="does not allow a file of image/png"):
        policy.form("a", "image/png")
