"""Presigned URLs are those of boto3."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import boto3
import botocore.auth
import pytest
from botocore.config import Config
from botocore.credentials import ReadOnlyCredentials
from hypothesis import given
from hypothesis import strategies as st

from serve_app.storage.s3.presigning import Presigner

AT = datetime(2026, 11, 28, 9, 8, 7, tzinfo=UTC)
BUCKET = "pictures"
WITHOUT, WITH_TOKEN = (
    ReadOnlyCredentials("AKID", "secret/+", token) for token in (None, "token/+==")
)
PLACES = [
    (None, "eu-central-1", "virtual"),
    (None, "us-east-1", "path"),
    ("http://127.0.0.1:9000", "us-east-1", "path"),
    ("https://store.example:8443", "auto", "path"),
    ("https://store.example", "auto", "virtual"),
    ("http://[fd00::9]:9000", "us-east-1", "path"),
    ("https://[fd00::9]", "us-east-1", "path"),
]


def client_of(place: tuple[str | None, str, str], credentials: ReadOnlyCredentials) -> Any:
    endpoint_url, region, style = place
    return boto3.client(
        "s3",
        endpoint_url=endpoint_url,
        region_name=region,
        aws_access_key_id=credentials.access_key,
        aws_secret_access_key=credentials.secret_key,
        aws_session_token=credentials.token,
        config=Config(signature_version="s3v4", s3={"addressing_style": style}),
    )


@pytest.fixture(params=[WITHOUT, WITH_TOKEN], ids=["key", "role"], scope="module")
def credentials(request: pytest.FixtureRequest) -> ReadOnlyCredentials:
    return request.param


@pytest.fixture(params=PLACES, ids=lambda place: "-".join(map(str, place)), scope="module")
def signers(request: pytest.FixtureRequest, credentials: ReadOnlyCredentials) -> tuple[Any, Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(botocore.auth, "get_current_datetime", lambda: AT)
        client = client_of(request.param, credentials)
        return client, Presigner(client, BUCKET, credentials, lambda: AT)


def parts(url: str) -> tuple[str, str, list[tuple[str, str]]]:
    address = urlsplit(url)
    return f"{address.scheme}://{address.netloc}", address.path, sorted(parse_qsl(address.query))


def same(client: Any, operation: str, wanted: dict[str, str], url: str) -> bool:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(botocore.auth, "get_current_datetime", lambda: AT)
        theirs = client.generate_presigned_url(operation, {"Bucket": BUCKET, **wanted}, 60)
    return parts(url) == parts(theirs)


names = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), min_size=1)


@pytest.mark.variants(1)
@given(name=names)
def test_a_url_that_deletes_is_that_of_boto3(signers: tuple[Any, Presigner], name: str) -> None:
    client, presigner = signers
    name = f"r/{name}"
    assert same(client, "delete_object", {"Key": name}, presigner.url("DELETE", name, 60))


@pytest.mark.variants(4)
@given(type_=st.sampled_from(["image/png", "application/octet-stream", "text/x;  charset=a"]))
def test_a_url_that_writes_is_that_of_boto3(signers: tuple[Any, Presigner], type_: str) -> None:
    client, presigner = signers
    headers = [
        ("content-type", type_),
        ("if-none-match", "*"),
        ("x-amz-server-side-encryption", "aws:kms"),
        ("x-amz-server-side-encryption-aws-kms-key-id", "arn:aws:kms:eu:1:key/2"),
    ]
    parameters = {
        "Key": "a/b.png",
        "ContentType": type_,
        "IfNoneMatch": "*",
        "ServerSideEncryption": "aws:kms",
        "SSEKMSKeyId": "arn:aws:kms:eu:1:key/2",
    }
    url = presigner.url("PUT", "a/b.png", 60, headers=headers)
    assert same(client, "put_object", parameters, url)


@pytest.mark.long
@given(disposition=st.text(st.characters(codec="ascii", exclude_categories=["Cc"]), min_size=1))
def test_a_url_that_reads_is_that_of_boto3(
    signers: tuple[Any, Presigner], disposition: str
) -> None:
    client, presigner = signers
    params = {"response-content-type": "image/png", "response-content-disposition": disposition}
    parameters = {
        "Key": "a b/ü~.png",
        "ResponseContentType": "image/png",
        "ResponseContentDisposition": disposition,
    }
    url = presigner.url("GET", "a b/ü~.png", 60, params=params)
    assert same(client, "get_object", parameters, url)


def test_the_key_that_signs_changes_with_the_day() -> None:
    client = client_of(PLACES[0], WITHOUT)
    days = iter([AT, AT.replace(day=29), AT])
    presigner = Presigner(client, BUCKET, WITHOUT, lambda: next(days))
    first, second, third = (presigner.url("GET", "a", 60) for _ in range(3))
    assert first == third != second
