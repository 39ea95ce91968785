"""What ``darkroom deploy`` finds in a file, a folder or at an address."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import click
import yaml

from serve_app.domain.errors import Misconfigured
from serve_app.domain.executors.deployable import Choices, Deployable, WrongChoice
from serve_app.settings import Config

SUFFIXES = frozenset({".json", ".yaml", ".yml"})
"""Of files with a workflow."""

SHIPPED = "darkroom_apps"
"""Package with the apps that come with Darkroom."""


def deployable(choices: Choices, config: Config) -> Deployable | None:
    """What an executor makes of what is named. None: it is a chain of endpoints. ``Misconfigured``
    says what is wrong with it. ``config``: of the installation, whose environments it uses."""
    # The composition root imports Ray, which other commands do not need.
    from serve_app.app import find_deployable  # noqa: PLC0415

    path = choices.path
    try:
        deployment = find_deployable(config, choices)
    except WrongChoice as error:
        raise click.UsageError(error.message) from error
    if deployment is not None:
        return deployment
    if path is None:
        raise click.UsageError("Name a file or a folder, or --cog-server.")
    if path.is_dir():
        raise Misconfigured(f"{path} is a folder without a cog.yaml. Name a file in it.")
    if path.suffix.lower() not in SUFFIXES:
        raise Misconfigured(f"{path.name} must be a Python file, whose name ends with .py.")
    return None


def found_at(source: Path) -> Path:
    """The file or folder, or the file of the app which comes with Darkroom under this name."""
    if source.exists():
        return source
    package = find_spec(SHIPPED)
    folders = (package.submodule_search_locations if package else None) or ()
    files = (path for folder in folders for path in Path(folder).glob("[!_]*.py"))
    shipped = {file.stem: file for file in sorted(files)}
    if str(source) not in shipped:
        raise Misconfigured(
            f"There is no file {source}, and no app of this name comes with Darkroom: it has "
            f"{', '.join(shipped)}."
        )
    return shipped[str(source)]


def read_workflow(file: Path, name: str | None) -> dict[str, Any]:
    """Workflow of a file, with its name: the given one, its own, or that of the file.

    ``Misconfigured``, with file and line: it is neither JSON nor YAML with an object.
    """
    document = _parse_file(file)
    if not isinstance(document, Mapping):
        raise Misconfigured(f"{file}: a workflow is an object with `steps` or `nodes`.")
    body = dict(cast("Mapping[Any, Any]", document))
    if not all(isinstance(key, str) for key in body):
        raise Misconfigured(f"{file}: the keys of a workflow are texts.")
    contents = body.get("contents")
    own = body.get("name") or (contents.get("name") if isinstance(contents, Mapping) else None)
    stem = re.sub(r"[^a-z0-9._-]+", "-", file.stem.lower()).strip("-._") or "workflow"
    chosen = name or own or stem
    if not body.keys() & {"contents", "nodes", "steps"}:  # a map of nodes
        return {"name": chosen, "contents": body}
    return {**body, "name": chosen}


def _parse_file(file: Path) -> Any:
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise Misconfigured(f"{file} cannot be read: {error}.") from error
    try:
        if file.suffix.lower() == ".json":
            return json.loads(text)
        document = yaml.safe_load(text)
        json.dumps(document)
    except json.JSONDecodeError as error:
        raise Misconfigured(f"{file}:{error.lineno}: this is not JSON: {error.msg}.") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line, what = (mark.line + 1 if mark else 1), getattr(error, "problem", None) or error
        raise Misconfigured(f"{file}:{line}: this is not YAML: {what}.") from error
    except RecursionError:
        raise Misconfigured(
            f"{file}: its values are nested too deep. Write a workflow with fewer levels."
        ) from None
    except (TypeError, ValueError) as error:
        raise Misconfigured(
            f"{file}: it has values that JSON does not have ({error}). Put dates in quotes."
        ) from error
    return document
