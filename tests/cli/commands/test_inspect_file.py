"""``darkroom inspect``."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from serve_app.cli.main import main
from serve_app.domain.media.file_metadata import FileMetadata

WRITTEN = FileMetadata(
    "fal-ai/flux/dev", "", 7, "it's a\nred circle", {"image_size": {"width": 64}, "tone": "warm"},
    "r-1", demo=True,
)  # fmt: skip


def inspect(file: Path, *more: str) -> Result:
    return CliRunner().invoke(main, ["inspect", str(file), *more])


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "a.png"
    path.write_bytes(b"\x89PNG" + bytes(5000) + WRITTEN.text().encode() + bytes(5000))
    return path


def test_a_file_says_what_made_it_and_how_to_make_it_again(file: Path) -> None:
    ran = inspect(file)
    assert ran.exit_code == 0
    facts, _, again = ran.stdout.partition("again     ")
    assert facts.splitlines() == [
        "prompt    it's a red circle",
        "endpoint  fal-ai/flux/dev (demo model)",
        "seed      7",
        "request   r-1",
        "settings",
        '  image_size  {"width": 64}',
        "  tone        warm",
    ]
    words = ["darkroom", "generate", "it's a red circle", "-m", WRITTEN.endpoint, "--seed", "7"]
    fields = ["--field", 'image_size={"width": 64}', "--field", 'tone="warm"']
    assert shlex.split(again) == [*words, *fields]


def test_a_file_of_a_stranger_cannot_steer_the_terminal(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    evil = "\x1b[2J\x9b31mred"
    written = FileMetadata(evil, evil, 7, evil, {evil: evil, "list": [evil]}, evil)
    path.write_text(written.text())
    shown = inspect(path).stdout
    assert "red" in shown
    assert not set(shown) & {"\x1b", "\x9b"}


def test_programs_get_json(file: Path) -> None:
    assert json.loads(inspect(file, "--json").stdout)["settings"] == dict(WRITTEN.settings)


@pytest.mark.parametrize("content", [b"", b"\x89PNG nothing"])
def test_a_file_without_a_description_is_an_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(content)
    ran = inspect(path)
    assert ran.exit_code == 1
    assert "has no description by Darkroom" in ran.stderr
