"""What ``darkroom deploy`` finds in a file, a folder or at an address."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import click
import yaml

from serve_app.domain.errors import Misconfigured
from serve_app.domain.executors.gpus import OPTION as GPU
from serve_app.domain.executors.secrets import OPTION
from serve_app.domain.realtime import SESSION
from serve_app.settings import read_config

SUFFIXES = frozenset({".json", ".yaml", ".yml"})
"""Of files with a workflow."""

OWNER = "apps"
"""First part of the ids of apps whose name has none."""

SHIPPED = "darkroom_apps"
"""Package with the apps that come with Darkroom."""

Entries = Sequence[tuple[str, Mapping[str, Any]]]
"""Ids of endpoints, and their entries of the catalogue."""


@dataclass(frozen=True, slots=True)
class Choices:
    """Options of ``darkroom deploy`` that say what is served, and as what."""

    class_name: str | None
    name: str | None
    more: tuple[Path, ...]
    pool: str | None
    public: bool
    cog_server: str | None
    concurrency: int
    prepared: bool
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    comfyui: str | None

    def refuse(self, kind: str, *allowed: str) -> None:
        """Refuse options that make no sense for a ``kind`` of thing. ``allowed``: those that do."""
        given = {
            "--app": self.class_name,
            "--with": self.more,
            "--pool": self.pool,
            "--public": self.public,
            "--prepared": self.prepared,
            "--input": self.inputs,
            "--output": self.outputs,
            "--comfyui": self.comfyui,
        }
        if wrong := [name for name, value in given.items() if value and name not in allowed]:
            raise click.UsageError(f"{', '.join(wrong)} cannot be used for {kind}.")


@dataclass(frozen=True, slots=True)
class Deployable:
    """What is stored: entries, and the zip file with their code if they have any."""

    entries: Entries
    content: bytes | None = None
    notes: Sequence[str] = ()
    secrets: Sequence[str] = ()  # names that the code reads
    app: str = ""  # id of a Python app, whose other endpoints are old; empty: it is none


def deployable(
    path: Path | None, choices: Choices, graph: Mapping[str, Any] | None = None
) -> Deployable:
    """What is at ``path``, or at the address of a Cog server. ``graph``: the ComfyUI workflow at
    ``path``, if it is one. ``Misconfigured`` says what is wrong with it."""
    if (model := _cog_model(path, choices)) is not None:
        choices.refuse("a Cog model", "--pool", "--prepared")
        made = _model_entries(model, choices.name, choices.pool)
        return Deployable(made, model.content, model.notes)
    if path is None:
        raise click.UsageError("Name a file or a folder, or --cog-server.")
    if path.is_dir():
        raise Misconfigured(f"{path} is a folder without a cog.yaml. Name a file in it.")
    if graph is not None:
        return _comfyui_workflow(path, graph, choices)
    choices.refuse("a Python file", "--app", "--with", "--pool")
    content, found = described(path, choices.class_name, choices.more)
    if found["gpu"] and choices.pool is None:
        raise Misconfigured(
            f"{found['class']} asks for a GPU ({found['gpu']}). Name the pool whose replicas have "
            "one: --pool NAME. It must host the family `python`."
        )
    digest = hashlib.sha256(content).hexdigest()
    made = list(entries(found, choices.name, digest, choices.pool))
    base = base_id(choices.name or str(found["name"]))
    return Deployable(made, content, found.get("notes", ()), found["secrets"], base)


def found_at(given: Path) -> Path:
    """The file or folder, or the file of the app which comes with Darkroom under this name."""
    if given.exists():
        return given
    package = find_spec(SHIPPED)
    folders = (package.submodule_search_locations if package else None) or ()
    files = (each for folder in folders for each in Path(folder).glob("[!_]*.py"))
    shipped = {each.stem: each for each in sorted(files)}
    if str(given) not in shipped:
        raise Misconfigured(
            f"There is no file {given}, and no app of this name comes with Darkroom: it has "
            f"{', '.join(shipped)}."
        )
    return shipped[str(given)]


def comfyui_graph(path: Path) -> Mapping[str, Any] | None:
    """The workflow in a file, in ComfyUI's API format. None: it has something else.

    Raises ``Misconfigured`` for one in the format of ComfyUI's editor.
    """
    if path.suffix != ".json" or not path.is_file():
        return None
    try:
        given: Any = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None  # whoever reads it as something else says what is wrong
    if not isinstance(given, dict):
        return None
    fields = cast("Mapping[str, Any]", given)
    if isinstance(fields.get("nodes"), list) and "links" in fields:
        raise Misconfigured(
            f"{path.name} is in the format of ComfyUI's editor. Export it there for programs: "
            "Workflow > Export (API)."
        )
    nodes = fields.values()
    is_graph = all(isinstance(each, dict) and "class_type" in each for each in nodes)
    return fields if fields and is_graph else None


def _comfyui_workflow(path: Path, graph: Mapping[str, Any], choices: Choices) -> Deployable:
    # The composition root imports Ray, which other commands do not need.
    from serve_app.app import comfyui_workflows  # noqa: PLC0415

    choices.refuse("a ComfyUI workflow", "--pool", "--input", "--output", "--comfyui")
    workflows: Any = comfyui_workflows()
    config = read_config({})
    settings = config.models.comfyui
    found = workflows.described(
        graph,
        choices.comfyui,
        None if settings is None else settings.config(),
        config.weights.store().directory,
        named=choices.inputs,
        outputs=choices.outputs,
    )
    kind = category(found.input_schema, found.output_schema)
    entry = workflows.entry(found, kind, f"ComfyUI workflow {path.stem}.")
    id_ = base_id(choices.name or workflows.default_name(path))
    return Deployable([(id_, in_pool(entry, choices.pool))])


def _cog_model(path: Path | None, choices: Choices) -> Any:
    """The Cog model at ``path`` or at an address. None: ``path`` is something else."""
    if choices.cog_server is not None and path is not None:
        raise click.UsageError("Name a file, or --cog-server, not both.")
    # The composition root imports Ray, which other commands do not need.
    from serve_app.app import app_environments, cog_models  # noqa: PLC0415

    models: Any = cog_models()
    if choices.cog_server is not None:
        return models.server(choices.cog_server, choices.concurrency)
    if path is None or not models.is_project(path):
        return None
    environments = app_environments(read_config({}))
    has_pool = choices.pool is not None
    return models.project(path, environments, prepared=choices.prepared, has_pool=has_pool)


def _model_entries(model: Any, name: str | None, pool: str | None) -> Entries:
    """Ids and entries of a Cog model's endpoints."""
    base = base_id(name or model.name)
    made: list[tuple[str, Any]] = []
    for path, entry in model.entries.items():
        options = entry["options"]
        of = category(options["input_schema"], options["output_schema"])
        made.append((base + path, in_pool({**entry, "category": of}, pool)))
    return made


