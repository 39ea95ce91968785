"""Endpoints of an app, as the catalogue has them."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from deployments.executors.code import unpack
from deployments.executors.describing import bundle
from deployments.executors.environment import Environments
from deployments.executors.kind import DeployContext
from deployments.executors.python.describing import describe, read_source
from deployments.executors.python.fal.source import files_beside
from serve_app.domain.errors import Misconfigured
from serve_app.domain.executors.deployable import Choices, Deployable
from serve_app.domain.executors.gpus import OPTION as GPU
from serve_app.domain.executors.secrets import OPTION
from serve_app.domain.realtime import SESSION


def deploy(choices: Choices, context: DeployContext) -> Deployable | None:
    """The app in a Python file."""
    path = choices.path
    if path is None or path.suffix != ".py" or path.is_dir():
        return None
    choices.refuse("a Python file", "--app", "--with", "--pool")
    content, description = package_app(path, choices.class_name, choices.more, context.environments)
    if description["gpu"] and choices.pool is None:
        raise Misconfigured(
            f"{description['class']} asks for a GPU ({description['gpu']}). Name the pool whose "
            "replicas have one: --pool NAME. It must host the family `python`."
        )
    digest = hashlib.sha256(content).hexdigest()
    endpoints = list(entries(description, choices, digest))
    base = choices.base_id(str(description["name"]))
    return Deployable(
        endpoints, content, description.get("notes", ()), description["secrets"], base
    )


def package_app(
    file: Path, class_name: str | None, more: Sequence[Path], environments: Environments
) -> tuple[bytes, Mapping[str, Any]]:
    """Code of an app as a zip file, and its description.

    ``Misconfigured`` names what is wrong with it.
    """
    apps = {candidate.name: candidate for candidate in read_source(file)}
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
    beside = files_beside(file, class_name, Path.cwd()) if app.is_fal else {}
    content = bundle(file, more, beside)
    with TemporaryDirectory(prefix="darkroom-deploy-") as folder:
        code = Path(folder) / "code"
        unpack(content, code)
        description = asyncio.run(describe(code, file.stem, app, environments))
    return content, {**description, "class": f"{file.stem}:{class_name}"}


def entries(
    description: Mapping[str, Any], choices: Choices, digest: str
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Ids and entries of an app's endpoints."""
    base = choices.base_id(str(description["name"]))
    for route in description["endpoints"]:
        entry: dict[str, Any] = {
            "family": "python",
            "schema": "json",
            "description": route["description"],
            "options": {
                "app": {
                    **({"kind": description["kind"]} if "kind" in description else {}),
                    "bundle": digest,
                    "class": description["class"],
                    "path": route["path"],
                    "requirements": description["requirements"],
                    "concurrency": description["concurrency"],
                    "start_timeout_s": description["start_timeout_s"],
                    **({"streams": True} if route.get("streams") else {}),
                    **({SESSION: route["session"]} if route.get("session") else {}),
                },
                **({GPU: description["gpu"]} if description.get("gpu") else {}),
                "input_schema": route["input_schema"],
                "output_schema": route["output_schema"],
                **({OPTION: description["secrets"]} if description["secrets"] else {}),
            },
        }
        yield choices.entry(base, entry)
