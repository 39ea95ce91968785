"""``darkroom weights``: LoRAs and fine-tunes that a tenant registers."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click

from serve_app.cli.connection import completion, options, resources
from serve_app.cli.connection.client import ApiFailure, Client, is_lost
from serve_app.cli.connection.numbers import FiniteNumber
from serve_app.cli.connection.progress_line import ProgressLine
from serve_app.cli.connection.server import Server
from serve_app.cli.connection.text import echo, size_text
from serve_app.cli.group import interrupted_status
from serve_app.domain.errors import DarkroomError, InvalidInput, Misconfigured
from serve_app.resources.weights import WEIGHTS

POLL_S = 0.5
FINAL = ("ready", "refused")


weights_group = resources.plain_group(
    WEIGHTS, about="Register LoRAs and fine-tunes of your own, and serve them."
)


_name = click.argument("name")


@weights_group.command("add")
@options.server
@_name
@click.argument("source")
@click.option(
    "--base",
    required=True,
    metavar="ENDPOINT",
    shell_complete=completion.endpoints,
    help="Endpoint whose model they are for.",
)
@click.option(
    "--kind",
    type=click.Choice(["lora", "finetune"]),
    help="Kind of weights. Default: by the files.",
)
@click.option(
    "--endpoint", metavar="NAME", help="Serve them as the private endpoint TENANT/NAME too."
)
@click.option(
    "--scale", type=FiniteNumber(), help="Strength of a LoRA in its endpoint. Default: 1."
)
@click.option("--no-wait", is_flag=True, help="Do not wait for the check.")
@options.as_json
def add_command(
    server: Server, name: str, source: str, *, no_wait: bool, as_json: bool, **params: Any
) -> None:
    """Register the weights of SOURCE as NAME.

    SOURCE is a safetensors file, a folder of a diffusers pipeline, an https URL, or a repository of
    the hub: owner/name or owner/name/file.safetensors, with @revision. They are checked against the
    base before they are accepted.
    """
    fields = {"name": name} | {key: value for key, value in params.items() if value is not None}
    files = _files_of(source)
    size = sum(path.stat().st_size for path in files.values())
    doing = f"Uploading {size_text(size)}" if files else f"Registering {name}"
    with ProgressLine(doing, quiet=as_json) as waiting, Client(server) as client:
        if files:
            _check(client, fields, size)
        uploads: list[str] = []
        answer = _upload_and_register(client, fields, source, files, uploads)
        if not no_wait:
            answer = _wait_for_check(client, name, answer, waiting)
        if answer["state"] in FINAL:  # they are stored, or of no use
            _delete(client, uploads)
    resources.echo_one(WEIGHTS, answer, as_json=as_json)
    if answer["state"] == "refused":
        sys.exit(1)


@weights_group.command("publish")
@options.server
@_name
@options.tenant
@click.option("--undo", is_flag=True, help="Let only their tenant use them again.")
@options.as_json
def publish_command(
    server: Server, name: str, tenant: str | None, *, undo: bool, as_json: bool
) -> None:
    """Let all tenants use weights. Needs the scope operator."""
    with Client(server) as client:
        answer = client.put(
            f"{resources.path_of(WEIGHTS, name)}/public", {"public": not undo}, tenant=tenant
        )
    path = f"weights:{answer['tenant']}/{answer['name']}"
    who = "Only its tenant may use it." if undo else f"All tenants may use it as {path}."
    echo(json.dumps(answer) if as_json else who)


def _files_of(source: str) -> Mapping[str, Path]:
    """Files of this machine, by their path below ``source``; "" for ``source`` itself. None if
    ``source`` is of another machine."""
    path = Path(source)
    if path.is_file():
        return {"": path}
    if not path.is_dir():
        return {}
    paths = sorted(path.rglob("*.safetensors"))
    if not paths:
        raise Misconfigured(f"{path} has no safetensors. Pickle files are never loaded.")
    return {file.relative_to(path).as_posix(): file for file in paths}


def _check(client: Client, fields: Mapping[str, Any], size: int) -> None:
    """Raise ``InvalidInput`` for weights that the server would refuse after an upload of so many
    bytes, as far as that is known before."""
    name, base = fields["name"], fields["base"]
    models = client.get("/v1/models", endpoint_id=base)["models"]
    if not models:
        raise InvalidInput(f"There is no endpoint {base}. `darkroom models --all` lists them.")
    if not models[0]["darkroom"]["weights"]["source"]:
        raise InvalidInput(
            f"{base} has no weights of its own, so nothing can be compared with them. Name another "
            "--base."
        )
    page = client.get(WEIGHTS.path)
    for entry in page["weights"]:
        if entry["path"] != f"weights:{entry['name']}":  # of another tenant
            continue
        if entry["name"] == name and entry["state"] != "refused":
            raise InvalidInput(
                f"You have weights `{name}` already. Choose another name, or delete them with "
                f"`darkroom weights delete {name}`."
            )
        endpoint = entry["endpoint"] or ""
        if entry["name"] != name and endpoint.partition("/")[2] == fields.get("endpoint"):
            raise InvalidInput(
                f"Your weights `{entry['name']}` have the endpoint {endpoint}. Choose another "
                "--endpoint."
            )
    left = max(0, page["max_bytes"] - page["used_bytes"])
    if size > left:
        raise InvalidInput(
            f"The files have {size_text(size)}, but your weights may take only {size_text(left)} "
            f"more of {size_text(page['max_bytes'])}. `darkroom weights delete NAME` makes room."
        )


def _upload_and_register(
    client: Client,
    fields: Mapping[str, Any],
    source: str,
    files: Mapping[str, Path],
    uploads: list[str],
) -> dict[str, Any]:
    """Upload the files, register the weights, and return the answer. ``uploads`` gets the URLs of
    the files. If that fails or is stopped, they are deleted."""
    try:
        urls: dict[str, str] = {}
        for place, path in files.items():
            urls[place] = client.upload(path)
            uploads.append(urls[place])
        if not urls:
            source_fields: dict[str, Any] = {"source": source}
        else:
            source_fields = {"source": urls[""]} if "" in urls else {"files": urls}
        return dict(_post(client, {**fields, **source_fields}))
    except _Unknown:
        raise
    except (DarkroomError, KeyboardInterrupt):
        _delete(client, uploads)
        raise


class _Unknown(ApiFailure):
    """The answer was lost, so the weights may have been registered: their check needs the files."""


def _post(client: Client, body: dict[str, Any]) -> Any:
    try:
        return client.post(WEIGHTS.path, body)
    except DarkroomError as error:
        if is_lost(error):
            raise _Unknown(
                f"{error.message}\n`darkroom weights show {body['name']}` shows whether the "
                "weights were registered all the same."
            ) from None
        raise


def _wait_for_check(
    client: Client, name: str, answer: dict[str, Any], waiting: ProgressLine
) -> dict[str, Any]:
    """Weights after their check. Ctrl-C ends the command, and not the check."""
    try:
        while answer["state"] not in FINAL:
            waiting.show(f"Checking {name}: {answer['state']}")
            time.sleep(POLL_S)
            answer = client.poll(resources.path_of(WEIGHTS, name))
    except KeyboardInterrupt as interrupt:
        echo(
            f"\nThe check of {name} goes on. `darkroom weights show {name}` shows it. It needs the "
            "uploaded files, so they stay.",
            err=True,
        )
        sys.exit(interrupted_status(interrupt))
    return answer


def _delete(client: Client, uploads: Sequence[str]) -> None:
    for url in uploads:
        try:
            client.delete(f"/v1/uploads/{urlsplit(url).path.removeprefix('/files/')}")
        except DarkroomError as error:
            echo(f"{url} could not be deleted: {error.message}", err=True)
