"""``darkroom inspect``."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

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
    command, note = again.splitlines()
    words = ["darkroom", "generate", "it's a red circle", "-m", WRITTEN.endpoint, "--seed", "7"]
    fields = ["--field", 'image_size={"width": 64}', "--field", 'tone="warm"', "-o", "out.png"]
    assert shlex.split(command) == [*words, *fields]
    assert note == "          The line breaks of the prompt are left out."


def test_a_file_of_an_app_that_says_no_seed_is_made_again_without_one(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(FileMetadata("apps/a", "python:1", None, "x").text().encode())
    shown = inspect(path).stdout
    assert "seed" not in shown
    words = ["darkroom", "generate", "x", "-m", "apps/a", "-o", "out.png"]
    assert shlex.split(shown.partition("again     ")[2]) == words


def again(path: Path, **input_: Any) -> list[str]:
    """Command that repeats a generation with this input, and what is said below it."""
    fields = {"prompt": "x", **input_}
    written = FileMetadata.of_input(fields, endpoint="test/images", model="", seed=7)
    path.write_text(written.text())
    shown = inspect(path).stdout.partition("again     ")[2]
    return [line.strip() for line in shown.splitlines()]


def test_the_command_names_what_the_file_does_not_have(tmp_path: Path) -> None:
    loras = [{"path": "https://example.test/a.safetensors", "scale": 0.5}]
    image = "data:image/png;base64,AAAA"
    command, note = again(tmp_path / "a.png", image_url=image, loras=loras, tone="warm")
    words = ["darkroom", "generate", "x", "-m", "test/images", "--seed", "7"]
    assert shlex.split(command) == [*words, "--field", 'tone="warm"', "-o", "out.png"]
    assert note == (
        "Add image_url, loras: the file does not have all of them. URLs and inlined files are left "
        "out of descriptions."
    )


def test_what_was_too_long_for_the_file_is_named(tmp_path: Path) -> None:
    command, note = again(tmp_path / "a.png", notes=["n" * 40_000])
    assert shlex.split(command)[-2:] == ["-o", "out.png"]
    assert note.startswith("Add the settings: the file does not have all of them. They were too lo")


@pytest.mark.parametrize(
    ("name", "input_", "expected"),
    [
        ("a.jpeg", {}, "out.jpg"),
        ("a.bin", {"output_format": "webp"}, "out.webp"),
        ("a.bin", {"format": "jpeg"}, "out.jpg"),
        ("A.MP4", {"output_format": "something"}, "out.mp4"),
    ],
)
def test_the_command_makes_a_file_of_the_same_format(
    tmp_path: Path, name: str, input_: dict[str, Any], expected: str
) -> None:
    (command,) = again(tmp_path / name, **input_)
    assert shlex.split(command)[-2:] == ["-o", expected]


def test_a_file_whose_format_is_not_known_is_left_to_the_endpoint(tmp_path: Path) -> None:
    (command,) = again(tmp_path / "a.bin")
    assert "-o" not in shlex.split(command)


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
