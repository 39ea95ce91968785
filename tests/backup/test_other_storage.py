"""Commands that compare rows with files notice that their settings name another storage."""

from __future__ import annotations

import logging
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from pydantic import SecretStr

from serve_app.backup.backup import back_up
from serve_app.backup.folder import BackupFolder
from serve_app.backup.installation import OpenInstallation, open_installation
from serve_app.backup.restore import restore
from serve_app.domain.errors import Misconfigured
from serve_app.ingress.connections import open_storage
from serve_app.postgres.database import Database
from serve_app.postgres.file_places import difference, read_places, record_places
from serve_app.settings import Config, Secrets
from serve_app.storage.selection import file_places
from serve_app.telemetry.clock import SystemClock
from tests.captured_logs import CapturedLogs
from tests.queue.database import database

__all__ = ["database"]

pytestmark = pytest.mark.timeout(120)

BUCKET = "the bucket my-bucket at AWS"


def secrets(conninfo: str) -> Secrets:
    return Secrets(database_url=SecretStr(conninfo))


async def serve(database: Database, config: Config, secrets: Secrets) -> None:
    """Open the storage, and close it, as the ingress does."""
    async with AsyncExitStack() as stack:
        await open_storage(stack, database, config, secrets, "", SystemClock())


async def test_a_command_refuses_another_directory_than_that_of_the_ingress(
    tmp_path: Path, database: Database, conninfo: str
) -> None:
    served, other = Config(data_dir=tmp_path / "served"), Config(data_dir=tmp_path / "other")
    await serve(database, served, secrets(conninfo))
    async with open_installation(served, secrets(conninfo)) as target:
        assert target.places == {"": f"the directory {tmp_path / 'served' / 'artifacts'}"}
    with pytest.raises(Misconfigured) as refused:
        async with open_installation(other, secrets(conninfo)):
            pass
    for word in (str(tmp_path / "served"), str(tmp_path / "other"), "--config", "--other-storage"):
        assert word in refused.value.message
    async with open_installation(other, secrets(conninfo), other_storage=True) as target:
        assert target.data_dir == tmp_path / "other"


async def test_a_command_without_the_bucket_of_the_ingress_is_refused(
    tmp_path: Path, database: Database, conninfo: str
) -> None:
    with_bucket = Config(data_dir=tmp_path, s3_bucket="my-bucket")
    await record_places(database, file_places(with_bucket, secrets(conninfo)))
    with pytest.raises(Misconfigured, match=BUCKET):
        async with open_installation(Config(data_dir=tmp_path), secrets(conninfo)):
            pass


async def test_nothing_is_refused_before_the_ingress_has_recorded_its_storage(
    tmp_path: Path, conninfo: str, empty: str
) -> None:
    for url in (conninfo, empty):
        async with open_installation(Config(data_dir=tmp_path), secrets(url)) as target:
            assert await read_places(target.database) == {}


async def test_a_restored_installation_names_the_storage_that_it_was_restored_to(
    tmp_path: Path, source: OpenInstallation, fresh: OpenInstallation
) -> None:
    await record_places(source.database, {"": BUCKET})
    await back_up(source, BackupFolder(tmp_path / "backup"))
    here = OpenInstallation(fresh.data_dir, fresh.database, fresh.storage, {"": "here"})
    await restore(here, BackupFolder(tmp_path / "backup"))
    assert await read_places(here.database) == {"": "here"}


async def test_the_ingress_says_that_its_files_were_elsewhere_and_goes_on(
    tmp_path: Path, database: Database, conninfo: str, caplog: CapturedLogs
) -> None:
    config = Config(data_dir=tmp_path)
    await record_places(database, {"": BUCKET})
    with caplog.at_level(logging.WARNING):
        await serve(database, config, secrets(conninfo))
        await serve(database, config, secrets(conninfo))
    (warning,) = [message for message in caplog.messages if BUCKET in message]
    assert str(tmp_path) in warning
    assert await read_places(database) == file_places(config, secrets(conninfo))


def test_a_location_of_tenants_that_the_settings_do_not_name_is_another_storage(
    tmp_path: Path,
) -> None:
    file = tmp_path / "locations.yaml"
    file.write_text("acme: {bucket: bucket-of-acme, prefix: darkroom/}\n")
    with_locations = file_places(Config(data_dir=tmp_path, storage_locations=file), Secrets())
    assert with_locations["acme"] == "the bucket bucket-of-acme at AWS under darkroom/"
    without = file_places(Config(data_dir=tmp_path), Secrets())
    assert "location acme" in difference(with_locations, without)
    assert difference(without, with_locations) == ""  # it was added since the start


def test_a_data_directory_with_its_database_may_be_moved(tmp_path: Path) -> None:
    first, other = Config(data_dir=tmp_path / "one"), Config(data_dir=tmp_path / "other")
    assert difference(file_places(first, Secrets()), file_places(other, Secrets())) == ""
