"""``darkroom weights``, with fakes behind real HTTP."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from serve_app.cli.connection.client import Client
from serve_app.cli.main import main
from tests.cli.flaky_proxy import DROP, flaky_proxy
from tests.wire.served import Address, serve

BASE = ("--base", "fal-ai/flux/schnell")


@pytest.fixture(scope="module")
def address() -> Iterator[Address]:
    with serve() as address:
        yield address


def test_weights_are_added_listed_shown_and_deleted(darkroom: Any) -> None:
    added = darkroom("weights", "add", "style", "owner/name@main", *BASE, "--no-wait")
    assert re.search(
        r"Weights +weights:style\n.*For +fal-ai/flux/schnell\n", added.output, re.DOTALL
    )
    assert re.search(r"State +waiting\n", added.output)
    listed = darkroom("weights", "list").output
    assert "weights:style  waiting" in listed
    assert re.search(r"^0 B of .* GB are used\.$", listed, re.MULTILINE)
    shown = json.loads(darkroom("weights", "show", "style", "--json").output)
    assert shown["source"] == "owner/name@main"
    deleted = darkroom("weights", "delete", "style", "--force")
    assert deleted.output == "The set of weights style is deleted.\n"
    gone = darkroom("weights", "show", "style", fails=True)
    assert "no set of weights style" in gone.output


def test_a_file_of_this_machine_is_uploaded(darkroom: Any, tmp_path: Path) -> None:
    file = tmp_path / "mine.safetensors"
    file.write_bytes(b"content")
    words = ("weights", "add", "mine", str(file), *BASE, "--no-wait", "--json")
    source = json.loads(darkroom(*words).output)["source"]
    assert source.startswith("/files/u/")
    assert source.endswith("/mine.safetensors")


def test_of_a_folder_all_safetensors_are_uploaded(darkroom: Any, tmp_path: Path) -> None:
    for name in ("unet/a.safetensors", "vae/b.safetensors", "vae/config.json"):
        (tmp_path / "folder" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "folder" / name).write_bytes(b"content")
    folder = str(tmp_path / "folder")
    words = ("weights", "add", "whole", folder, *BASE, "--no-wait", "--json")
    assert json.loads(darkroom(*words).output)["source"] == "2 uploaded files"
    (tmp_path / "empty").mkdir()
    empty = darkroom("weights", "add", "none", str(tmp_path / "empty"), *BASE, fails=True)
    assert "no safetensors" in empty.output


def test_weights_that_are_not_ready_cannot_be_published(darkroom: Any) -> None:
    darkroom("weights", "add", "early", "owner/name", *BASE, "--no-wait")
    assert "ready" in darkroom("weights", "publish", "early", fails=True).output


class Calls:
    """Calls of ``darkroom weights add`` with a file, through a proxy that answers ``status`` to the
    registration."""

    def __init__(self, behind: Address, file: Path, status: int | None = None) -> None:
        self._behind, self._file, self._status = behind, file, status
        self.made: list[tuple[str, str]] = []

    def __call__(self, *words: str) -> Result:
        with flaky_proxy(self._behind, self._trouble) as proxy:
            at = ("--url", proxy.url, "--key", proxy.key)
            return CliRunner().invoke(main, ["weights", "add", *words, str(self._file), *at])

    def _trouble(self, method: str, path: str) -> int | None:
        self.made.append((method, path))
        return self._status if (method, path) == ("POST", "/v1/weights") else None

    def count(self, method: str, beginning: str) -> int:
        return sum((verb, path.startswith(beginning)) == (method, True) for verb, path in self.made)

    @property
    def upload_count(self) -> int:
        return self.count("POST", "/rest/storage/upload/")

    @property
    def deletion_count(self) -> int:
        return self.count("DELETE", "/v1/uploads/u/")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "lora.safetensors"
    path.write_bytes(b"content")
    return path


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("a", "--base", "fal-ai/flux/nothing"), "fal-ai/flux/nothing"),
        (("a", "--base", "test/probe"), "test/probe has no weights of its own"),
        (("taken", *BASE), "You have weights `taken` already"),
        (("a", *BASE, "--endpoint", "portraits"), "have the endpoint default/portraits"),
    ],
)
def test_what_the_server_would_refuse_is_not_uploaded(
    darkroom: Any, address: Address, file: Path, words: tuple[str, ...], sentence: str
) -> None:
    source = ("owner/name", *BASE, "--endpoint", "portraits", "--no-wait")
    darkroom("weights", "add", "taken", *source)
    try:
        add = Calls(address, file)
        refused = add(*words)
        assert refused.exit_code == 1
        assert sentence in refused.output
        assert add.upload_count == 0
    finally:
        darkroom("weights", "delete", "taken", "--force")


def test_a_file_beyond_the_quota_is_not_uploaded(file: Path) -> None:
    with serve(max_weights_bytes_per_tenant=3) as small:
        add = Calls(small, file)
        refused = add("a", *BASE)
        assert refused.exit_code == 1
        assert "The files have 7 B, but your weights may take only 3 B more" in refused.output
        assert add.upload_count == 0


def test_uploads_of_a_refused_registration_are_deleted(address: Address, file: Path) -> None:
    add = Calls(address, file, 507)
    assert add("a", *BASE).exit_code == 1
    assert (add.upload_count, add.deletion_count) == (1, 1)


def test_uploads_of_a_stopped_registration_are_deleted(
    address: Address, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    post = Client.post

    def stopped(client: Client, path: str, *more: Any) -> Any:
        if path == "/v1/weights":
            raise KeyboardInterrupt
        return post(client, path, *more)

    monkeypatch.setattr(Client, "post", stopped)
    add = Calls(address, file)
    assert add("a", *BASE).exit_code == 130
    assert (add.upload_count, add.deletion_count) == (1, 1)


def test_uploads_stay_where_the_weights_may_have_been_registered(
    address: Address, file: Path
) -> None:
    add = Calls(address, file, DROP)
    lost = add("a", *BASE)
    assert lost.exit_code == 1
    assert "`darkroom weights show a` shows whether the weights were registered" in lost.output
    assert (add.upload_count, add.deletion_count) == (1, 0)


def test_a_stop_while_the_check_runs_leaves_the_uploads_to_it_and_says_so(
    darkroom: Any, address: Address, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(Client, "poll", stopped)
    add = Calls(address, file)
    ended = add("later", *BASE)
    assert ended.exit_code == 130
    assert "The check of later goes on. `darkroom weights show later` shows it." in ended.output
    assert (add.upload_count, add.deletion_count) == (1, 0)
    darkroom("weights", "delete", "later", "--force")
