"""Each provider's table against a server that refuses what the provider refuses."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from random import Random
from typing import Any

import pytest

from deployments.families.base import MediaFile
from deployments.transfer.uploader import Backoff, Uploader, http_client
from serve_app.domain.errors import ArtifactNotFound, DarkroomError, Misconfigured
from serve_app.settings import Config
from serve_app.storage.s3.lifecycle import (
    install_rules,
    missing_rules,
    present_rules,
    wanted_rules,
)
from serve_app.storage.s3.location import location_of
from serve_app.storage.s3.provider import PROVIDERS, provider_of
from serve_app.storage.s3.transfer import PART_BYTES
from serve_app.telemetry.clock import SystemClock
from tests.storage.provider_rules import RULES
from tests.storage.s3.chunks import chunks, content
from tests.storage.s3_servers import S3Server
from tests.storage.strict_s3 import Strict

KEY = "r/0195/1/abc.png"
PNG = "image/png"
STRICT = sorted(RULES)


@pytest.fixture
def strict(moto_server: S3Server) -> Iterator[Strict]:
    assert moto_server.strict is not None
    yield moto_server.strict
    moto_server.strict.like = ""


@pytest.fixture
async def uploader() -> AsyncIterator[Uploader]:
    uploader = Uploader(http_client(), SystemClock(), Backoff(Random(1)), 5.0)  # noqa: S311
    yield uploader
    await uploader.aclose()


def make_location(server: S3Server, name: str, **changes: Any) -> Any:
    provider = PROVIDERS[name]
    options = {
        "provider": provider,
        "checksum": provider.checksum,
        "path_style": provider.path_style,
        "conditional_writes": provider.conditional_writes,
        "region": provider.region,
    }
    return server.new_bucket(**(options | changes))


@pytest.mark.variants(1)
@pytest.mark.parametrize("name", STRICT)
async def test_every_operation_works_as_the_provider_wants_it(
    moto_server: S3Server, strict: Strict, uploader: Uploader, name: str
) -> None:
    location = make_location(moto_server, name)
    strict.like = name
    async with moto_server.storage(location) as storage:
        await storage.check()
        await storage.put(KEY, PNG, chunks(b"small"))
        large = bytes(PART_BYTES + 1)
        await storage.put("r/0195/1/large.png", PNG, chunks(large))
        ticket = storage.ticket("r/0195/1/replica.png", PNG, 100, 60)
        await uploader.put(MediaFile(ticket, b"image"))
        parts_id = await storage.begin_parts("u/0/file.png", PNG)
        part = await storage.put_part("u/0/file.png", parts_id, 1, chunks(b"part"))
        assert await storage.join_parts("u/0/file.png", parts_id, {1: part.etag}) == 4
        assert await content(storage, KEY) == b"small"
        assert await content(storage, "r/0195/1/large.png") == large
        keys = [file.key async for file in storage.files()]
        assert len(keys) == 4
        await storage.delete(keys)
        with pytest.raises(ArtifactNotFound):
            await storage.size(KEY)


@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("b2", {"conditional_writes": True}),
        ("b2", {"checksum": "crc32"}),
        ("gcs", {"conditional_writes": True}),
        ("gcs", {"region": "us-east-1"}),
        ("r2", {"region": "us-east-1"}),
    ],
)
async def test_what_a_provider_refuses_is_refused_by_the_server_of_these_tests(
    moto_server: S3Server, strict: Strict, name: str, changes: dict[str, Any]
) -> None:
    location = make_location(moto_server, name, **changes)
    strict.like = name
    async with moto_server.storage(location) as storage:
        with pytest.raises(DarkroomError):
            await storage.put(KEY, PNG, chunks(b"small"))


@pytest.mark.parametrize("name", ["gcs", "ceph"])
async def test_many_objects_are_deleted_one_by_one_where_the_store_wants_it(
    moto_server: S3Server, strict: Strict, name: str
) -> None:
    strict.calls.clear()
    async with moto_server.storage(make_location(moto_server, name)) as storage:
        await storage.delete([f"r/0/1/{number}.png" for number in range(3)])
    assert sum(call.startswith("DELETE") for call in strict.calls) == 3


async def test_many_objects_are_deleted_by_one_call_for_a_thousand(
    moto_server: S3Server, strict: Strict
) -> None:
    async with moto_server.storage(make_location(moto_server, "aws")) as storage:
        await storage.put(KEY, PNG, chunks(b"x"))
        strict.calls.clear()
        await storage.delete([KEY, *(f"r/0/1/{number}.png" for number in range(1000))])
        assert strict.calls == ["POST delete", "POST delete"]
        with pytest.raises(ArtifactNotFound):
            await storage.size(KEY)


@pytest.mark.parametrize(
    ("endpoint", "name"),
    [
        (None, "aws"),
        ("https://s3.eu-west-1.amazonaws.com", "aws"),
        ("https://0123.r2.cloudflarestorage.com", "r2"),
        ("https://storage.googleapis.com", "gcs"),
        ("https://s3.eu-central-003.backblazeb2.com", "b2"),
        ("http://minio:9000", "other"),
        ("https://amazonaws.com.example", "other"),
    ],
)
def test_a_provider_is_known_by_its_host(endpoint: str | None, name: str) -> None:
    assert provider_of(None, endpoint).name == name


def test_a_setting_has_precedence_over_the_provider() -> None:
    settings: dict[str, Any] = {"s3_bucket": "pics", "s3_provider": "b2", "gpus": 0}
    location = location_of(Config(**settings))
    assert location is not None
    assert (location.conditional_writes, location.checksum) == (False, "none")
    location = location_of(
        Config(**settings, s3_conditional_writes=True, s3_checksum="crc32", s3_path_style=True)
    )
    assert location is not None
    assert (location.conditional_writes, location.checksum, location.path_style) == (
        True,
        "crc32",
        True,
    )


def test_the_region_of_b2_is_in_its_endpoint() -> None:
    url = "https://s3.eu-central-003.backblazeb2.com"
    location = location_of(Config(s3_bucket="pics", s3_endpoint_url=url, gpus=0))
    assert location is not None
    assert location.region == "eu-central-003"


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"s3_provider": "r2", "s3_encryption": "AES256"}, "r2 does not take"),
        ({"s3_provider": "b2", "s3_encryption": "aws:kms"}, "b2 does not take"),
        ({"s3_kms_key_id": "k"}, "S3_KMS_KEY_ID has no effect without DARKROOM_S3_ENCRYPTION"),
        ({"s3_provider": "r2", "max_artifact_bytes": 5 * 2**30}, "MAX_ARTIFACT_BYTES"),
    ],
)
def test_what_a_provider_cannot_do_is_refused(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(Misconfigured, match=sentence):
        location_of(Config(s3_bucket="pics", gpus=0, **settings))


@pytest.mark.long
@pytest.mark.parametrize("name", ["aws", "minio", "r2"])
async def test_a_store_gets_the_lifecycle_rules_that_it_takes(
    moto_server: S3Server, strict: Strict, name: str
) -> None:
    location = make_location(moto_server, name)
    strict.like = name
    async with moto_server.storage(location) as storage:
        rules = wanted_rules(location)
        assert await install_rules(storage, rules) == [rule["ID"] for rule in rules]
        assert missing_rules(rules, await present_rules(storage)) == []
        assert await install_rules(storage, rules) == []


@pytest.mark.parametrize("name", ["gcs", "b2", "swift"])
def test_a_store_with_rules_of_its_own_is_named(moto_server: S3Server, name: str) -> None:
    with pytest.raises(Misconfigured, match=f"{name} does not take"):
        wanted_rules(make_location(moto_server, name))


@pytest.mark.variants(1)
@pytest.mark.parametrize(
    ("change", "covers"),
    [
        ({}, True),
        ({"Filter": {"Prefix": ""}}, True),
        ({"Expiration": {"Days": 0}}, True),
        ({"Expiration": {"Days": 7}}, False),
        ({"Status": "Disabled"}, False),
        ({"Filter": {"Prefix": "art/other/"}}, False),
        ({"Filter": {"Tag": {"Key": "a", "Value": "b"}}}, False),
    ],
)
def test_a_rule_of_an_operator_may_do_the_same(
    moto_server: S3Server, change: dict[str, Any], covers: bool
) -> None:
    check, *_ = wanted_rules(make_location(moto_server, "aws"))
    theirs = {**check, "ID": "theirs", **change}
    assert (missing_rules([check], [theirs]) == []) == covers
