"""Reading code before it is served: its files as one, and its import in a process."""

from __future__ import annotations

import ast
import asyncio
import contextlib
import io
import json
import os
import signal
import zipfile
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any

from serve_app.domain.errors import Misconfigured
from serve_app.domain.ports import MAX_CODE_BYTES

STABLE_TIME = (1980, 1, 1, 0, 0, 0)
"""Time of all files in a bundle, so that equal code has an equal digest."""


def parse_file(path: Path) -> ast.Module:
    try:
        # As bytes: the first lines may name an encoding.
        return ast.parse(path.read_bytes(), str(path))
    except SyntaxError as error:
        raise Misconfigured(f"{path.name}:{error.lineno or 1}: {error.msg}") from error
    except (OSError, ValueError, RecursionError, MemoryError) as error:
        raise Misconfigured(f"{path} cannot be read: {error}") from error


def bundle(path: Path, more: Sequence[Path], named: Mapping[str, Path] | None = None) -> bytes:
    """Zip file with an app's file, what it imports of its package, ``more`` files and folders
    beside it, and others by their names in it. Hidden files of folders are left out.
    ``Misconfigured`` if it is too large."""
    files = {**package_modules(path), **(named or {}), **_files(path, more)}
    try:
        # Before they are read: a folder may have weights of many gigabytes.
        size = sum(file.stat().st_size for file in files.values())
        if size <= MAX_CODE_BYTES:
            content = _zip_files(files)
            size = len(content)
            if size <= MAX_CODE_BYTES:
                return content
    except OSError as error:
        raise Misconfigured(f"{error.filename} cannot be read: {error.strerror}") from error
    raise Misconfigured(
        f"The code has {size / 2**20:.0f} MiB as a zip file; at most {MAX_CODE_BYTES // 2**20} MiB "
        "are possible. Load weights in setup() instead."
    )


def _files(path: Path, more: Sequence[Path]) -> dict[str, Path]:
    """Files of a bundle by their names in it."""
    files = {path.name: path}
    for extra in more:
        root = extra.resolve()  # also `.` has a name
        inner = [root / name for name in files_below(root)] if root.is_dir() else [root]
        for file in inner:
            name = file.relative_to(root.parent).as_posix()
            if files.setdefault(name, file).resolve() != file.resolve():
                raise Misconfigured(
                    f"The code would have two files {name}: {files[name]} and {file}. Rename one."
                )
    return files


def files_below(folder: Path) -> list[Path]:
    """Files below a folder that are not hidden, relative to it."""
    every = (path.relative_to(folder) for path in sorted(folder.rglob("*")) if path.is_file())
    return [
        path
        for path in every
        if "__pycache__" not in path.parts and not any(part.startswith(".") for part in path.parts)
    ]


def package_modules(path: Path) -> Mapping[str, Path]:
    """Modules of the package that an app's file is in and that it imports, and those that they
    import, by their names in a bundle. Empty: its folder is no package, or what it imports is of
    another one with that name, such as fal.

    An environment of the app's own does not have the package.
    """
    root = path.parent.resolve()
    modules: dict[str, Path] = {}
    waiting = [path] if _imports_own(root, path) else []
    while waiting:
        for name in _imported_names(parse_file(waiting.pop())):
            first, *rest = name.split(".")
            if first != root.name:
                continue
            above = [root.joinpath(*rest[:count]) / "__init__.py" for count in range(len(rest))]
            for file in (*above, *_files_of(root.joinpath(*rest))):
                inside = file.relative_to(root.parent).as_posix()
                if file.is_file() and inside not in modules:
                    modules[inside] = file
                    waiting.append(file)
    return modules


def _imports_own(root: Path, path: Path) -> bool:
    """True if a file imports modules of the package in ``root``, and names none that it lacks."""
    if path.suffix != ".py" or not (root / "__init__.py").is_file():
        return False
    tree = parse_file(path)

    def there(names: Collection[str]) -> list[bool]:
        below = [name.split(".")[1:] for name in names if name.startswith(f"{root.name}.")]
        return [any(file.is_file() for file in _files_of(root.joinpath(*rest))) for rest in below]

    return all(there(_imported_modules(tree))) and any(there(_imported_names(tree)))


def _files_of(module: Path) -> Sequence[Path]:
    """Files in which a module may be."""
    return module / "__init__.py", module.with_suffix(".py")


def _imported_modules(tree: ast.Module) -> set[str]:
    """Names of the modules that a file imports, or imports from."""
    names = set[str]()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module)
    return names


def _imported_names(tree: ast.Module) -> set[str]:
    """Names of all that a file imports: a name in a module may be a module too."""
    names = _imported_modules(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def _zip_files(files: Mapping[str, Path]) -> bytes:
    """Zip file whose bytes depend on names and contents only, so not on the compression, which
    differs between versions of zlib."""
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(files):
            info = zipfile.ZipInfo(name, STABLE_TIME)
            info.create_system = 3  # Unix; else it is this machine's
            archive.writestr(info, files[name].read_bytes())
    return written.getvalue()


async def import_in_process(
    command: Sequence[str],
    folder: Path,
    environment: Mapping[str, str],
    code: str,
    name: str,
    within_s: float,
) -> Mapping[str, Any]:
    """What a process says in its last line after the import of ``code``. ``Misconfigured``: it says
    nothing of ``name`` that can be read, or takes too long."""
    # Files, because pipes end only when all that the import has started has closed them.
    with TemporaryFile() as written, TemporaryFile() as complained:
        process = await asyncio.create_subprocess_exec(
            *command,
            cwd=folder,
            env=environment,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=written,
            stderr=complained,
            start_new_session=True,
        )
        try:
            async with asyncio.timeout(within_s):
                await process.wait()
        except TimeoutError:
            raise Misconfigured(
                f"The import of {code} took longer than {within_s:g} s. Do slow work in setup()."
            ) from None
        finally:
            with contextlib.suppress(ProcessLookupError):  # also what the import has started
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
        output, errors = (_content(file) for file in (written, complained))
    try:
        return dict[str, Any](json.loads(output.splitlines()[-1]))
    except (IndexError, TypeError, ValueError):
        lines = errors.decode(errors="replace").strip().splitlines()
        why = lines[-1] if lines else f"status {process.returncode}"
        raise Misconfigured(f"{name} cannot be read: {why}") from None


def _content(file: IO[bytes]) -> bytes:
    file.seek(0)
    return file.read()
