"""Reading an app in a Python file before it is served: its requirements and its endpoints."""

from __future__ import annotations

import ast
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from deployments.executors.describing import files_below, import_in_process, parse_file
from deployments.executors.environment import Environments, Requirements, layers
from deployments.executors.process import child_environment
from deployments.executors.python.executor import library_path, worker_module
from deployments.executors.python.fal import source
from deployments.executors.python.fal.description import check_files, requirements_of, usable
from serve_app.domain.errors import Misconfigured

DESCRIBE_WITHIN_S = 120.0


@dataclass(frozen=True, slots=True)
class AppClass:
    """A class in a file that looks like an app, read without importing it."""

    name: str
    line: int
    requirements: Requirements | None
    is_fal: bool = False  # written for fal


def read_source(path: Path) -> Sequence[AppClass]:
    """Apps of a file. ``Misconfigured`` names the line of a mistake."""
    _check_name(path)
    tree = parse_file(path)
    fal_names = source.app_names(tree)
    apps: dict[str, AppClass] = {}
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            bases = [_base(base) for base in node.bases]
            inherited = next((apps[base] for base in bases if base in apps), None)
            is_fal = any(source.dotted_name(base) in fal_names for base in node.bases)
            if is_fal or (inherited and inherited.is_fal):
                # Only a guess: its worker tells what fal makes of the class.
                listed = source.literal(tree, node, "requirements")
                guess = tuple(cast("list[Any]", listed)) if isinstance(listed, list) else ()
                apps[node.name] = AppClass(node.name, node.lineno, guess, is_fal=True)
            elif inherited or "App" in bases:
                above = inherited.requirements if inherited else None
                requirements = _requirements(path, node, above)
                apps[node.name] = AppClass(node.name, node.lineno, requirements)
    return list(apps.values())


def _check_name(path: Path) -> None:
    """Refuse a file whose name is imported as something else."""
    if path.suffix != ".py":
        raise Misconfigured(f"{path.name} must be a Python file, whose name ends with .py.")
    if "." in path.stem:
        raise Misconfigured(f"{path.name} cannot be imported: rename it, without dots.")
    if path.stem in sys.stdlib_module_names or path.stem == "darkroom":
        raise Misconfigured(
            f"{path.name} has the name of the module {path.stem}, which it would hide. Rename it."
        )


def _base(base: ast.expr) -> str:
    """Name of a base class, without its module."""
    return base.attr if isinstance(base, ast.Attribute) else getattr(base, "id", "")


def _requirements(
    path: Path, node: ast.ClassDef, inherited: Requirements | None
) -> Requirements | None:
    assigned = source.last_assignment(node.body, "requirements")
    if assigned is None:
        return inherited
    return _parse_requirements(f"{path.name}:{assigned.lineno}", cast("ast.expr", assigned.value))


def _parse_requirements(where: str, written: ast.expr) -> tuple[str, ...] | None:
    try:
        value: Any = ast.literal_eval(written)
    except (ValueError, TypeError, RecursionError, MemoryError):
        raise Misconfigured(
            f"{where}: requirements must be a list of texts, because they are read before the "
            "file is imported."
        ) from None
    if value is None:
        return None
    if not isinstance(value, (list, tuple)):
        raise Misconfigured(f"{where}: requirements must be a list, such as ['numpy>=2'].")
    listed = tuple(cast("Sequence[Any]", value))
    if not all(isinstance(requirement, str) for requirement in listed):
        raise Misconfigured(f"{where}: requirements must be texts.")
    return cast("tuple[str, ...]", listed)


async def describe(
    folder: Path,
    module: str,
    app: AppClass,
    environments: Environments,
    within_s: float = DESCRIBE_WITHIN_S,
) -> Mapping[str, Any]:
    """Description of an app whose code is in ``folder``, by importing it in its environment.

    ``Misconfigured`` says what is wrong with it.
    """
    name = f"{module}:{app.name}"
    if not app.is_fal:
        python = await environments.python(app.requirements)
        return await _describe_in_worker(python, app, name, folder, within_s)
    bundled = [path.as_posix() for path in files_below(folder)]
    requirements = app.requirements or ()
    for _ in range(3):
        python = await environments.python(requirements, for_fal=True)
        description = await _describe_in_worker(python, app, name, folder, within_s)
        declared = requirements_of(app.name, description)
        # They may be computed, so that only the import tells them.
        if layers(declared) == layers(requirements):
            check_files(app.name, description, bundled)
            return usable(app.name, description)
        requirements = declared
    raise Misconfigured(f"{app.name}.requirements are others with each import. Write them out.")


async def _describe_in_worker(
    python: Path, app: AppClass, name: str, folder: Path, within_s: float
) -> Mapping[str, Any]:
    """Description by a worker in an environment."""
    description = await import_in_process(
        [str(python), "-m", worker_module(is_fal=app.is_fal), "describe", name],
        folder,
        child_environment(folder) | library_path(app.requirements),
        f"{name.partition(':')[0]}.py",
        name,
        within_s,
    )
    if "failed" in description:
        raise Misconfigured(str(description["failed"]))
    return description
