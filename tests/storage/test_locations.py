"""File with the storage locations of tenants."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from serve_app.domain.errors import InvalidInput, Misconfigured
from serve_app.settings import Config, Secrets
from serve_app.storage.locations import check_known, read_locations
from serve_app.storage.s3.location import location_of
from serve_app.storage.selection import create_storage, tenant_storage
from tests.fakes.clock import FakeClock

OWN = {"s3_bucket": "own", "s3_endpoint_url": "http://minio:9000", "s3_provider": "minio"}


@pytest.fixture
def read(tmp_path: Path) -> Any:
    def read(text: str, **settings: Any) -> Any:
        path = tmp_path / "locations.yaml"
        path.write_text(text)
        config = Config(gpus=0, storage_locations=path, **settings)
        return read_locations(config, location_of(config))

    return read


def test_without_a_file_there_are_none() -> None:
    config = Config(gpus=0)
    assert read_locations(config, None) == {}
    storage = create_storage(config, Secrets(), b"k", "http://in", FakeClock())
    assert type(storage).__name__ == "DirectoryStorage"


def test_an_empty_file_has_none(read: Any) -> None:
    assert read("# none yet") == {}


def test_a_location_is_what_the_file_says(read: Any) -> None:
    location = read(
        """
acme:
  bucket: acme-pictures
  prefix: dark/room
  region: eu-west-1
  encryption: aws:kms
  kms_key_id: alias/acme
  role_arn: arn:aws:iam::123456789012:role/darkroom
  external_id: d41d
  access_key_id: AKID
  secret_access_key: hush
"""
    )["acme"]
    assert location.s3.name("u/1.acme/a.png") == "dark/room/u/1.acme/a.png"
    assert (location.s3.provider.name, location.s3.region) == ("aws", "eu-west-1")
    assert location.s3.encryption.headers()[-1][1] == "alias/acme"
    assert (location.s3.role.external_id, location.s3.location_id) == ("d41d", "acme")
    assert "hush" not in repr(location)


def test_a_location_in_the_installations_own_bucket_has_a_prefix_of_its_own(read: Any) -> None:
    location = read("acme: {}", s3_prefix="pics", **OWN)["acme"].s3
    assert (location.bucket, location.prefix, location.endpoint_url) == (
        "own",
        "pics/acme/",
        "http://minio:9000",
    )
    assert location.provider.name == "minio"


def test_a_location_may_not_be_the_installations_own(read: Any) -> None:
    with pytest.raises(Misconfigured, match="the installation's own storage"):
        read("acme: {prefix: pics}", s3_prefix="pics", **OWN)


def test_a_location_cannot_lie_among_the_files_of_another_which_a_check_would_take_for_orphans(
    read: Any,
) -> None:
    for text, own in (("acme: {prefix: u}", ""), ("acme: {prefix: pics/r/a}", "pics")):
        with pytest.raises(Misconfigured, match="acme and the installation's own storage have"):
            read(text, s3_prefix=own, **OWN)
    with pytest.raises(Misconfigured, match="borg and acme have the same bucket"):
        read("acme: {bucket: both, prefix: a/w}\nborg: {bucket: both, prefix: a}")
    assert read("acme: {prefix: users}", **OWN)["acme"].s3.prefix == "users/"


def test_credentials_come_from_a_folder(read: Any, tmp_path: Path) -> None:
    (tmp_path / "access_key_id").write_text("AKID\n")
    (tmp_path / "secret_access_key").write_text("hush\n")
    location = read(f"acme: {{bucket: acme-pics, credentials_dir: {tmp_path}}}")["acme"]
    assert location.access_key_id == "AKID"
    assert location.secret_access_key.get_secret_value() == "hush"


def test_without_credentials_those_of_the_installation_are_used(read: Any) -> None:
    location = read("acme: {bucket: acme-pics}", **OWN)["acme"]
    secrets = Secrets(s3_access_key_id=SecretStr("a"), s3_secret_access_key=SecretStr("b"))
    storage = tenant_storage(Config(gpus=0), secrets, location)
    assert storage._clients._key.access_key_id == "a"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("- acme", "should be a mapping"),
        ("acme: [", "not valid YAML in line 1"),
        ("acme: 2026-13-45", "is not valid YAML. Correct it."),
        ("Acme: {bucket: pics}", "'Acme' is not a valid id"),
        ("acme: {}", "acme.bucket is missing"),
        ("acme: {bucket: s3://pics}", "acme.bucket is 's3://pics'"),
        ("acme: {bucket: pics, prefix: a/../b}", "acme.prefix"),
        ("acme: {bucket: pics, color: red}", "acme.color: unknown key `color`"),
        ("acme: {bucket: pics, endpoint_url: 'minio:9'}", "acme.endpoint_url"),
        ("acme: {bucket: pics, access_key_id: a}", "needs both access_key_id"),
        ("acme: {bucket: pics, external_id: abc}", "no effect without role_arn"),
        ("acme: {bucket: pics, role_arn: admin}", "acme.role_arn"),
        ("acme: {bucket: pics, kms_key_id: k}", "acme.KMS_KEY_ID has no effect"),
        ("acme: {bucket: pics, provider: r2, encryption: AES256}", "r2 does not take"),
        ("r: {bucket: pics}", "'r' is not a valid id"),
        (
            "acme: {bucket: pics}\nborg: {bucket: pics}",
            "borg has the bucket and the prefix of acme",
        ),
        ("acme: {bucket: pics, credentials_dir: /nowhere}", "access_key_id cannot be read"),
    ],
)
def test_what_is_wrong_is_said_with_its_location(read: Any, text: str, sentence: str) -> None:
    with pytest.raises(Misconfigured, match=sentence):
        read(text)


def test_a_secret_is_not_said(read: Any) -> None:
    with pytest.raises(Misconfigured) as raised:
        read("acme: {bucket: pics, access_key_id: AKID, secret_access_key: [hush]}")
    assert "hush" not in raised.value.message


def test_a_file_that_is_not_there_is_said(tmp_path: Path) -> None:
    config = Config(gpus=0, storage_locations=tmp_path / "none.yaml")
    with pytest.raises(Misconfigured, match="cannot be read"):
        read_locations(config, None)


def test_a_tenant_of_the_settings_needs_a_known_location(read: Any) -> None:
    with pytest.raises(Misconfigured, match=r"studio\.storage is 'nowhere'"):
        read("acme: {bucket: pics}", tenant_limits={"studio": {"storage": "nowhere"}})


def test_a_location_that_does_not_exist_is_refused() -> None:
    check_known(None, frozenset())
    check_known("acme", {"acme"})
    with pytest.raises(InvalidInput, match="no storage location 'nowhere'"):
        check_known("nowhere", {"acme"})
