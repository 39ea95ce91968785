"""Setup by `scripts/run` and `scripts/test` before a virtual environment exists, with its messages.

A fake Python of a few lines replaces the machine's. It creates virtual environments at once.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.docs.pages import ROOT

PYTHON = r"""#!/bin/sh
echo "$*" >>"$CALLS"
case "$*" in
*version_info*) exit "$OLD" ;;
"-m venv --clear "*) mkdir -p "$4/bin"; cp "$0" "$4/bin/python"; touch "$4/whole" ;;
"-m pip"*) [ -e "$(dirname "$0")/../whole" ] ;;
esac
"""
DF = """#!/bin/sh
echo Filesystem; echo "disk 0 0 $FREE_KB"
"""
TOOLS = ("sh", "dirname", "cat", "cksum", "awk", "mkdir", "cp", "nice", "touch")


class Project:
    """Minimal project for the script, in its own folder."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "project"
        self.calls = folder / "calls"
        self._programs = folder / "programs"
        for needed in ("tests/s3rver", "tests/wire/javascript", "tests/page/javascript"):
            (self.root / needed).mkdir(parents=True)
            (self.root / needed / "package-lock.json").write_text("{}")
        for needed in ("constraints.txt", "pyproject.toml"):
            (self.root / needed).touch()
        scripts = self.root / "scripts"
        scripts.mkdir()
        (scripts / "setup.sh").write_text((ROOT / "scripts/setup.sh").read_text())
        (scripts / "run").write_text(
            'set -eu\n. "$(dirname -- "$0")/setup.sh"\nsetup ""\necho done\n'
        )
        self._programs.mkdir()
        for tool in TOOLS:  # no Python except the fake one
            (self._programs / tool).symlink_to(shutil.which(tool) or tool)
        for name, text in (("python3.11", PYTHON), ("df", DF)):
            (self._programs / name).write_text(text)
            (self._programs / name).chmod(0o755)

    def set_up(self, *, old: bool = False, free_kb: int = 9_000_000) -> str:
        """Output of the script; its last line is ``done`` on success."""
        self.calls.write_text("")
        ran = subprocess.run(
            [str(self._programs / "sh"), str(self.root / "scripts" / "run")],
            env={
                "PATH": str(self._programs),
                "CALLS": str(self.calls),
                "OLD": str(int(old)),
                "FREE_KB": str(free_kb),
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=60,
        )
        return ran.stdout.strip()


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


def test_a_second_time_nothing_is_installed(project: Project) -> None:
    assert project.set_up().endswith("done")
    assert "pip install" in project.calls.read_text()
    assert project.set_up() == "done"
    assert project.calls.read_text() == ""


def test_what_is_installed_includes_the_parsers_of_a_command_in_the_readme(
    project: Project,
) -> None:
    assert "darkroom migrate check" in (ROOT / "README.md").read_text()
    project.set_up()
    assert f"--editable {project.root}[migrate]\n" in project.calls.read_text()


def test_an_environment_that_was_broken_off_while_it_was_made_is_made_again(
    project: Project,
) -> None:
    project.set_up()
    (project.root / ".venv" / "whole").unlink()
    (project.root / ".venv" / "installed-run").unlink()
    assert project.set_up().endswith("done")
    assert "-m venv --clear" in project.calls.read_text()


def test_too_little_disk_is_said_before_anything_is_installed(project: Project) -> None:
    reported = project.set_up(free_kb=1_000_000)
    assert reported.startswith("darkroom: Only 976 MB are free on the disk of")
    assert "-m venv" not in project.calls.read_text()


def test_on_a_machine_without_a_new_enough_python_the_error_says_which_is_needed(
    project: Project,
) -> None:
    assert project.set_up(old=True).startswith("darkroom: Python 3.11, 3.12 or 3.13 was not found")
