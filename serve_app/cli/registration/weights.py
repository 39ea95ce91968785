"""``darkroom weights``: LoRAs and fine-tunes that a tenant registers."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import click

from serve_app.cli.connection import options
from serve_app.cli.connection.client import Client
from serve_app.cli.connection.server import Server
from serve_app.domain.errors import Misconfigured

WEIGHTS = "/v1/weights"
POLL_S = 0.5
FINAL = ("ready", "refused")


@click.group("weights")
def weights_group() -> None:
    """Register LoRAs and fine-tunes of your own, and serve them."""


_name = click.argument("name")


@weights_group.command("add")
@options.server
@_name
@click.argument("source")
@click.option(
    "--base", required=True, metavar="ENDPOINT", help="Endpoint whose model they are for."
)
@click.option("--kind", type=click.Choice(["lora", "finetune"]), help="Default: by the files.")
@click.option(
    "--endpoint", metavar="NAME", help="Serve them by the private endpoint TENANT/NAME too."
)
@click.option("--scale", type=float, help="Strength of a LoRA in its endpoint. Default: 1.")
@click.option("--no-wait", is_flag=True, help="Do not wait for the check.")
@options.as_json
def add_command(
    server: Server, name: str, source: str, *, no_wait: bool, as_json: bool, **given: Any
) -> None:
    """Register the weights of SOURCE as NAME.

    SOURCE is a safetensors file, a folder of a diffusers pipeline, an https URL, or a repository of
    the hub: owner/name or owner/name/file.safetensors, with @revision. They are checked against the
    base before they are accepted.
    """
    with Client(server) as client:
        uploads: list[str] = []
        body = {"name": name, **_source(client, source, uploads)}
        body |= {key: value for key, value in given.items() if value is not None}
        answer = client.post(WEIGHTS, body)
        while not no_wait and answer["state"] not in FINAL:
            time.sleep(POLL_S)
            answer = client.poll(_path(name))
        for url in uploads if answer["state"] in FINAL else ():  # they are stored, or of no use
            client.delete(f"/v1/uploads/{urlsplit(url).path.removeprefix('/files/')}")
    click.echo(json.dumps(answer) if as_json else described(answer))
    if answer["state"] == "refused":
        sys.exit(1)


@weights_group.command("list")
@options.server
@click.option("--tenant", help="Another tenant; needs the scope operator.")
@options.as_json
def list_command(server: Server, tenant: str | None, *, as_json: bool) -> None:
    """List registered weights, and those that were published."""
    with Client(server) as client:
        answer = client.get(WEIGHTS, tenant=tenant)
    if as_json:
        click.echo(json.dumps(answer))
        return
    for each in answer["weights"]:
        click.echo(described(each))
    click.echo(f"{answer['used_bytes']} of {answer['max_bytes']} bytes are used.")


@weights_group.command("show")
@options.server
@_name
@options.as_json
def show_command(server: Server, name: str, *, as_json: bool) -> None:
    """Show weights with their files."""
    with Client(server) as client:
        answer = client.get(_path(name))
    if as_json:
        click.echo(json.dumps(answer))
        return
    click.echo(described(answer))
    for each in answer["files"]:
        click.echo(f"    {each['sha256']}  {each['size']:>12}  {each['path']}")


@weights_group.command("remove")
@options.server
@_name
@click.option(
    "--force",
    is_flag=True,
    help="Also while their endpoint has queued or running requests. Queued ones then fail.",
)
@options.as_json
def remove_command(server: Server, name: str, *, force: bool, as_json: bool) -> None:
    """Remove weights, and their private endpoint."""
    with Client(server) as client:
        answer = client.delete(_path(name), force="true" if force else None)
    click.echo(json.dumps(answer) if as_json else f"{name} is removed.")


@weights_group.command("publish")
@options.server
@_name
@click.option("--tenant", help="Whose weights. Default: the key's tenant.")
@click.option("--undo", is_flag=True, help="Only their tenant may use them again.")
@options.as_json
def publish_command(
    server: Server, name: str, tenant: str | None, *, undo: bool, as_json: bool
) -> None:
    """Let all tenants use weights. Needs the scope operator."""
    with Client(server) as client:
        answer = client.put(f"{_path(name)}/public", {"public": not undo}, tenant=tenant)
    path = f"weights:{answer['tenant']}/{answer['name']}"
    who = "Only its tenant may use it." if undo else f"All tenants may use it as {path}."
    click.echo(json.dumps(answer) if as_json else who)


@weights_group.command("hub-token")
@options.server
@click.option("--tenant", required=True, help="Whose token.")
@click.option("--remove", is_flag=True, help="Remove it.")
@options.as_json
def hub_token_command(server: Server, tenant: str, *, remove: bool, as_json: bool) -> None:
    """Set the token of the hub that a tenant's weights are fetched with.

    The token is read from standard input. It is stored encrypted and never shown.
    """
    path = f"/v1/tenants/{quote(tenant, safe='')}/hub-token"
    with Client(server) as client:
        if remove:
            answer = client.delete(path)
        else:
            answer = client.put(path, {"token": sys.stdin.read().strip()})
    done = "is set" if answer["own"] else "is removed"
    click.echo(json.dumps(answer) if as_json else f"The hub token of {tenant} {done}.")


def described(weights: Mapping[str, Any]) -> str:
    """One line about weights."""
    parts = [weights["path"], weights["state"], weights["kind"] or "", weights["base"]]
    if weights["endpoint"]:
        parts.append(f"endpoint {weights['endpoint']}")
    if weights["public"]:
        parts.append("published")
    line = "  ".join(part for part in parts if part)
    return f"{line}\n    {weights['problem']}" if weights["problem"] else line


def _source(client: Client, source: str, uploads: list[str]) -> dict[str, Any]:
    """Source of the call. Files of this machine are uploaded, and their URLs added to
    ``uploads``."""

    def upload(file: Path) -> str:
        uploads.append(client.upload(file))
        return uploads[-1]

    path = Path(source)
    if path.is_dir():
        found = sorted(path.rglob("*.safetensors"))
        if not found:
            raise Misconfigured(f"{path} has no safetensors. Pickle files are never loaded.")
        return {"files": {each.relative_to(path).as_posix(): upload(each) for each in found}}
    if path.is_file():
        return {"source": upload(path)}
    return {"source": source}


def _path(name: str) -> str:
    return f"{WEIGHTS}/{quote(name, safe='')}"
