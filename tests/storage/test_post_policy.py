"""The strict server's check of policies of POSTs, with forms that boto3 made."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import boto3
import httpx
import pytest
from botocore.config import Config as BotoConfig

from tests.storage.s3_servers import REGION, S3Server

Post = Callable[..., tuple[int, str]]


@pytest.fixture
def post(moto_server: S3Server) -> Iterator[Post]:
    bucket = moto_server.new_bucket().bucket
    client: Any = boto3.client(
        "s3",
        endpoint_url=moto_server.url,
        region_name=REGION,
        aws_access_key_id=moto_server.key.access_key_id,
        aws_secret_access_key=moto_server.key.secret_access_key,
        config=BotoConfig(signature_version="s3v4", s3={"addressing_style": "path"}),
    )

    def post(content: bytes = b"image", **changes: str) -> tuple[int, str]:
        form = client.generate_presigned_post(
            bucket,
            "up/${filename}",
            Fields={"Content-Type": "image/png"},
            Conditions=[
                ["starts-with", "$key", "up/"],
                {"Content-Type": "image/png"},
                ["content-length-range", 1, 10],
            ],
            ExpiresIn=60,
        )
        fields = form["fields"] | changes
        files = {"file": ("cat.png", content, "image/png")}
        with httpx.Client() as http:
            answer = http.post(form["url"], data=fields, files=files)
        return answer.status_code, answer.text

    yield post
    client.close()


def test_a_form_that_fulfils_its_policy_is_stored(post: Post) -> None:
    assert post()[0] == 204


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"key": "elsewhere/cat.png"}, "Policy Condition failed: key"),
        ({"Content-Type": "text/html"}, "Policy Condition failed: content-type"),
        ({"x-amz-signature": "0" * 64}, "SignatureDoesNotMatch"),
        ({"acl": "public-read"}, "Extra input fields"),
    ],
)
def test_a_form_that_does_not_is_refused(post: Post, changes: dict[str, str], reason: str) -> None:
    status, body = post(**changes)
    assert (status, reason in body) == (403, True), body


@pytest.mark.parametrize(("content", "code"), [(b"x" * 11, "EntityTooLarge"), (b"", "EntityTooSm")])
def test_a_file_of_another_size_is_refused(post: Post, content: bytes, code: str) -> None:
    status, body = post(content)
    assert (status, code in body) == (400, True), body


def test_a_form_ends_with_its_time(post: Post, moto_server: S3Server) -> None:
    assert moto_server.strict is not None
    moto_server.strict.skew = timedelta(minutes=2)
    try:
        status, body = post()
    finally:
        moto_server.strict.skew = timedelta()
    assert (status, "expired" in body) == (403, True), body
