"""Sources of calls that a user names: code files, folders, lists of inputs and endpoint ids."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from serve_app.cli.migration import javascript, python
from serve_app.cli.migration.calls import ClientCall, ObjectLiteral, SourceLocation, Value, call
from serve_app.domain.errors import InvalidInput

PYTHON = frozenset({".py"})
JAVASCRIPT = frozenset({".js", ".mjs", ".cjs", ".jsx", ".ts", ".mts", ".cts", ".tsx"})
LISTS = frozenset({".json", ".yaml", ".yml"})
IGNORED_FOLDERS = frozenset(
    {"__pycache__", "build", "dist", "node_modules", "site-packages", "venv"}
)
"""Folders without the user's own code. Folders whose name begins with a dot are skipped too."""

MENTIONS = "fal"  # a file without this text has no calls to fal
MAX_BYTES = 2_000_000
TOO_LARGE = f"The file is larger than {MAX_BYTES // 1_000_000} MB, so it is not read."
ONE_OF = "a list of objects with `endpoint` and `input`"


def calls_of(named: Sequence[str]) -> Iterator[ClientCall]:
    """Calls in the named sources.

    Raises ``InvalidInput`` for a name that is neither an existing path nor an endpoint id.
    """
    for source in named:
        path = Path(source)
        if path.is_dir():
            yield from (client_call for file in _code_below(path) for client_call in _in_file(file))
        elif path.is_file():
            yield from _in_list(path) if path.suffix in LISTS else _in_named(path)
        elif _is_id(source):
            yield ClientCall(SourceLocation(source), source, None)
        else:
            raise InvalidInput(
                f"There is no file or folder {source}, and it is not an endpoint id."
            )


def _is_id(text: str) -> bool:
    known = PYTHON | JAVASCRIPT | LISTS
    return "/" in text and text[0] not in "./~\\" and Path(text).suffix not in known


def _code_below(folder: Path) -> Iterator[Path]:
    try:
        inside = sorted(folder.iterdir())
    except OSError as error:
        raise InvalidInput(f"{folder} cannot be read: {error.strerror or error}.") from None
    for path in inside:
        if path.is_symlink() or path.name.startswith(".") or path.name in IGNORED_FOLDERS:
            continue
        if path.is_dir():
            yield from _code_below(path)
        elif path.suffix in PYTHON | JAVASCRIPT and path.is_file():
            yield path


def _in_named(path: Path) -> list[ClientCall]:
    if path.suffix not in PYTHON | JAVASCRIPT:
        known = ", ".join(sorted(PYTHON | JAVASCRIPT | LISTS))
        raise InvalidInput(
            f"{path} cannot be read. Use a file with one of these suffixes: {known}."
        )
    return _in_file(path)


def _in_file(path: Path) -> list[ClientCall]:
    try:
        if path.stat().st_size > MAX_BYTES:
            return _unread(path, TOO_LARGE)
        text = path.read_text(encoding="utf-8-sig", errors="replace")
    except OSError as error:  # the other files of a folder are reported all the same
        return _unread(path, f"The file cannot be read: {error.strerror or error}.")
    if MENTIONS not in text:
        return []
    if path.suffix in PYTHON:
        return python.calls_in(text, str(path))
    return javascript.calls_in(text, str(path), path.suffix)


def _unread(path: Path, why: str) -> list[ClientCall]:
    return [ClientCall(SourceLocation(str(path)), None, None, unread=(why,))]


def _in_list(path: Path) -> Iterator[ClientCall]:
    """Calls in a list of inputs. The line of a call is the line where its entry begins."""
    try:
        text = path.read_text(encoding="utf-8-sig")
        content: Any = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
        # JSON may be indented with tabs, but YAML may not.
        tree = yaml.compose(text.expandtabs(), Loader=yaml.SafeLoader)
    except OSError as error:
        raise InvalidInput(f"{path} cannot be read: {error.strerror or error}.") from None
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        raise InvalidInput(f"{path} cannot be read: {error}") from None
    if not isinstance(content, list) or not isinstance(tree, yaml.SequenceNode):
        raise InvalidInput(f"{path} should be {ONE_OF}.")
    for entry, node in zip(content, tree.value, strict=True):
        place = SourceLocation(str(path), node.start_mark.line + 1)
        if not isinstance(entry, dict) or not isinstance(entry.get("endpoint"), str):
            raise InvalidInput(f"{place}: this should be an object with `endpoint` and `input`.")
        if "input" not in entry:
            yield ClientCall(place, entry["endpoint"], None)
            continue
        arguments = entry["input"]
        if not isinstance(arguments, dict):
            raise InvalidInput(f"{place}: `input` should be an object.")
        yield call(place, entry["endpoint"], _value(arguments, place.line), realtime=False)


def _value(parsed: Any, line: int) -> Value:
    if isinstance(parsed, dict):
        literal = ObjectLiteral()
        for name, value in parsed.items():
            literal.put(str(name), _value(value, line), line)
        return literal
    return [_value(item, line) for item in parsed] if isinstance(parsed, list) else parsed
