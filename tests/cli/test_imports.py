"""Packages that the command line imports at its start, and those that it can do without."""

from __future__ import annotations

import subprocess
import sys

import pytest

LATE = ("diffusers", "gguf", "jsonschema", "psycopg", "ray", "torch", "tree_sitter")

ALL = """
import sys, click
from serve_app.cli.main import main
context = click.Context(main)
assert all(main.get_command(context, each) for each in main.list_commands(context))
print(*sorted(set({late!r}) & set(sys.modules)))
"""
ONE = """
import sys
from serve_app.cli.main import main
main(["logs", "--help"], standalone_mode=False)
print(*(each for each in ("cryptography", "huggingface_hub") if each in sys.modules))
"""
WITHOUT = """
import sys
sys.modules[{package!r}] = None  # as if it were not installed
from serve_app.cli.main import main
main(["migrate", "check", "fal-ai/flux/dev"])
"""


def _python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=240
    )


def test_all_commands_together_import_no_large_package() -> None:
    ran = _python(ALL.format(late=LATE))
    assert (ran.stdout, ran.stderr, ran.returncode) == ("\n", "", 0)


@pytest.mark.long
def test_a_command_imports_nothing_that_only_others_need() -> None:
    ran = _python(ONE)
    assert (ran.stdout.splitlines()[-1], ran.stderr, ran.returncode) == ("", "", 0)


@pytest.mark.long
@pytest.mark.parametrize("package", ["jsonschema", "tree_sitter", "tree_sitter_typescript"])
def test_migrate_without_its_extra_names_the_package_and_the_command(package: str) -> None:
    ran = _python(WITHOUT.format(package=package))
    assert ran.returncode == 1
    assert ran.stderr == (
        f"darkroom: darkroom migrate needs the package {package}, which is not installed. "
        "Install it with: pip install 'darkroom-serve[migrate]'.\n"
    )