def described(
    file: Path, class_name: str | None, more: Sequence[Path]
) -> tuple[bytes, Mapping[str, Any]]:
    """Code of an app as a zip file, and its description.

    ``Misconfigured`` names what is wrong with it.
    """
    # The composition root imports Ray, which other commands do not need.
    from serve_app.app import app_environments, app_reader  # noqa: PLC0415

    reader = app_reader()
    apps = {each.name: each for each in reader.read_source(file)}
    if class_name is None and len(apps) == 1:
        (class_name,) = apps
    if class_name is None:
        listed = ", ".join(apps) or "none"
        raise Misconfigured(
            f"{file.name} has {len(apps)} classes that are a darkroom.App ({listed}). "
            + ("Name one with --app." if apps else "Derive one from darkroom.App, or fal.App.")
        )
    if class_name not in apps:
        raise Misconfigured(f"{file.name} has no class {class_name} that is a darkroom.App.")
    app = apps[class_name]
    beside = reader.files_beside(file, class_name, Path.cwd()) if app.is_fal else {}
    content = reader.bundle(file, more, beside)
    with TemporaryDirectory(prefix="darkroom-deploy-") as folder:
        code = Path(folder) / "code"
        reader.unpack(content, code)
        environments = app_environments(read_config({}))
        found = asyncio.run(reader.describe(code, file.stem, app, environments))
    return content, {**found, "class": f"{file.stem}:{class_name}"}


