from __future__ import annotations

import logging
import stat
from datetime import timedelta
from pathlib import Path

import pytest

from serve_app.domain.errors import Misconfigured, Unauthenticated
from serve_app.tenants.credentials import Credential
from serve_app.tenants.first_key import ensure_first_key
from serve_app.tenants.scopes import ADMIN, API
from tests.captured_logs import CapturedLogs
from tests.fakes.clock import FakeClock
from tests.fakes.keyring import FakeKeyRing

GIVEN = "chosen:" + "s" * 64
CLOCK = FakeClock()


async def start(keys: FakeKeyRing, key: str | None, path: Path) -> Credential | None:
    return await ensure_first_key(keys, key, path, CLOCK.now())


def content(path: Path) -> str:
    return path.read_text().strip()


def replace_content(path: Path, text: str) -> None:
    path.write_text(text)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def beside(path: Path) -> list[str]:
    return [sibling.name for sibling in path.parent.iterdir()]


@pytest.fixture
def keys() -> FakeKeyRing:
    return FakeKeyRing(CLOCK)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data" / "api_key"


async def test_a_new_installation_gets_a_key_that_only_its_owner_can_read(
    keys: FakeKeyRing, path: Path
) -> None:
    key = await start(keys, None, path)
    assert key is not None
    assert content(path) == str(key)
    assert mode(path) == 0o600
    who = await keys.authenticate(f"Key {content(path)}")
    assert (who.tenant, who.scopes) == ("default", {API, ADMIN})
    assert beside(path) == ["api_key"]


async def test_the_second_start_makes_no_second_key(keys: FakeKeyRing, path: Path) -> None:
    await start(keys, None, path)
    before = content(path)
    assert await start(keys, None, path) is None
    assert content(path) == before
    assert len(await keys.list("default")) == 1


async def test_the_operators_own_key_is_taken(keys: FakeKeyRing, path: Path) -> None:
    assert str(await start(keys, GIVEN, path)) == GIVEN
    assert content(path) == GIVEN
    assert await start(keys, GIVEN, path) is None
    await keys.authenticate(f"Key {GIVEN}")


async def test_a_key_given_later_is_added_to_those_there(keys: FakeKeyRing, path: Path) -> None:
    first = await start(keys, None, path)
    await start(keys, GIVEN, path)
    await keys.authenticate(f"Key {first}")
    await keys.authenticate(f"Key {GIVEN}")


async def test_an_id_that_is_taken_is_not_given_another_secret(
    keys: FakeKeyRing, path: Path
) -> None:
    await start(keys, GIVEN, path)
    with pytest.raises(Misconfigured, match="another id"):
        await start(keys, "chosen:" + "t" * 64, path)


async def test_a_revoked_key_does_not_come_back(keys: FakeKeyRing, path: Path) -> None:
    await start(keys, GIVEN, path)
    await keys.create("default", scopes=frozenset({API}))
    expired = CLOCK.now() - timedelta(seconds=1)
    await keys.create("default", scopes=frozenset({ADMIN}), expires_at=expired)
    await keys.revoke("chosen")
    with pytest.raises(Misconfigured, match="revoked"):
        await start(keys, GIVEN, path)


@pytest.mark.parametrize("how", ["revoked", "rotated"])
async def test_a_start_goes_on_after_the_operators_key_was_replaced(
    keys: FakeKeyRing, path: Path, how: str, caplog: CapturedLogs
) -> None:
    await start(keys, GIVEN, path)
    if how == "rotated":
        await keys.rotate("chosen", overlap_s=0)
    else:
        await keys.create("default", scopes=frozenset({API, ADMIN}))
        await keys.revoke("chosen")
    replace_content(path, "the new key")
    with caplog.at_level(logging.WARNING):
        assert await start(keys, GIVEN, path) is None
    assert "Set DARKROOM_API_KEY to a valid key" in caplog.text
    assert content(path) == "the new key"
    with pytest.raises(Unauthenticated):
        await keys.authenticate(f"Key {GIVEN}")


async def test_a_start_goes_on_while_the_first_tenant_is_disabled(
    keys: FakeKeyRing, path: Path
) -> None:
    await start(keys, GIVEN, path)
    keys.disabled.add("default")
    assert await start(keys, GIVEN, path) is None
    assert len(await keys.list("default")) == 1


async def test_a_place_that_cannot_be_written_is_reported(
    keys: FakeKeyRing, tmp_path: Path
) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(Misconfigured, match="cannot be written"):
        await start(keys, None, tmp_path / "file" / "api_key")
    assert not await keys.any()
