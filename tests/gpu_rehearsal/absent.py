"""Import errors that say what the GPU machine lacks. Copied into the rehearsal's environment, which
has the packages of that machine only, and imported at each start of its Python.
"""

from __future__ import annotations

import sys
from importlib.abc import MetaPathFinder
from pathlib import Path

PACKAGES = Path(__file__).with_name("packages.txt")


def names_of(text: str) -> frozenset[str]:
    """Normalized names of a list of packages, one in a line, with or without ``==VERSION``."""
    lines = (line.strip() for line in text.splitlines())
    return frozenset(line.partition("==")[0] for line in lines if line and line[0] != "#")


class AbsentPackages(MetaPathFinder):
    """Last finder: asked for what no other one has found.

    It raises for an import only. ``importlib.util.find_spec``, by which diffusers and transformers
    look for optional packages, gets None, as there.
    """

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> None:
        importing = sys._getframe(2).f_code.co_name == "_find_and_load_unlocked"
        if "." in fullname or not importing:
            return
        if fullname.lower().replace("_", "-") in names_of(PACKAGES.read_text(encoding="utf-8")):
            problem = f"on the GPU machine, but not installed here: {fullname}"
        else:
            problem = f"not on the GPU machine: {fullname}"
        raise ModuleNotFoundError(problem, name=fullname)


def install() -> None:
    sys.meta_path.append(AbsentPackages())
