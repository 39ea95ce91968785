"""Endpoints of a Cog model, as the catalogue has them: of a project, or of a server's address."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import httpx2

from deployments.executors.code import unpack
from deployments.executors.cog import introspection
from deployments.executors.cog.executor import COG
from deployments.executors.cog.predictions import HEALTHY
from deployments.executors.cog.project import FILE, CogProject, read_project
from deployments.executors.cog.schema import (
    MODES,
    hides_context,
    input_schema,
    marked_output,
    openapi,
    output_schema,
)
from deployments.executors.describing import bundle, import_in_process
from deployments.executors.environment import Environments
from deployments.executors.kind import DeployContext
from deployments.executors.process import child_environment
from serve_app.domain.errors import Misconfigured
from serve_app.domain.executors.deployable import Choices, Deployable, WrongChoice
from serve_app.domain.executors.gpus import ANY
from serve_app.domain.executors.gpus import OPTION as GPU

ANSWER_WITHIN_S = 30.0

SCHEMA_FILE = Path(".cog") / "openapi_schema.json"
"""File from which a Cog server knows what to check."""

DESCRIBE_WITHIN_S = 300.0  # the import of torch and a model's library may be slow

OWN_CONTEXT = (
    "The model has an input `context` of its own, so `current_scope().context` is always empty."
)


def deploy(choices: Choices, context: DeployContext) -> Deployable | None:
    """The model in a folder with a ``cog.yaml``, in that file, or at the address of a server."""
    path, url = choices.path, choices.cog_server
    if url is not None and path is not None:
        raise WrongChoice("Name a file, or --cog-server, not both.")
    if url is not None:
        choices.refuse("a Cog model", "--pool", "--prepared")
        return server(url, choices)
    if path is None or not (path.name == FILE or (path / FILE).is_file()):
        return None
    choices.refuse("a Cog model", "--pool", "--prepared")
    return project(path, choices, context.environments)


def project(path: Path, choices: Choices, environments: Environments) -> Deployable:
    """Deployment of a project. ``Misconfigured`` says what is wrong with it."""
    folder = (path.parent if path.name == FILE else path).resolve()
    read = read_project(folder, prepared=choices.prepared)
    if read.needs_gpu and choices.pool is None:
        raise Misconfigured(
            f"{FILE} asks for a GPU. Name the pool whose replicas have one: --pool NAME. It must "
            f"host the family `{COG}`."
        )
    description = asyncio.run(describe(folder, read, environments))
    digest = hashlib.sha256(description.content).hexdigest()
    name = choices.base_id(_slug(folder.name))
    entries = [
        _entry(
            name,
            choices,
            description.document,
            mode,
            description.descriptions[mode],
            {
                "bundle": digest,
                "target": target,
                "requirements": list(read.requirements),
                "environment": dict(read.environment),
                "concurrency": description.concurrency[mode],
            },
            {GPU: ANY} if read.needs_gpu else {},
        )
        for mode, target in read.targets.items()
    ]
    notes = [*read.notes]
    if any(hides_context(description.document, mode) for mode in read.targets):
        notes.append(OWN_CONTEXT)
    return Deployable(entries, description.content, notes)


def server(url: str, choices: Choices) -> Deployable:
    """Deployment of a Cog server that runs at ``url``, which is asked for its schemas.

    ``Misconfigured`` if it does not answer as one.
    """
    address = url.rstrip("/")
    try:
        parsed = httpx2.URL(address)
    except httpx2.InvalidURL:
        parsed = httpx2.URL("")
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise Misconfigured(f"{url} is no address. Write one such as http://10.0.0.5:5000.")
    if parsed.userinfo:
        raise Misconfigured(
            "The address has a password, which would be stored with the endpoint for all operators "
            "to read. Let the server be reached without one, such as by a private network."
        )
    try:
        with httpx2.Client(base_url=address, timeout=ANSWER_WITHIN_S, trust_env=False) as http:
            health = cast("Mapping[str, Any]", http.get("/health-check").json())
            document = cast("Mapping[str, Any]", http.get("/openapi.json").json())
            modes = [mode for mode, (name, _) in MODES.items() if _has(document, name)]
    except (httpx2.TransportError, ValueError, AttributeError) as error:
        raise Misconfigured(
            f"No Cog server answers at {address} ({str(error) or type(error).__name__}). The "
            "address must be reachable from here and from the replicas."
        ) from error
    if not modes:
        raise Misconfigured(
            f"The Cog server {address} has no schema of its inputs: it was not built by `cog "
            "build`."
        )
    notes = []
    if (status := health.get("status")) not in HEALTHY:
        notes.append(f"The Cog server is {status} now. Requests wait until it is ready.")
    common = {"url": address, "concurrency": choices.concurrency}
    name = choices.base_id(_slug(parsed.host))
    entries = [_entry(name, choices, document, mode, "", common) for mode in modes]
    return Deployable(entries, notes=notes)


def _has(document: Mapping[str, Any], name: str) -> bool:
    return name in ((document.get("components") or {}).get("schemas") or {})


def _entry(
    name: str,
    choices: Choices,
    document: Mapping[str, Any],
    mode: str,
    description: str,
    options: Mapping[str, Any],
    more: Mapping[str, Any] | None = None,
) -> tuple[str, Mapping[str, Any]]:
    """Id and entry of a model's endpoint. ``name``: of the model."""
    entry = {
        "family": COG,
        "schema": "json",
        "description": description,
        "options": {
            COG: {"mode": mode, "output": marked_output(document, mode), **options},
            "input_schema": input_schema(document, mode),
            "output_schema": output_schema(document, mode),
            **(more or {}),
        },
    }
    return choices.entry(name, entry)


