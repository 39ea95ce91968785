"""``darkroom deploy``: serve a Python file of your own."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import quote

import click

from serve_app.cli.connection import options
from serve_app.cli.connection.client import Client
from serve_app.cli.connection.server import Server
from serve_app.domain.errors import Misconfigured
from serve_app.settings import read_config

ENTRIES = "/v1/models/entries"
OWNER = "apps"
"""First part of the ids of apps whose name has none."""


@click.command("deploy")
@options.server
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--app", "class_name", help="Class in the file. Default: its only app.")
@click.option(
    "--name", help="Id of the app, such as team/greeter. Default: apps/ and the class's name."
)
@click.option(
    "--with",
    "more",
    multiple=True,
    type=click.Path(exists=True, path_type=Path),
    help="Another file or folder that the app needs, such as a module beside it. May be repeated.",
)
@click.option("--pool", help="Pool that runs it. Needed if the app asks for a GPU.")
@click.option("--dry-run", is_flag=True, help="Check the app and show its entries; store nothing.")
@options.as_json
def deploy_command(
    server: Server,
    file: Path,
    *,
    class_name: str | None,
    name: str | None,
    more: tuple[Path, ...],
    pool: str | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Serve the endpoints of a class in FILE, a darkroom.App.

    The class is imported here first, in an environment with its requirements, so a mistake is found
    before anything is served. Every replica of the ingress serves it within about a second.
    """
    content, found = described(file, class_name, more)
    if found["gpu"] and pool is None:
        raise Misconfigured(
            f"{found['class']} asks for a GPU ({found['gpu']}). Name the pool whose replicas have "
            "one: --pool NAME. It must host the family `python`."
        )
    digest = hashlib.sha256(content).hexdigest()
    made = [
        (f"{ENTRIES}/{quote(endpoint)}", entry)
        for endpoint, entry in entries(found, name, digest, pool)
    ]
    with Client(server) as client:
        # All are checked before one is stored: else a mistake in the second left half an app.
        stored = [client.put(path, entry, dry_run="true") for path, entry in made]
        if not dry_run:
            client.post_zip("/v1/apps/code", content)
            stored = [client.put(path, entry) for path, entry in made]
    if as_json:
        click.echo(json.dumps({"digest": None if dry_run else digest, "entries": stored}))
        return
    for each in stored:
        click.echo(_line(each, dry_run=dry_run))


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
            + ("Name one with --app." if apps else "Derive one from darkroom.App.")
        )
    if class_name not in apps:
        raise Misconfigured(f"{file.name} has no class {class_name} that is a darkroom.App.")
    content = reader.bundle(file, more)
    with TemporaryDirectory(prefix="darkroom-deploy-") as folder:
        code = Path(folder) / "code"
        reader.unpack(content, code)
        environments = app_environments(read_config({}))
        app = apps[class_name]
        found = asyncio.run(reader.describe(code, file.stem, app, environments))
    return content, {**found, "class": f"{file.stem}:{class_name}"}


def entries(
    found: Mapping[str, Any], name: str | None, digest: str, pool: str | None
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Ids and entries of an app's endpoints."""
    base = name or str(found["name"])
    base = base if "/" in base else f"{OWNER}/{base}"
    for each in found["endpoints"]:
        endpoint = base + ("" if each["path"] == "/" else each["path"])
        entry: dict[str, Any] = {
            "family": "python",
            "schema": "json",
            "category": category(each["input_schema"], each["output_schema"]),
            "description": each["description"],
            "options": {
                "app": {
                    "bundle": digest,
                    "class": found["class"],
                    "path": each["path"],
                    "requirements": found["requirements"],
                    "concurrency": found["concurrency"],
                    "start_timeout_s": found["start_timeout_s"],
                },
                "input_schema": each["input_schema"],
                "output_schema": each["output_schema"],
            },
        }
        yield endpoint, entry | ({"pool": pool} if pool else {})


def category(given: Mapping[str, Any], made: Mapping[str, Any]) -> str:
    """Category such as ``image-to-text``, by the files of input and output."""
    return f"{_kind(given)}-to-{_kind(made)}"


def _kind(schema: Mapping[str, Any]) -> str:
    text = json.dumps(schema)
    for kind in ("video", "audio", "image", "file"):
        if f'"x-darkroom-file": "{kind}"' in text:
            return kind
    return "text"


def _line(stored: Mapping[str, Any], *, dry_run: bool) -> str:
    endpoint = stored["endpoint_id"]
    if stored["served"]:
        done = "would be served" if dry_run else "is served"
        return f"{endpoint} {done} by the pool {stored['pool']}."
    done = "would be listed" if dry_run else "is listed"
    return f"{endpoint} {done}, but not served.\n    {stored['reason']}"
