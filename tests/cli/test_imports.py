"""Packages that the command line imports at its start, and those that it can do without."""

from __future__ import annotations

import subprocess
import sys

import pytest

LATE = ("diffusers", "jsonschema", "psycopg", "ray", "torch", "tree_sitter")

IMPORTED = "import sys, serve_app.cli.main; print(*sorted(set({late!r}) & set(sys.modules)))"
WITHOUT = """
import sys
sys.modules[{package!r}] = None  # as if it were not installed
from serve_app.cli.main import main
main(["migrate", "check", "fal-ai/flux/dev"])
"""


def _python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60
    )


def test_the_start_of_the_command_line_imports_no_large_package() -> None:
    ran = _python(IMPORTED.format(late=LATE))
    assert (ran.stdout, ran.stderr, ran.returncode) == ("\n", "", 0)


@pytest.mark.parametrize("package", ["jsonschema", "tree_sitter", "tree_sitter_typescript"])
def test_migrate_without_its_extra_names_the_package_and_the_command(package: str) -> None:
    ran = _python(WITHOUT.format(package=package))
    assert ran.returncode == 1
    assert ran.stderr == (
        f"darkroom: darkroom migrate needs the package {package}, which is not installed. "
        "Install it with: pip install 'darkroom-serve[migrate]'.\n"
    )
