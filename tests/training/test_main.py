"""The command that trains and examines the demo models."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("diffusers")

from training.__main__ import EXAMS, MODELS, _parse

ROOT = Path(__file__).parents[2]
COMMAND = "python -m training "


@pytest.mark.parametrize("model", EXAMS)
def test_the_commands_of_a_models_card_are_commands(model: str) -> None:
    lines = (ROOT / "deployments" / "demo" / model / "README.md").read_text().splitlines()
    commands = [
        _parse(shlex.split(line.removeprefix(COMMAND), comments=True))
        for line in lines
        if line.startswith(COMMAND)
    ]
    assert {command.model for command in commands} <= set(MODELS)
    assert [command.model for command in commands if command.work_dir][-1] == model
    assert [command.model for command in commands if command.exam] == [model]


@pytest.mark.parametrize(
    "words",
    [
        "flux --pipeline somewhere",
        "stable-audio --work-dir somewhere --exam 3",
        "sdxl --work-dir somewhere --polish",
        "wan",
    ],
)
def test_what_a_model_lacks_is_refused(words: str) -> None:
    with pytest.raises(SystemExit):
        _parse(words.split())


@pytest.mark.long
def test_a_shipped_model_is_examined(tmp_path: Path) -> None:
    sheet = tmp_path / "sheet.png"
    words = f"{COMMAND}flux --pipeline deployments/demo/flux --exam 1 --sittings 2 --sheet {sheet}"
    ran = subprocess.run(
        [sys.executable, *words.split()[1:]], cwd=ROOT, capture_output=True, text=True, check=True
    )
    names = [name for line in ran.stdout.splitlines() for name in json.loads(line)]
    assert names == ["regular wording, 256x256", "regular wording, 256x192"]
    assert sheet.exists()
