"""Commands reach an installation by address, by saved context, or on their own machine."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from serve_app.cli.connection import installation
from serve_app.cli.connection.contexts import contexts_file
from serve_app.cli.connection.installation import Installation
from serve_app.cli.connection.remote import Remote, origin
from serve_app.cli.connection.server import chosen_server, config_of, local_installation
from serve_app.cli.main import main
from serve_app.domain.errors import Misconfigured
from tests.wire.served import Address, serve


@pytest.fixture(scope="module")
def address() -> Iterator[Address]:
    with serve() as address:
        yield address


@pytest.fixture(autouse=True)
def _own_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("DARKROOM_URL", "DARKROOM_API_KEY", "DARKROOM_CONTEXT", "DARKROOM_DATA_DIR"):
        monkeypatch.delenv(name, raising=False)


def darkroom(*words: str, fails: bool = False, stdin: str = "") -> Result:
    result = CliRunner().invoke(main, words, input=stdin)
    assert (result.exit_code != 0) == fails, result.output
    return result


def make_data_dir(data_dir: Path, url: str, key: str) -> str:
    data_dir.mkdir()
    (data_dir / "address.json").write_text(json.dumps({"url": url}))
    (data_dir / "api_key").write_text(key)
    return str(data_dir)


def tenant_of(*words: str) -> str:
    """Tenant whose keys a command lists."""
    return str(json.loads(darkroom("keys", "list", "--json", *words).stdout)["keys"][0]["key_id"])


def test_an_address_and_a_key_reach_a_server_without_any_file(
    address: Address, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_options = tenant_of("--url", address.url, "--key", address.key)
    monkeypatch.setenv("DARKROOM_URL", address.url + "/")
    monkeypatch.setenv("DARKROOM_API_KEY", address.key)
    assert tenant_of() == by_options
    assert f"{address.url}: ready" in darkroom("status").output


def test_after_a_login_all_commands_use_the_server_until_the_logout(address: Address) -> None:
    output = darkroom("login", address.url, "--name", "lab", stdin=address.key + "\n").output
    assert f"All commands use {address.url} now." in output
    assert f"{address.url}: ready" in darkroom("status").output
    assert "* lab" in darkroom("contexts").output
    darkroom("logout")
    assert "Commands use the Darkroom of this machine." in darkroom("contexts").output
    assert "No Darkroom is running on" in darkroom("status", fails=True).output


def test_a_login_with_a_wrong_key_saves_nothing(address: Address) -> None:
    output = darkroom("login", address.url, "--key", "who:wrong", fails=True).output
    assert "key" in output.lower()
    assert not contexts_file().exists()


def test_a_login_to_a_server_that_is_no_darkroom_says_so() -> None:
    output = darkroom("login", "http://127.0.0.1:9", "--key", "a:b", fails=True).output
    assert "Nothing answers at http://127.0.0.1:9" in output


def test_only_the_owner_can_read_the_saved_keys(address: Address) -> None:
    os.umask(0o000)
    try:
        darkroom("login", address.url, "--key", address.key)
    finally:
        os.umask(0o022)
    assert stat.S_IMODE(contexts_file().stat().st_mode) == 0o600
    assert stat.S_IMODE(contexts_file().parent.stat().st_mode) == 0o700
    assert address.key not in darkroom("contexts", "--json").output


def test_a_context_is_chosen_for_one_command_or_for_all(
    address: Address, monkeypatch: pytest.MonkeyPatch
) -> None:
    darkroom("login", address.url, "--name", "one", "--key", address.key)
    darkroom("login", address.url, "--name", "two", "--key", address.other_key)
    ones, twos = (tenant_of("--context", name) for name in ("one", "two"))
    assert ones != twos == tenant_of()
    darkroom("contexts", "use", "one")
    assert tenant_of() == ones
    monkeypatch.setenv("DARKROOM_CONTEXT", "two")
    assert tenant_of() == twos
    output = darkroom("status", "--context", "three", fails=True).output
    assert "There is no context `three`. Saved contexts: one, two." in output


def test_the_address_of_a_saved_context_needs_no_key(address: Address) -> None:
    darkroom("login", address.url, "--key", address.key)
    darkroom("contexts", "use", "--local")
    assert f"{address.url}: ready" in darkroom("status", "--url", address.url).output
    output = darkroom("status", "--url", "https://elsewhere.example", fails=True).output
    assert "There is no API key for https://elsewhere.example." in output


def test_a_data_directory_is_used_before_the_current_context(
    address: Address, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    darkroom("login", address.url, "--key", address.other_key)
    folder = make_data_dir(tmp_path / "data", address.url, address.key)
    others = tenant_of()
    assert tenant_of("--data-dir", folder) != others
    monkeypatch.setenv("DARKROOM_DATA_DIR", folder)
    assert tenant_of() != others


def test_an_explicit_key_is_used_with_the_files_of_the_data_directory(
    address: Address, tmp_path: Path
) -> None:
    folder = make_data_dir(tmp_path / "data", address.url, address.key)
    assert tenant_of("--data-dir", folder, "--key", address.other_key) != tenant_of(
        "--data-dir", folder
    )
    server = chosen_server(tmp_path / "data", key=address.other_key)
    assert config_of(server).server.data_dir == tmp_path / "data"
    assert local_installation(tmp_path / "data").key() == address.key


def test_two_names_for_a_server_contradict_each_other() -> None:
    output = darkroom("status", "--url", "http://a", "--context", "b", fails=True).output
    assert "--url, --context and --data-dir each name a server." in output


def test_a_server_that_ray_started_is_found_by_its_data_directory(
    address: Address, tmp_path: Path
) -> None:
    folder = make_data_dir(tmp_path / "data", address.url, address.key)
    assert f"{address.url}: ready" in darkroom("status", "--data-dir", folder).output


@pytest.mark.parametrize("words", [("backup", "copy"), ("fsck",), ("doctor", "storage")])
def test_what_opens_files_refuses_to_work_on_another_machine(
    words: tuple[str, ...], address: Address
) -> None:
    darkroom("login", address.url, "--key", address.key)
    output = darkroom(*words, fails=True).output
    assert f"not through {address.url}" in output


def test_the_doctor_of_another_machine_checks_the_server_and_its_machine(
    address: Address,
) -> None:
    at = ("--url", address.url, "--key", address.key)
    output = darkroom("doctor", *at).output
    assert f"ok       server: {address.url} is ready" in output
    assert "ok       memory: " in output
    assert "hub" not in output, "only the machine itself checks its weights"


def test_the_doctor_says_so_once_where_a_server_does_not_answer() -> None:
    output = darkroom("doctor", "--url", "http://127.0.0.1:9", "--key", "a:b", fails=True).output
    assert "PROBLEM  server:" in output
    assert "PROBLEM  pools:" in output
    assert "2 problems found." in output


def test_variables_for_a_server_elsewhere_are_those_that_work_from_here(address: Address) -> None:
    at = ("--url", address.url, "--key", address.key)
    assert f"FAL_KEY='{address.key}'" in darkroom("env", "--mode", "plain", *at).output
    output = darkroom("env", *at, fails=True).output
    assert "knows where its proxy port is" in output
    secure = ("--url", "https://gpu.example:8443", "--key", "a:b")
    output = darkroom("env", "--mode", "hosts", *secure).output
    assert "FAL_QUEUE_RUN_HOST='gpu.example:8443/queue'" in output
    assert "SSL_CERT_FILE" not in output  # its certificate is one that everybody trusts


def test_damaged_contexts_are_named() -> None:
    contexts_file().parent.mkdir(parents=True)
    contexts_file().write_text('{"contexts": []}')
    output = darkroom("status", fails=True).output
    assert f"The saved contexts in {contexts_file()} cannot be read" in output


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://gpu:8000/", "http://gpu:8000"),
        ("gpu.example", "https://gpu.example"),
        ("https://[::1]:8443", "https://[::1]:8443"),
    ],
)
def test_an_address_is_an_origin(url: str, expected: str) -> None:
    assert origin(url) == expected


@pytest.mark.parametrize(
    "url",
    [
        *("ftp://gpu", "http://", "https://gpu/queue", "https://a:b@gpu"),
        *("http://[::1", "http://localhost:abc", "http://localhost:99999"),
    ],
)
def test_an_address_with_more_or_less_is_refused(url: str) -> None:
    with pytest.raises(Misconfigured, match="http"):
        origin(url)


@pytest.mark.parametrize(
    ("url", "readable"),
    [
        ("http://gpu:8000", True),
        ("http://10.0.0.1:8000", True),
        ("https://gpu", False),
        ("http://127.0.0.1:8000", False),
        ("http://[::1]:8000", False),
        ("http://localhost:8000", False),
    ],
)
def test_a_key_in_clear_text_on_a_network_is_noticed(url: str, readable: bool) -> None:
    assert Remote(url, "a:b").readable_on_the_way == readable


def test_options_of_the_server_before_a_subcommand_hold_for_it(address: Address) -> None:
    at = ("--url", address.url, "--key", address.key, "--json")
    assert json.loads(darkroom("models", *at, "check").output)["mistakes"] == []
    assert json.loads(darkroom("usage", *at, "report").output)["fal_cost"] == 0
    assert "entries" in json.loads(darkroom("audit", *at, "verify").output)
    here = ("--url", address.url)
    assert "0 mistakes" in darkroom("models", *here, "check", "--key", address.key).output


def test_two_values_of_an_option_before_and_after_a_subcommand_contradict_each_other(
    address: Address,
) -> None:
    at = ("--url", address.url, "--key", address.key)
    output = darkroom("models", *at, "check", "--url", "http://127.0.0.1:9", fails=True).output
    assert "--url has one value before the subcommand and another one after it." in output


@pytest.mark.parametrize(
    ("words", "option"),
    [
        (("models", "--url", "http://a", "pull"), "--url"),
        (("usage", "--by", "tenant", "report"), "--by"),
        (("audit", "--limit", "3", "verify"), "--limit"),
        (("contexts", "--json", "use", "--local"), "--json"),
    ],
)
def test_an_option_that_a_subcommand_does_not_have_is_refused(
    words: tuple[str, ...], option: str
) -> None:
    output = darkroom(*words, fails=True).output
    assert f"does not have the option {option}." in output


def test_what_needs_no_darkroom_does_not_look_for_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DARKROOM_URL", "https://elsewhere.example")  # without a key
    monkeypatch.setenv("DARKROOM_DEMO", "1")
    monkeypatch.setenv("DARKROOM_WEIGHTS_DIR", str(tmp_path / "store"))
    catalogue = tmp_path / "models.yaml"
    catalogue.write_text("built_in: false\nendpoints: {}\n")
    monkeypatch.setenv("DARKROOM_MODELS", str(catalogue))
    assert "0 mistakes" in darkroom("models", "check", str(catalogue)).output
    assert "Nothing to download" in darkroom("models", "pull").output


@pytest.mark.parametrize("url", ["http://[::1", "http://localhost:abc", "http://a b"])
def test_an_address_that_is_none_is_reported_in_a_sentence(url: str) -> None:
    ran = darkroom("status", "--url", url, "--key", "a:b", fails=True)
    assert isinstance(ran.exception, SystemExit)
    assert f"{url} is not the address of a Darkroom." in ran.output


@pytest.mark.parametrize("key", ["id:schlüssel", "id:se\udcffcret", "id:a\nb"])
def test_a_key_that_is_none_is_reported_without_it(key: str) -> None:
    ran = darkroom("status", "--url", "http://127.0.0.1:9", "--key", key, fails=True)
    assert isinstance(ran.exception, SystemExit)
    assert "The API key has characters that no API key has." in ran.output
    assert "id:" not in ran.output


def test_an_argument_that_is_not_utf_8_is_reported_in_a_sentence(address: Address) -> None:
    at = ("--url", address.url, "--key", address.key)
    ran = darkroom("keys", "create", "a\udcff", *at, fails=True)
    assert isinstance(ran.exception, SystemExit)
    assert "not text in UTF-8" in ran.output


def test_the_files_of_ray_are_in_tmpdir_where_nothing_can_be_written_to_tmp(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    here = Installation(tmp_path / "data")
    assert here.run_dir.parent == installation.SHORT_TEMP_DIR
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    places = [place for place in (closed, Path("/proc/sys")) if not os.access(place, os.W_OK)]
    if not places:
        pytest.skip("root can write everywhere on this machine")
    monkeypatch.setattr(installation, "SHORT_TEMP_DIR", places[0])
    assert here.run_dir.parent == tmp_path


def test_a_data_directory_may_have_any_letters_in_the_locale_c(tmp_path: Path) -> None:
    command = (sys.executable, "-m", "serve_app.cli", "status", "--data-dir", tmp_path / "dä")
    ran = subprocess.run(
        ["env", "LC_ALL=C", "PYTHONUTF8=0", *map(str, command)], capture_output=True, check=False
    )
    assert ran.returncode == 1
    assert f"No Darkroom is running on {tmp_path}/dä." in ran.stderr.decode()