def entries(
    found: Mapping[str, Any], name: str | None, digest: str, pool: str | None
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Ids and entries of an app's endpoints."""
    base = base_id(name or str(found["name"]))
    for each in found["endpoints"]:
        endpoint = base + ("" if each["path"] == "/" else each["path"])
        entry: dict[str, Any] = {
            "family": "python",
            "schema": "json",
            "category": category(each["input_schema"], each["output_schema"]),
            "description": each["description"],
            "options": {
                "app": {
                    **({"kind": found["kind"]} if "kind" in found else {}),
                    "bundle": digest,
                    "class": found["class"],
                    "path": each["path"],
                    "requirements": found["requirements"],
                    "concurrency": found["concurrency"],
                    "start_timeout_s": found["start_timeout_s"],
                    **({"streams": True} if each.get("streams") else {}),
                    **({SESSION: each["session"]} if each.get("session") else {}),
                },
                **({GPU: found["gpu"]} if found.get("gpu") else {}),
                "input_schema": each["input_schema"],
                "output_schema": each["output_schema"],
                **({OPTION: found["secrets"]} if found["secrets"] else {}),
            },
        }
        yield endpoint, in_pool(entry, pool)


def base_id(name: str) -> str:
    """Id of an app, from the name that it is given."""
    return name if "/" in name else f"{OWNER}/{name}"


def in_pool(entry: dict[str, Any], pool: str | None) -> dict[str, Any]:
    """Entry of an endpoint that ``pool`` runs, or that the default pool does."""
    return entry | ({"pool": pool} if pool else {})


def category(given: Mapping[str, Any], made: Mapping[str, Any]) -> str:
    """Category such as ``image-to-text``, by the files of input and output."""
    return f"{_kind(given)}-to-{_kind(made)}"


def _kind(schema: Mapping[str, Any]) -> str:
    text = json.dumps(schema)
    for kind in ("video", "audio", "image", "file"):
        if f'"x-darkroom-file": "{kind}"' in text:
            return kind
    return "text"


def read_workflow(file: Path, name: str | None) -> dict[str, Any]:
    """Workflow of a file, with its name: the given one, its own, or that of the file.

    ``Misconfigured``, with file and line: it is neither JSON nor YAML with an object.
    """
    given = _parsed(file)
    if not isinstance(given, Mapping):
        raise Misconfigured(f"{file}: a workflow is an object with `steps` or `nodes`.")
    body = dict(cast("Mapping[Any, Any]", given))
    if not all(isinstance(each, str) for each in body):
        raise Misconfigured(f"{file}: the keys of a workflow are texts.")
    contents = body.get("contents")
    own = body.get("name") or (contents.get("name") if isinstance(contents, Mapping) else None)
    stem = re.sub(r"[^a-z0-9._-]+", "-", file.stem.lower()).strip("-._") or "workflow"
    chosen = name or own or stem
    if not body.keys() & {"contents", "nodes", "steps"}:  # a map of nodes
        return {"name": chosen, "contents": body}
    return {**body, "name": chosen}


def _parsed(file: Path) -> Any:
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise Misconfigured(f"{file} cannot be read: {error}.") from error
    try:
        if file.suffix.lower() == ".json":
            return json.loads(text)
        found = yaml.safe_load(text)
        json.dumps(found)
    except json.JSONDecodeError as error:
        raise Misconfigured(f"{file}:{error.lineno}: this is not JSON: {error.msg}.") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line, what = (mark.line + 1 if mark else 1), getattr(error, "problem", None) or error
        raise Misconfigured(f"{file}:{line}: this is not YAML: {what}.") from error
    except (TypeError, ValueError, RecursionError) as error:
        raise Misconfigured(
            f"{file}: it has values that JSON does not have ({error}). Put dates in quotes."
        ) from error
    return found
