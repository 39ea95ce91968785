"""``darkroom weights``, with fakes behind real HTTP."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.wire.served import Address, served

BASE = ("--base", "test/probe")


@pytest.fixture(scope="module")
def address() -> Iterator[Address]:
    with served() as address:
        yield address


def test_weights_are_added_listed_shown_and_removed(darkroom: Any) -> None:
    added = darkroom("weights", "add", "style", "owner/name@main", *BASE, "--no-wait")
    assert added.output == "weights:style  waiting  test/probe\n"
    listed = darkroom("weights", "list").output
    assert "weights:style  waiting" in listed
    assert "0 of" in listed
    shown = json.loads(darkroom("weights", "show", "style", "--json").output)
    assert shown["source"] == "owner/name@main"
    removed = darkroom("weights", "remove", "style", "--force")
    assert removed.output == "style is removed.\n"
    gone = darkroom("weights", "show", "style", fails=True)
    assert "no weights style" in gone.output


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


def test_a_token_is_read_from_standard_input_and_not_shown(darkroom: Any) -> None:
    words = ("weights", "hub-token", "--tenant", "default")
    told = darkroom(*words, typed="hf_secret\n").output
    assert told == "The hub token of default is set.\n"
    assert darkroom(*words, "--remove").output == "The hub token of default is removed.\n"
