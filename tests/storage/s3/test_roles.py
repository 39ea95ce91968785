"""Roles of other accounts, with moto's STS."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from urllib.parse import parse_qs

import boto3
import httpx
import pytest
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

from serve_app.domain.errors import StorageUnavailable
from serve_app.storage.s3.clients import StaticKey, in_role
from serve_app.storage.s3.location import AssumedRole, S3Location
from serve_app.storage.s3.storage import S3Storage
from tests.storage.s3.chunks import chunks, content

ARN = "arn:aws:iam::123456789012:role/darkroom"
KEY = "r/0195/1/abc.acme.png"
PNG = "image/png"
OURS = StaticKey("AKIDOURS", "ours")


class Sts:
    """moto, which remembers what STS was asked for, and the keys that signed calls of S3."""

    def __init__(self) -> None:
        self._app = DomainDispatcherApplication(create_backend_app)
        self.asked: list[dict[str, list[str]]] = []
        self.signed_by: list[str] = []
        self.refuses = False
        self.url = ""

    def __call__(self, environ: dict[str, Any], start: Any) -> Iterable[bytes]:
        authorization = environ.get("HTTP_AUTHORIZATION", "")
        if "/sts/" in authorization:
            body = environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"]))
            environ["wsgi.input"] = io.BytesIO(body)
            self.asked.append(parse_qs(body.decode()))
            if self.refuses:
                xml = b"<ErrorResponse><Error><Code>AccessDenied</Code></Error></ErrorResponse>"
                start("403 Forbidden", [("content-length", str(len(xml)))])
                return [xml]
        elif authorization:
            self.signed_by.append(authorization.partition("Credential=")[2].partition("/")[0])
        return self._app(environ, start)


@contextmanager
def serving() -> Iterator[Sts]:
    sts = Sts()
    server = make_server("127.0.0.1", 0, sts, threaded=True)
    server.RequestHandlerClass.log = lambda *_: None  # type: ignore[method-assign]
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    sts.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield sts
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture(scope="module")
def server() -> Iterator[Sts]:
    with serving() as sts:
        yield sts


@pytest.fixture
def sts(server: Sts) -> Sts:
    server.asked.clear()
    server.signed_by.clear()
    server.refuses = False
    return server


def location(sts: Sts, **changes: Any) -> S3Location:
    client = boto3.client(
        "s3",
        endpoint_url=sts.url,
        region_name="us-east-1",
        aws_access_key_id="a",
        aws_secret_access_key="b",
    )
    client.create_bucket(Bucket="acme-pics")
    client.close()
    sts.signed_by.clear()
    role = AssumedRole(ARN, "their-secret", 900, sts.url)
    base = S3Location(
        "acme-pics", endpoint_url=sts.url, region="us-east-1", path_style=True, location_id="acme"
    )
    return replace(base, role=replace(role, **changes))


async def test_a_bucket_is_used_in_the_role_with_its_external_id(sts: Sts) -> None:
    storage = S3Storage(location(sts), OURS)
    await storage.start()
    try:
        await storage.put(KEY, PNG, chunks(b"image"))
        assert await content(storage, KEY) == b"image"
        ticket = storage.ticket("r/0195/1/xyz.acme.png", PNG, 9, 60)
        async with httpx.AsyncClient() as client:
            put = await client.put(ticket.url, content=b"x", headers=dict(ticket.headers))
    finally:
        await storage.aclose()
    (request,) = sts.asked
    assert (request["RoleArn"], request["ExternalId"]) == ([ARN], ["their-secret"])
    assert request["DurationSeconds"] == ["900"]
    assert "AKIDOURS" not in sts.signed_by
    # The replica's URL is the role's too, and has no long-lived key.
    assert "X-Amz-Security-Token=" in ticket.url
    assert "AKIDOURS" not in ticket.url
    assert put.status_code == 200


async def test_credentials_are_renewed_before_they_expire(
    sts: Sts, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As long as half of a session remains, nothing is asked for again.
    session = boto3.Session(aws_access_key_id="a", aws_secret_access_key="b")
    assumed = in_role(session, AssumedRole(ARN, "x-id", 900, sts.url))
    credentials = assumed.get_credentials()
    first = credentials.get_frozen_credentials()
    assert credentials.get_frozen_credentials() == first
    assert len(sts.asked) == 1
    # When half of it is over, new ones come, although the old ones are still valid.
    seconds = credentials._seconds_remaining
    monkeypatch.setattr(credentials, "_seconds_remaining", lambda: seconds() - 460)
    assert credentials.get_frozen_credentials() != first
    assert len(sts.asked) == 2


async def test_a_role_that_is_refused_is_said_with_what_to_do(sts: Sts) -> None:
    sts.refuses = True
    storage = S3Storage(location(sts), OURS)
    with pytest.raises(StorageUnavailable, match=r"cannot be assumed with an external id.*trust"):
        await storage.start()
    sts.refuses = False
    await storage.start()  # as the next attempt does
    await storage.put("r/0195/1/later.acme.png", PNG, chunks(b"later"))
    await storage.aclose()