def _slug(name: str) -> str:
    """``name`` as a part of an endpoint's id."""
    kept = "".join(char if char.isascii() and char.isalnum() else "-" for char in name.lower())
    return kept.strip("-") or "model"


# Description of a project, by its import.


@dataclass(frozen=True, slots=True)
class CogBundle:
    """A project that can be served."""

    content: bytes  # zip file with its code and its schemas
    document: Mapping[str, Any]  # OpenAPI
    descriptions: Mapping[str, str]  # mode → its function's docstring
    concurrency: Mapping[str, int]  # mode → requests at once


async def describe(
    folder: Path,
    project: CogProject,
    environments: Environments,
    within_s: float = DESCRIBE_WITHIN_S,
) -> CogBundle:
    """Project in ``folder``, after its import in an environment with its requirements.

    ``Misconfigured`` says what is wrong with it.
    """
    code = _bundle(folder)
    with TemporaryDirectory(prefix="darkroom-cog-") as scratch:
        place = Path(scratch)
        unpack(code, place / "imported")
        by_mode = await _describe_project(place, project, environments, within_s)
        concurrency = {mode: _concurrency(project, mode, by_mode[mode]) for mode in project.targets}
        document = openapi(by_mode)
        unpack(code, place / "code")  # what the import wrote is not in it
        written = place / "code" / SCHEMA_FILE
        written.parent.mkdir(exist_ok=True)
        written.write_text(json.dumps(document, sort_keys=True), encoding="utf-8")
        content = _bundle(place / "code", written.parent)
    descriptions = {mode: str(by_mode[mode]["description"]) for mode in project.targets}
    return CogBundle(content, document, descriptions, concurrency)


def _bundle(folder: Path, *more: Path) -> bytes:
    """Zip file of a folder, without its hidden files, and ``more`` of it."""
    shown = [path for path in folder.iterdir() if not path.name.startswith(".")]
    rest = [path for path in shown if path.name not in (FILE, "__pycache__")]
    return bundle(folder / FILE, [*sorted(rest), *more])


def _concurrency(project: CogProject, mode: str, description: Mapping[str, Any]) -> int:
    most = project.concurrency or int(description["concurrency"])
    if most > 1 and not description["asynchronous"]:
        raise Misconfigured(
            f"{FILE}: concurrency.max is {most}, but {project.targets[mode]} is not `async`, so it "
            "runs one request at a time."
        )
    return max(1, most)


async def _describe_project(
    place: Path, project: CogProject, environments: Environments, within_s: float
) -> Mapping[str, Any]:
    python = await environments.python(project.requirements)
    home = place / "home"
    home.mkdir()
    words = [f"{mode}:{target}" for mode, target in project.targets.items()]
    description = await import_in_process(
        [str(python), introspection.__file__, *words],
        place / "imported",
        child_environment(home) | dict(project.environment),
        ", ".join(project.targets.values()),
        "The predictor",
        within_s,
    )
    if "failed" in description:
        raise Misconfigured(f"{description['failed']}.")
    return description
