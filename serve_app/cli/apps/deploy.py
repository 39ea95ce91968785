"""``darkroom deploy``: serve code, a model or a workflow of your own."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from serve_app.cli.apps.deployable import (
    deployable,
    found_at,
    read_workflow,
)
from serve_app.cli.apps.undeploy import delete_endpoint, endpoints_of
from serve_app.cli.connection import options
from serve_app.cli.connection.client import Client
from serve_app.cli.connection.progress_line import ProgressLine
from serve_app.cli.connection.resources import path_of
from serve_app.cli.connection.server import Server, config_of
from serve_app.cli.connection.text import counted, echo
from serve_app.domain.errors import Misconfigured
from serve_app.domain.executors.deployable import Choices, Deployable
from serve_app.domain.executors.gpus import OPTION as GPU
from serve_app.domain.executors.kinds import facts_of
from serve_app.resources.entries import ENTRIES
from serve_app.resources.workflows import WORKFLOWS


@click.command("deploy")
@options.server
@click.argument("file", type=click.Path(path_type=Path), required=False)
@click.option(
    "--app", "class_name", metavar="CLASS", help="Class in the file. Default: its only app."
)
@click.option(
    "--name",
    metavar="ID",
    help="Id of the app, such as team/greeter. Default: apps/ and the class's name.",
)
@click.option(
    "--with",
    "more",
    multiple=True,
    type=click.Path(exists=True, path_type=Path),
    help="Another file or folder that the app needs, such as a module beside it. May be repeated.",
)
@click.option("--pool", metavar="POOL", help="Pool that runs it. Needed if the app asks for a GPU.")
@click.option("--public", is_flag=True, help="Let all tenants call it, a chain of endpoints.")
@click.option(
    "--cog-server", metavar="URL", help="Serve the Cog server at this address instead of a file."
)
@click.option(
    "--concurrency",
    type=click.IntRange(min=1),
    metavar="NUMBER",
    default=1,
    show_default=True,
    help="Number of requests that each replica sends to --cog-server at once.",
)
@click.option(
    "--prepared",
    is_flag=True,
    help="The pool's machines already have the system packages and `run` commands of cog.yaml.",
)
@click.option(
    "--input",
    "inputs",
    multiple=True,
    metavar="NAME=NODE.VALUE",
    help="Input of a ComfyUI workflow, and the value that it sets. Default: those that are found. "
    "May be repeated.",
)
@click.option(
    "--output",
    "outputs",
    multiple=True,
    metavar="NODE",
    help="Node of a ComfyUI workflow whose files are the result. Default: all that save files. "
    "May be repeated.",
)
@click.option(
    "--comfyui",
    metavar="URL|FOLDER",
    help="ComfyUI that knows the workflow's nodes. Default: that of the settings.",
)
@options.dry_run
@options.as_json
def deploy_command(
    server: Server, file: Path | None, *, dry_run: bool, as_json: bool, **params: Any
) -> None:
    """Serve what is in FILE: a class, a model or a workflow.

    \b
    app.py           a darkroom.App, or a fal.App as it is
    a name           of an app that comes with Darkroom, such as upscaler or whisper
    a folder         with a cog.yaml
    workflow.json    a ComfyUI workflow (API format), or a chain of endpoints as fal writes one
    workflow.yaml    a chain of endpoints

    Everything is checked first, code in an environment with its requirements, so a mistake is found
    before anything is served. Every replica of the ingress serves it within about a second.
    """
    choices = Choices(None if file is None else found_at(file), **params)
    with ProgressLine(f"Checking {file or choices.cog_server}", quiet=as_json):
        deployment = deployable(choices, config_of(server))
    if deployment is not None:
        store(server, deployment, dry_run=dry_run, as_json=as_json)
    elif choices.path is not None:
        choices.refuse("a chain of endpoints", "--public")
        public = choices.public
        name, path = choices.name, choices.path
        deploy_workflow(server, path, name, public=public, dry_run=dry_run, as_json=as_json)


def deploy_workflow(
    server: Server, file: Path, name: str | None, *, public: bool, dry_run: bool, as_json: bool
) -> None:
    """Register the workflow in a file. Its mistakes are found before anything is stored."""
    body = read_workflow(file, name)
    if public:
        body["public"] = True
    with Client(server) as client:
        stored = client.post(WORKFLOWS.path + ("?dry_run=true" if dry_run else ""), body)
    if as_json:
        echo(json.dumps(stored))
        return
    done = "can be registered" if dry_run else "is registered"
    whose = "for all tenants" if stored["public"] else "for your tenant"
    steps = counted(len(stored["steps"]), "step")
    echo(f"{stored['endpoint_id']} {done} {whose}, with {steps}.")


def store(server: Server, deployment: Deployable, *, dry_run: bool, as_json: bool) -> None:
    """Store code and entries, and print them."""
    content = deployment.content
    paths = [(path_of(ENTRIES, endpoint), dict(entry)) for endpoint, entry in deployment.entries]
    with Client(server) as client:
        # All are checked before one is stored: else a mistake in the second left half an app.
        stored = [client.put(path, entry, dry_run="true") for path, entry in paths]
        refuse_without_gpu(stored)
        missing = missing_secrets(client, deployment.secrets)
        if not dry_run:
            if content is not None:
                client.post_zip("/v1/apps/code", content)
            stored = [client.put(path, entry) for path, entry in paths]
        served = {row["endpoint_id"] for row in stored}
        families = {entry["family"] for _, entry in deployment.entries}
        of_app = endpoints_of(client, deployment.app, *families) if deployment.app else []
        old = [endpoint_id for endpoint_id in of_app if endpoint_id not in served]
        deleted = (
            []
            if dry_run
            else [endpoint_id for endpoint_id in old if delete_endpoint(client, endpoint_id)]
        )
    if as_json:
        kept = None if dry_run or content is None else hashlib.sha256(content).hexdigest()
        notes = list(deployment.notes)
        shown = {"digest": kept, "entries": stored, "deleted": deleted, "notes": notes}
        echo(json.dumps(shown))
        return
    for note in deployment.notes:
        echo(f"Note: {note}", err=True)
    for item in stored:
        echo(_line(item, dry_run=dry_run))
    for item in old if dry_run else deleted:
        done = "would be deleted" if dry_run else "is deleted"
        echo(f"{item} {done}: the class no longer has it.")
    for item in missing:
        echo(
            f"The secret {item} is not set, so requests will be refused. Set it with `darkroom "
            f"secrets set {item} --installation`."
        )


def refuse_without_gpu(checked: Sequence[Mapping[str, Any]]) -> None:
    """Raise ``Misconfigured`` for an endpoint whose pool has not the GPU that its code needs:
    nothing is stored, since it would compute on a CPU, or fail."""
    for answer in checked:
        entry = answer["entry"]
        asks = GPU in entry.get("options", {}) or facts_of(entry["family"]).slow_on_cpu
        if asks and not answer["served"] and "GPU" in str(answer["reason"]):
            raise Misconfigured(f"{answer['endpoint_id']} was not stored. {answer['reason']}")


def missing_secrets(client: Client, names: Sequence[str]) -> Sequence[str]:
    """Names of secrets that are not set for the installation."""
    if not names:
        return ()
    listed = client.get("/v1/secrets", installation="true")["secrets"]
    return [name for name in names if name not in {secret["name"] for secret in listed}]


def _line(stored: Mapping[str, Any], *, dry_run: bool) -> str:
    endpoint = stored["endpoint_id"]
    if stored["served"]:
        done = "would be served" if dry_run else "is served"
        return f"{endpoint} {done} by the pool {stored['pool']}."
    done = "would be listed" if dry_run else "is listed"
    return f"{endpoint} {done}, but not served.\n    {stored['reason']}"
