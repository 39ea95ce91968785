"""Real S3 servers on this machine, for the real client."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from uuid import uuid4

import boto3
import pytest
from botocore.config import Config as BotoConfig
from botocore.loaders import JSONFileLoader

from serve_app.storage.s3.clients import StaticKey
from serve_app.storage.s3.location import S3Location
from serve_app.storage.s3.provider import PROVIDERS, Provider
from serve_app.storage.s3.storage import S3Storage
from serve_app.storage.s3.transfer import MAX_BYTES
from tests.node import node, packages
from tests.storage.strict_s3 import ACCESS_KEY, SECRET_KEY, Strict, strict_s3

S3RVER = Path(__file__).parents[1] / "s3rver"
SWIFT_SERVER = Path(__file__).parent / "swift_server.py"
REGION = "us-east-1"

_read_json = JSONFileLoader.load_file


@cache
def _description(path: str) -> Any:
    return _read_json(JSONFileLoader(), path)


# Each session of boto3 reads the descriptions of S3 and its endpoints anew, and each storage has a
# session: 75 of 133 ms of CPU.
JSONFileLoader.load_file = lambda _, file_path: _description(file_path)


@dataclass(frozen=True)
class S3Server:
    """S3 server. ``key`` gives access to it."""

    url: str
    key: StaticKey
    strict: Strict | None = None  # proxy in front of it, with an adjustable clock
    provider: Provider = PROVIDERS["other"]

    def client(self) -> Any:
        return boto3.client(
            "s3",
            endpoint_url=self.url,
            region_name=REGION,
            aws_access_key_id=self.key.access_key_id,
            aws_secret_access_key=self.key.secret_access_key,
            config=BotoConfig(s3={"addressing_style": "path"}),
        )

    def new_bucket(self, **changes: Any) -> S3Location:
        """New empty bucket, with keys below a prefix."""
        name = f"images-{uuid4().hex[:12]}"
        client = self.client()
        client.create_bucket(Bucket=name)
        client.close()
        return self.location(name, **changes)

    def location(self, bucket: str, **changes: Any) -> S3Location:
        provider = changes.get("provider", self.provider)
        options = {
            "prefix": "art/",
            "endpoint_url": self.url,
            "region": REGION,
            "provider": provider,
            "checksum": provider.checksum,
        }
        return S3Location(bucket, **(options | changes))

    @asynccontextmanager
    async def storage(
        self, location: S3Location, max_bytes: int = MAX_BYTES
    ) -> AsyncIterator[S3Storage]:
        storage = S3Storage(location, self.key, max_bytes)
        await storage.start()
        try:
            yield storage
        finally:
            await storage.aclose()


@contextmanager
def moto() -> Iterator[S3Server]:
    """moto: supports conditional writes; a proxy in front of it checks signatures."""
    with strict_s3() as (url, strict):
        yield S3Server(url, StaticKey(ACCESS_KEY, SECRET_KEY), strict)


@contextmanager
def s3rver(directory: Path) -> Iterator[S3Server]:
    """s3rver: no conditional writes; checks only the key and the time of a signature. Skips if it
    is not installed."""
    program = packages(S3RVER) / "s3rver" / "bin" / "s3rver.js"
    log = directory / "s3rver.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            [
                *(node(), "--require", S3RVER / "finished_writes.cjs", program),
                *("-d", directory / "buckets", "-a", "127.0.0.1", "-p", "0"),
            ],
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        yield S3Server(f"http://{_address(process, log)}", StaticKey("S3RVER", "S3RVER"))
    finally:
        process.kill()
        process.wait()


@contextmanager
def swift(directory: Path) -> Iterator[S3Server]:
    """OpenStack Swift: checks signatures, their time, conditions and checksums. Skips if it is not
    installed."""
    if find_spec("swift") is None:
        pytest.skip("OpenStack Swift is not installed: run scripts/setup.sh for the extra `dev`")
    key = StaticKey("images:tester", "swift-secret")
    log = directory / "swift.log"
    arguments = [directory / "swift", key.access_key_id, key.secret_access_key]
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, SWIFT_SERVER, *arguments], stdout=output, stderr=subprocess.STDOUT
        )
    try:
        yield S3Server(f"http://{_address(process, log)}", key, provider=PROVIDERS["swift"])
    finally:
        process.kill()
        process.wait()


def _address(process: subprocess.Popen[bytes], log: Path) -> str:
    while True:
        ended = process.poll() is not None
        _, marker, rest = log.read_text().partition("listening on ")
        if marker and "\n" in rest:
            return rest.splitlines()[0].strip()
        assert not ended, f"The server did not start: {log.read_text()}"
        time.sleep(0.05)
