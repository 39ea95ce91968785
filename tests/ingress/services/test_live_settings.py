"""Live settings: read from a file, applied after each change of it, kept for a start without it."""

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import psycopg
import pytest
import yaml

from serve_app.domain.errors import DatabaseUnavailable, Misconfigured
from serve_app.ingress.services import live_settings
from serve_app.ingress.services.live_settings import LiveSettings, bounds_of
from serve_app.postgres.database import Database
from serve_app.postgres.live_settings import PostgresLiveSettings
from serve_app.settings import Config
from tests.deployments.waiting import until
from tests.queue.database import conninfo, server

__all__ = ["conninfo", "server"]


class NothingKept:
    async def read(self) -> Mapping[str, Any] | None:
        return None

    async def keep(self, settings: Mapping[str, Any]) -> None:
        del settings


def write(file: Path, **arguments: Any) -> None:
    application = {"import_path": "serve_app.app:build", "args": arguments}
    replace(file, yaml.safe_dump({"applications": [application]}))


def replace(file: Path, text: str) -> None:
    new = file.with_suffix(".new")
    new.write_text(text)
    new.replace(file)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "darkroom.yaml"


@pytest.fixture
async def settings_store(conninfo: str) -> AsyncIterator[PostgresLiveSettings]:
    database = Database(conninfo)
    await database.start()
    yield PostgresLiveSettings(database)
    await database.aclose()


