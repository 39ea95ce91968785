"""``darkroom login --sign-in``, against a provider that speaks RFC 8628."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from click.testing import CliRunner, Result

from serve_app.cli.commands import login
from serve_app.cli.connection.client import ApiFailure
from serve_app.cli.connection.contexts import read_contexts
from serve_app.cli.connection.remote import Remote
from serve_app.cli.main import main
from tests.fakes.openid import CLIENT_ID
from tests.fakes.openid_device import DeviceProvider, device_provider
from tests.wire.served import Address, serve

GROUPS = {"artists": {"tenant": "studio"}}


@pytest.fixture(scope="module")
def openid() -> Iterator[DeviceProvider]:
    with device_provider() as openid:
        yield openid


@pytest.fixture(scope="module")
def address(openid: DeviceProvider) -> Iterator[Address]:
    settings = {"oidc_issuer": openid.issuer, "oidc_client_id": CLIENT_ID, "oidc_groups": GROUPS}
    with serve(replica=False, **settings) as address:
        yield address


@pytest.fixture(autouse=True)
def _own_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


def darkroom(*words: str, fails: bool = False) -> Result:
    result = CliRunner().invoke(main, words)
    assert (result.exit_code != 0) == fails, result.output
    return result


def test_the_command_waits_as_long_as_the_provider_wants_it_to(
    address: Address, openid: DeviceProvider, capsys: pytest.CaptureFixture[str]
) -> None:
    openid.slow = 1
    pauses: list[float] = []

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 3:
            openid.agree("ada")

    key = login.signed_in(Remote(address.url, ""), sleep)
    openid.slow = 0
    assert pauses == [7, 12, 12]
    output = capsys.readouterr().out
    assert f"Open {openid.issuer}/enter in a browser, and enter the code " in output
    assert "You are ada@example.org" in output
    headers = {"authorization": f"Key {key}"}
    assert httpx.get(f"{address.url}/v1/keys/self", headers=headers).json()["tenant"] == "studio"


def test_a_sign_in_is_saved_and_its_key_revoked_by_the_logout(
    address: Address, openid: DeviceProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(login.time, "sleep", lambda _: openid.agree("ada"))
    output = darkroom("login", address.url, "--name", "lab", "--sign-in").output
    assert f"All commands use {address.url} now." in output
    saved = read_contexts().named["lab"]
    assert saved.signed_in
    headers = {"authorization": f"Key {saved.secret}"}
    assert httpx.get(f"{address.url}/v1/keys/self", headers=headers).status_code == 200
    assert "Its key is revoked." in darkroom("logout").output
    assert httpx.get(f"{address.url}/v1/keys/self", headers=headers).status_code == 401


def test_a_logout_without_the_server_deletes_the_context_and_says_what_is_left(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "config" / "darkroom"
    folder.mkdir(parents=True)
    away = {"address": "http://127.0.0.1:1", "secret": "a:b", "signed_in": True}
    content = {"current": "lab", "contexts": {"lab": away}}
    (folder / "contexts.json").write_text(json.dumps(content))
    output = darkroom("logout").output
    assert "Its key could not be revoked" in output
    assert not read_contexts().named


def test_a_person_who_refuses_gets_no_context(address: Address, openid: DeviceProvider) -> None:
    with pytest.raises(ApiFailure, match="refused at the provider"):
        login.signed_in(Remote(address.url, ""), lambda _: openid.end("access_denied"))
    assert not read_contexts().named


def test_a_key_and_a_sign_in_are_one_too_many(address: Address) -> None:
    result = darkroom("login", address.url, "--key", "a:b", "--sign-in", fails=True)
    assert "not both" in result.output
