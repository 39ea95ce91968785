"""``darkroom files``: signed URLs of private files."""

from __future__ import annotations

import json

import click

from serve_app.cli.connection import options
from serve_app.cli.connection.client import Client
from serve_app.cli.connection.command_group import CommandGroup
from serve_app.cli.connection.server import Server
from serve_app.cli.connection.text import echo

_url = click.argument("url")


@click.group("files", cls=CommandGroup)
def files_group() -> None:
    """Share private files by signed URLs, and revoke them."""


@files_group.command("sign")
@options.server
@_url
@options.expires_in
@options.as_json
def sign_command(server: Server, url: str, expires_in_s: float | None, *, as_json: bool) -> None:
    """Print a new URL with which anyone can read the private file at URL."""
    body = {"path": url, "expires_in": expires_in_s}
    with Client(server) as client:
        answer = client.post("/v1/files/sign", body)
    echo(json.dumps(answer) if as_json else answer["url"])


@files_group.command("revoke")
@options.server
@_url
@click.option("--all", "every", is_flag=True, help="Revoke all URLs of the file.")
@options.as_json
def revoke_command(server: Server, url: str, *, every: bool, as_json: bool) -> None:
    """Revoke a signed URL, within five seconds. The file stays."""
    with Client(server) as client:
        answer = client.post("/v1/files/revoke", {"path" if every else "url": url})
    text = "All URLs of the file are revoked." if every else "The URL is revoked."
    echo(json.dumps(answer) if as_json else text)
