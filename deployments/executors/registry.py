"""The executors: one for each folder beside this module that has a ``kind.py``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module
from importlib.util import find_spec
from pkgutil import iter_modules
from typing import cast

from deployments import executors
from deployments.executors.kind import ExecutorKind


def find_kinds() -> Iterator[ExecutorKind]:
    """Kinds of executors, by the names of their folders."""
    for folder in iter_modules(executors.__path__):
        name = f"{executors.__name__}.{folder.name}.kind"
        if folder.ispkg and find_spec(name) is not None:
            yield cast("ExecutorKind", import_module(name).KIND)


EXECUTORS: Mapping[str, ExecutorKind] = {
    family: kind for kind in find_kinds() for family in kind.families
}
"""Kind by the name that endpoints use as their ``family``. A pool hosts either executors or
families of the engine."""
