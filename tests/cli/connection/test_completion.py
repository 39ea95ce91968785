"""Completion in a real bash, as ``eval "$(darkroom completion bash)"`` sets it up."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.wire.served import Address, serve

pytestmark = pytest.mark.long

COMPLETE = """
eval "$(darkroom completion bash)"
complete -p darkroom >&2
COMP_WORDS=("$@")
COMP_CWORD=$(($# - 1))
_darkroom_completion darkroom "${COMP_WORDS[COMP_CWORD]}"
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture(scope="module")
def address() -> Iterator[Address]:
    with serve(replica=False) as address:
        yield address


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """Folder with the program ``darkroom``, as an installation has it."""
    program = tmp_path / "bin" / "darkroom"
    program.parent.mkdir()
    root = shlex.quote(str(Path(__file__).parents[3]))
    python = shlex.quote(sys.executable)
    program.write_text(f'#!/bin/sh\nPYTHONPATH={root} exec {python} -m serve_app.cli "$@"\n')
    program.chmod(0o755)
    return program.parent


def complete_words(programs: Path, *words: str, data_dir: Path | None = None) -> list[str]:
    command = ["bash", "--norc", "-c", COMPLETE, "bash", "darkroom", *words]
    environment = {"PATH": f"{programs}:/usr/bin:/bin"}
    if data_dir is not None:
        environment["DARKROOM_DATA_DIR"] = str(data_dir)
    ran = subprocess.run(
        command, capture_output=True, text=True, check=True, timeout=60, env=environment
    )
    assert "-F _darkroom_completion darkroom" in ran.stderr
    return ran.stdout.split()


@pytest.mark.parametrize(
    ("words", "wanted"),
    {
        ("gen",): ["generate"],
        ("re",): ["requests", "restore"],
        ("keys", "r"): ["revoke", "rotate"],
        ("models", "push"): ["push-mirror"],
        ("generate", "--st"): ["--steps", "--strength"],
        ("requests", "list", "--state", "f"): ["failed"],
        ("warm", "set", "x", "--level", "ho"): ["host", "hot"],
        ("completion", ""): ["bash", "fish", "zsh"],
    }.items(),
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_commands_options_and_choices_are_completed(
    programs: Path, words: tuple[str, ...], wanted: list[str]
) -> None:
    assert sorted(complete_words(programs, *words)) == wanted


@pytest.mark.parametrize(
    "words",
    [
        ("generate", "-m"),
        ("requests", "list", "--endpoint"),
        ("keys", "create", "--endpoint"),
        ("batch", "run", "lines.jsonl", "--endpoint"),
        ("weights", "add", "w", "w.safetensors", "--base"),
        ("warm", "set"),
        ("endpoints", "pause"),
        ("models", "pull"),
    ],
    ids=" ".join,
)
def test_endpoints_are_completed_from_what_runs(
    address: Address, programs: Path, tmp_path: Path, words: tuple[str, ...]
) -> None:
    (tmp_path / "run.json").write_text(json.dumps({"url": address.url}))
    (tmp_path / "api_key").write_text(address.key)
    completions = complete_words(programs, *words, "fal-ai/flux/s", data_dir=tmp_path)
    assert completions == ["fal-ai/flux/schnell"]
