"""A bucket of a client, on a server that checks the forms that boto3 signs, over real sockets."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from random import Random
from typing import Any

import boto3
import pytest
from botocore.config import Config as BotoConfig

from deployments.transfer.fetcher import fetcher_client
from deployments.transfer.policy_uploader import PolicyUploader
from deployments.transfer.uploader import Backoff, Uploader, http_client
from serve_app.domain.artifact import UploadTicket
from serve_app.domain.media.upload_policy import UploadPolicy
from serve_app.domain.name_resolution import NameResolver
from serve_app.telemetry.clock import SystemClock
from tests.storage.conftest import moto_server
from tests.storage.s3_servers import REGION, S3Server

__all__ = ["moto_server"]

TYPED = ["starts-with", "$Content-Type", ""]


@dataclass
class Bucket:
    """A client's bucket, and the policies that it signs."""

    server: S3Server
    client: Any
    name: str

    def policy(self, *conditions: Any, fields: Any = None) -> UploadPolicy:
        form = self.client.generate_presigned_post(
            self.name,
            "out/${filename}",
            Fields=fields or {},
            Conditions=[*conditions, *({name: value} for name, value in (fields or {}).items())],
            ExpiresIn=60,
        )
        return UploadPolicy(form["url"], form["fields"])

    def ticket(self, policy: UploadPolicy, name: str = "r-0.png") -> UploadTicket:
        form = policy.form(name, "image/png")
        return UploadTicket(policy.file_url(name), policy.url, "image/png", 10**6, form=form)

    def objects(self) -> dict[str, bytes]:
        listed = self.client.list_objects_v2(Bucket=self.name).get("Contents", ())
        return {entry["Key"]: self.read(entry["Key"])["Body"].read() for entry in listed}

    def read(self, key: str) -> Any:
        return self.client.get_object(Bucket=self.name, Key=key)


@pytest.fixture
def bucket(moto_server: S3Server) -> Iterator[Bucket]:
    client: Any = boto3.client(
        "s3",
        endpoint_url=moto_server.url,
        region_name=REGION,
        aws_access_key_id=moto_server.key.access_key_id,
        aws_secret_access_key=moto_server.key.secret_access_key,
        config=BotoConfig(signature_version="s3v4", s3={"addressing_style": "path"}),
    )
    yield Bucket(moto_server, client, moto_server.new_bucket().bucket)
    client.close()


def forge_signature(ticket: UploadTicket) -> UploadTicket:
    """``ticket`` with another signature."""
    form = {**dict(ticket.form), "x-amz-signature": "0" * 64}
    return replace(ticket, form=tuple(form.items()))


BACKOFF = Backoff(Random(1), first_s=0.001, most_s=0.01)  # noqa: S311


def policy_uploader(
    give_up_s: float = 30.0, *, allow_private: bool = True, resolve: Any = None
) -> PolicyUploader:
    client, names = fetcher_client(), resolve or NameResolver()
    return PolicyUploader(
        client, names, SystemClock(), BACKOFF, give_up_s, allow_private=allow_private
    )


@asynccontextmanager
async def uploading(give_up_s: float = 30.0, **options: Any) -> AsyncIterator[Uploader]:
    """An uploader of a replica. ``options``: those of ``policy_uploader``."""
    buckets = policy_uploader(give_up_s, **options)
    uploader = Uploader(http_client(), SystemClock(), BACKOFF, give_up_s, buckets)
    try:
        yield uploader
    finally:
        await uploader.aclose()