class ErrorQueue(logging.Handler):
    """Queue of the errors that are logged. They are logged in the event loop."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.messages: asyncio.Queue[str] = asyncio.Queue()

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.put_nowait(record.getMessage())


@pytest.fixture
async def errors() -> AsyncIterator[asyncio.Queue[str]]:
    handler = ErrorQueue()
    live_settings.log.addHandler(handler)
    yield handler.messages
    live_settings.log.removeHandler(handler)


async def apply_change(settings: LiveSettings, file: Path, **arguments: Any) -> Config:
    """What is applied after the file was changed."""
    applied: asyncio.Queue[Config] = asyncio.Queue()
    settings.start(NothingKept(), applied.put)
    write(file, **arguments)
    try:
        return await applied.get()
    finally:
        await settings.aclose()


async def test_a_changed_limit_is_applied(file: Path) -> None:
    write(file, max_waiting=5)
    settings = LiveSettings(Config(gpus=0), file)
    assert (await settings.first(NothingKept())).queue.max_waiting == 5
    assert (await apply_change(settings, file, max_waiting=6)).queue.max_waiting == 6


async def test_a_setting_that_left_the_file_has_its_value_without_it(file: Path) -> None:
    write(file, max_waiting=5, retention_days=3)
    settings = LiveSettings(Config(gpus=0, max_waiting=9), file)
    await settings.first(NothingKept())
    config = await apply_change(settings, file, retention_days=3)
    assert (config.queue.max_waiting, config.queue.retention_days) == (9, 3)


async def test_other_settings_of_the_file_are_not_changed(file: Path) -> None:
    write(file, lease_s=7, max_waiting=5)
    config = await LiveSettings(Config(gpus=0, lease_s=60), file).first(NothingKept())
    assert (config.queue.lease_s, config.queue.max_waiting) == (60, 5)


async def test_a_changed_catalogue_is_applied(file: Path, tmp_path: Path) -> None:
    models = tmp_path / "models.yaml"
    models.write_text("endpoints: {}")
    write(file, models=str(models))
    settings = LiveSettings(Config(gpus=0), file)
    await settings.first(NothingKept())
    applied: asyncio.Queue[Config] = asyncio.Queue()
    settings.start(NothingKept(), applied.put)
    models.write_text("endpoints: {other: {}}")
    assert (await applied.get()).models.models == models
    await settings.aclose()


async def test_what_is_refused_stays_out_and_the_next_change_is_applied(
    file: Path, errors: asyncio.Queue[str]
) -> None:
    write(file, max_waiting=5)
    settings = LiveSettings(Config(gpus=0), file)
    await settings.first(NothingKept())
    applied: asyncio.Queue[Config] = asyncio.Queue()
    settings.start(NothingKept(), applied.put)
    write(file, max_waiting=-5)
    assert "max_waiting: Input should be" in await errors.get()
    assert applied.empty()
    write(file, max_waiting=7)
    assert (await applied.get()).queue.max_waiting == 7
    await settings.aclose()


async def test_a_wrong_file_is_a_problem_until_it_is_corrected_and_one_line_in_the_log(
    file: Path, errors: asyncio.Queue[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_settings, "LOOK_EVERY_S", 0.01)
    write(file, max_waiting=5)
    settings = LiveSettings(Config(gpus=0), file)
    await settings.first(NothingKept())
    assert await settings.check() is None
    assert settings.examine() == str(file)
    applied: asyncio.Queue[Config] = asyncio.Queue()
    settings.start(NothingKept(), applied.put)
    write(file, pools={"studio": {"families": ["sdxl"], "keep_alive_s": "twenty"}})
    logged = await errors.get()
    for _ in range(2):
        await asyncio.sleep(0.05)  # several looks
        with pytest.raises(Misconfigured, match=r"keep_alive_s.*before this change stay in force"):
            await settings.check()
        with pytest.raises(Misconfigured, match=r"keep_alive_s"):
            settings.examine()
    assert errors.empty()
    assert "keep_alive_s" in logged
    assert settings.has_problem
    write(file, max_waiting=7)
    await applied.get()
    await until(lambda: not settings.has_problem)
    await settings.aclose()


async def test_settings_that_the_database_kept_out_are_put_in_force_when_it_is_back(
    file: Path, errors: asyncio.Queue[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_settings, "LOOK_EVERY_S", 0.01)
    write(file, max_waiting=5)
    settings = LiveSettings(Config(gpus=0), file)
    await settings.first(NothingKept())
    away, applied = True, asyncio.Queue[Config]()

    async def apply(config: Config) -> None:
        if away:
            raise DatabaseUnavailable("PostgreSQL is unavailable.")
        await applied.put(config)

    settings.start(NothingKept(), apply)
    write(file, max_waiting=6)
    assert "are tried again" in await errors.get()
    await asyncio.sleep(0.05)
    assert errors.empty()
    away = False
    assert (await applied.get()).queue.max_waiting == 6
    await until(lambda: not settings.has_problem)
    await settings.aclose()


async def test_a_start_with_a_broken_file_has_what_was_valid_last(
    file: Path, settings_store: PostgresLiveSettings
) -> None:
    tenants = {"a": {"max_running": 3}}
    write(file, tenant_limits=tenants, retention_days=3)
    await LiveSettings(Config(gpus=0), file).first(settings_store)
    replace(file, "applications: [")
    settings = LiveSettings(Config(gpus=0), file)
    config = await settings.first(settings_store)
    assert settings.has_problem
    assert config.queue.retention_days == 3
    assert config.queue.tenant_limits["a"].max_running == 3


async def test_a_first_start_with_a_broken_file_fails(file: Path) -> None:
    replace(file, "applications: [")
    with pytest.raises(Misconfigured, match="is not YAML"):
        await LiveSettings(Config(gpus=0), file).first(NothingKept())


async def test_an_unchanged_file_is_not_written_again(
    settings_store: PostgresLiveSettings, conninfo: str
) -> None:
    def version() -> str:
        with psycopg.connect(conninfo) as connection:
            row = connection.execute("SELECT xmin::text FROM live_settings").fetchone()
        assert row is not None
        return str(row[0])

    await settings_store.keep({"max_waiting": 5})
    before = version()
    await settings_store.keep({"max_waiting": 5})
    assert version() == before
    await settings_store.keep({"max_waiting": 6})
    assert version() != before
    assert await settings_store.read() == {"max_waiting": 6}


def test_bounds_of_a_pool_have_the_slots_of_its_class_of_gpu() -> None:
    pool = {"families": ["sdxl"], "num_gpus": 1, "max_replicas": 2}
    pools = {"large": pool | {"accelerator": "H100"}, "own": pool | {"slots": 3}}
    bounds = bounds_of(Config(pools=pools))
    assert (bounds["large"].slots, bounds["own"].slots) == (16, 3)
    assert (bounds["own"].least, bounds["own"].most) == (1, 2)
