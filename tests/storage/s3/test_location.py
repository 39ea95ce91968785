"""Invalid and contradicting settings are refused in one sentence."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from serve_app.domain.errors import Misconfigured
from serve_app.settings import AWS_SECRET_NAMES, Config, Secrets
from serve_app.storage.directory import DirectoryStorage
from serve_app.storage.keys import SAFETENSORS
from serve_app.storage.s3.location import location_of
from serve_app.storage.s3.storage import S3Storage
from serve_app.storage.selection import create_storage, s3_location
from tests.fakes.clock import FakeClock


def config(**settings: Any) -> Config:
    return Config(gpus=0, **settings)


def test_without_a_bucket_artifacts_go_to_the_directory() -> None:
    storage = create_storage(config(), Secrets(), b"k", "http://in", FakeClock())
    assert isinstance(storage, DirectoryStorage)


async def test_what_darkroom_stores_itself_may_be_larger_than_artifacts_and_uploads(
    tmp_path: Path,
) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        yield bytes(65)

    small = config(data_dir=tmp_path, max_artifact_bytes=64, max_upload_bytes=64)
    storage = create_storage(small, Secrets(), b"k", "http://in", FakeClock())
    assert await storage.put("w/ab/whole.safetensors", SAFETENSORS, chunks()) == 65


def test_with_a_bucket_they_go_there() -> None:
    secrets = Secrets(s3_access_key_id=SecretStr("a"), s3_secret_access_key=SecretStr("b"))
    storage = create_storage(config(s3_bucket="pics"), secrets, b"k", "http://in", FakeClock())
    assert isinstance(storage, S3Storage)
    assert storage.tickets is None


def test_a_location_is_what_the_settings_say() -> None:
    location = location_of(
        config(
            s3_bucket="pics",
            s3_prefix="/dark/room/",
            s3_endpoint_url="http://minio:9000/",
            s3_downloads="redirect",
            s3_public_endpoint_url="https://pics.example",
        )
    )
    assert location is not None
    assert location.name("r/1/a.png") == "dark/room/r/1/a.png"
    assert location.endpoint_url == "http://minio:9000"
    assert location.redirect


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"s3_endpoint_url": "http://minio:9000"}, "S3_ENDPOINT_URL is set, but no bucket"),
        ({"s3_path_style": False}, "S3_PATH_STYLE is set, but no bucket"),
        ({"s3_conditional_writes": False}, "S3_CONDITIONAL_WRITES is set, but no bucket"),
        ({"s3_bucket": "s3://pics"}, "not a valid bucket name"),
        ({"s3_bucket": "pics", "s3_endpoint_url": "minio:9000"}, "Use a URL"),
        ({"s3_bucket": "pics", "s3_endpoint_url": "http://m/pics"}, "only scheme, host and port"),
        ({"s3_bucket": "pics", "s3_region": "eu west"}, "S3_REGION"),
        ({"s3_bucket": "pics", "s3_prefix": "a/../b"}, "S3_PREFIX"),
        ({"s3_bucket": "pics", "s3_public_endpoint_url": "http://p"}, "S3_DOWNLOADS=redirect"),
        ({"s3_bucket": "pics", "max_artifact_bytes": 6 * 2**30}, "MAX_ARTIFACT_BYTES"),
    ],
)
def test_what_cannot_be_meant_is_refused(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(Misconfigured, match=sentence):
        location_of(config(**settings))


@pytest.mark.long
def test_it_is_refused_before_anything_starts(environments: dict[str, str]) -> None:
    assert "S3_REGION is set, but no bucket" in environments["region"]


@pytest.mark.parametrize(
    ("bucket", "key", "secret", "sentence"),
    [
        ("pics", "a", None, "S3_ACCESS_KEY_ID is set without DARKROOM_S3_SECRET_ACCESS_KEY"),
        ("pics", None, "b", "S3_SECRET_ACCESS_KEY is set without DARKROOM_S3_ACCESS_KEY_ID"),
        (None, "a", "b", "no bucket"),
    ],
)
def test_half_a_key_is_refused(
    bucket: str | None, key: str | None, secret: str | None, sentence: str
) -> None:
    secrets = Secrets(
        s3_access_key_id=SecretStr(key) if key else None,
        s3_secret_access_key=SecretStr(secret) if secret else None,
    )
    with pytest.raises(Misconfigured, match=sentence):
        s3_location(config(s3_bucket=bucket), secrets)


def test_the_keys_of_aws_do_not_reach_replicas(environments: dict[str, str]) -> None:
    assert {"DARKROOM_S3_SECRET_ACCESS_KEY", *AWS_SECRET_NAMES} <= set(
        environments["bucket"].split()
    )
    assert set(AWS_SECRET_NAMES) <= set(environments["directory"].split())
    # For the mirror of weights they stay, unless they open the bucket with the artifacts too.
    assert not set(environments["mirror"].split()) & set(AWS_SECRET_NAMES)
    assert set(AWS_SECRET_NAMES) <= set(environments["mirror and bucket"].split())
    assert set(AWS_SECRET_NAMES) <= set(environments["mirror and locations"].split())


MIRROR = {"weights_mirror": "s3://weights/models"}
SETTINGS = {
    "region": {"s3_region": "eu-west-1"},
    "bucket": {"s3_bucket": "pics"},
    "directory": {},
    "mirror": MIRROR,
    "mirror and bucket": {"s3_bucket": "pics", **MIRROR},
    "mirror and locations": {"storage_locations": "/nowhere.yaml", **MIRROR},
}

BUILD = """
import json, sys
from serve_app.app import build
from serve_app.domain.errors import Misconfigured

def built(settings):
    try:
        application = build({"gpus": 0, **settings})
    except Misconfigured as error:
        return error.message
    pool = application._bound_deployment.init_args[1][0]._bound_deployment
    environment = pool.ray_actor_options["runtime_env"]["env_vars"]
    return " ".join(name for name, value in environment.items() if value == "")

print(json.dumps({name: built(each) for name, each in json.loads(sys.argv[1]).items()}))
"""


@pytest.fixture(scope="module")
def environments() -> dict[str, str]:
    """For each of ``SETTINGS``, the variables that are set to "" in a pool's replicas, or the error
    of the build.

    Runs in another process without pytest's strictness about warnings, because it imports ray.
    """
    command = [sys.executable, "-c", BUILD, json.dumps(SETTINGS)]
    ran = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(ran.stdout)
