"""Reading an app before it is served: its requirements, its endpoints, and its code as one file."""

from __future__ import annotations

import ast
import asyncio
import io
import json
import os
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from deployments.executors.code import MAX_BYTES, unpack
from deployments.executors.environment import Environments
from deployments.executors.process import child_environment
from deployments.executors.python_app import library_path
from serve_app.domain.errors import Misconfigured

__all__ = ["AppClass", "bundle", "describe", "read_source", "unpack"]

DESCRIBE_WITHIN_S = 120.0

STABLE_TIME = (1980, 1, 1, 0, 0, 0)
"""Time of all files in a bundle, so that equal code has an equal digest."""


@dataclass(frozen=True, slots=True)
class AppClass:
    """A class in a file that looks like an app, read without importing it."""

    name: str
    line: int
    requirements: tuple[str, ...] | None


def read_source(path: Path) -> Sequence[AppClass]:
    """Apps of a file. ``Misconfigured`` names the line of a mistake."""
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise Misconfigured(f"{path} cannot be read: {error}") from error
    except SyntaxError as error:
        raise Misconfigured(f"{path.name}:{error.lineno}: {error.msg}") from error
    return [
        AppClass(node.name, node.lineno, _requirements(path, node))
        for node in tree.body
        if isinstance(node, ast.ClassDef) and any(_is_app(base) for base in node.bases)
    ]


def _is_app(base: ast.expr) -> bool:
    name = base.attr if isinstance(base, ast.Attribute) else getattr(base, "id", "")
    return name == "App"


def _requirements(path: Path, node: ast.ClassDef) -> tuple[str, ...] | None:
    for line in node.body:
        targets = line.targets if isinstance(line, ast.Assign) else [getattr(line, "target", None)]
        if any(isinstance(each, ast.Name) and each.id == "requirements" for each in targets):
            try:
                value: Any = ast.literal_eval(cast("ast.Assign", line).value)
            except ValueError:
                raise Misconfigured(
                    f"{path.name}:{line.lineno}: requirements must be a list of texts, because "
                    "they are read before the file is imported."
                ) from None
            if value is None:
                return None
            if not all(isinstance(each, str) for each in value):
                raise Misconfigured(f"{path.name}:{line.lineno}: requirements must be texts.")
            return tuple(value)
    return None


def bundle(path: Path, more: Sequence[Path]) -> bytes:
    """Zip file with an app's file, and ``more`` files and folders beside it. Hidden files of
    folders are left out. ``Misconfigured`` if it is too large."""
    files = {path.name: path}
    for each in more:
        if each.is_dir():
            files |= {
                f"{each.name}/{inner.relative_to(each).as_posix()}": inner
                for inner in sorted(each.rglob("*"))
                if inner.is_file()
                and not any(part.startswith(".") for part in inner.relative_to(each).parts)
                and "__pycache__" not in inner.parts
            }
        else:
            files[each.name] = each
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in sorted(files):
            archive.writestr(zipfile.ZipInfo(name, STABLE_TIME), files[name].read_bytes())
    content = written.getvalue()
    if len(content) > MAX_BYTES:
        raise Misconfigured(
            f"The code has {len(content) / 2**20:.0f} MiB as a zip file; at most "
            f"{MAX_BYTES // 2**20} MiB are possible. Load weights in setup() instead."
        )
    return content


async def describe(
    folder: Path, module: str, app: AppClass, environments: Environments
) -> Mapping[str, Any]:
    """Description of an app whose code is in ``folder``, by importing it in its environment.

    ``Misconfigured`` says what is wrong with it.
    """
    name = f"{module}:{app.name}"
    python = await environments.python(app.requirements)
    process = await asyncio.create_subprocess_exec(
        *(str(python), "-m", "darkroom.worker", "describe", name),
        cwd=folder,
        env=child_environment(folder) | library_path(app.requirements),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    try:
        async with asyncio.timeout(DESCRIBE_WITHIN_S):
            output, errors = await process.communicate()
    except TimeoutError:
        os.killpg(process.pid, 9)
        await process.wait()
        raise Misconfigured(
            f"The import of {module}.py took longer than {DESCRIBE_WITHIN_S:g} s. Do slow work in "
            "setup()."
        ) from None
    try:
        found = cast("dict[str, Any]", json.loads(output.splitlines()[-1]))
    except (IndexError, ValueError):
        said = errors.decode(errors="replace").strip().splitlines()
        why = said[-1] if said else f"status {process.returncode}"
        raise Misconfigured(f"{name} cannot be read: {why}") from None
    if "failed" in found:
        raise Misconfigured(str(found["failed"]))
    return found
