"""``darkroom files``: signed URLs of private files."""

from __future__ import annotations

import json
from datetime import timedelta

import click

from serve_app.cli.connection import options
from serve_app.cli.connection.client import Client
from serve_app.cli.connection.server import Server
from serve_app.cli.connection.text import echo
from serve_app.cli.group import CommandGroup

UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}

_url = click.argument("url")


@click.group("files", cls=CommandGroup)
def files_group() -> None:
    """Share private files by signed URLs, and revoke them."""


@files_group.command("sign")
@options.server
@_url
@click.option(
    "--expires-in",
    metavar="TIME",
    help="For example 90s, 15m, 2h or 30d. Default: as long as the file exists.",
)
@options.as_json
def sign_command(server: Server, url: str, expires_in: str | None, *, as_json: bool) -> None:
    """Print a new URL with which anyone reads the private file at URL."""
    body = {"path": url, "expires_in": None if expires_in is None else seconds(expires_in)}
    with Client(server) as client:
        answer = client.post("/v1/files/sign", body)
    echo(json.dumps(answer) if as_json else answer["url"])


@files_group.command("revoke")
@options.server
@_url
@click.option("--all", "every", is_flag=True, help="Revoke all URLs of the file.")
@options.as_json
def revoke_command(server: Server, url: str, *, every: bool, as_json: bool) -> None:
    """Revoke the signed URL, within five seconds. The file stays."""
    with Client(server) as client:
        answer = client.post("/v1/files/revoke", {"path" if every else "url": url})
    text = "All URLs of the file are revoked." if every else "The URL is revoked."
    echo(json.dumps(answer) if as_json else text)


def seconds(given: str) -> float:
    """Seconds of a time such as ``15m``."""
    number, unit = (given, "s") if given[-1:].isdecimal() else (given[:-1], given[-1:])
    try:
        return timedelta(**{UNITS[unit]: float(number)}).total_seconds()
    except (KeyError, ValueError, OverflowError):
        raise click.BadParameter(
            "give a number and s, m, h or d, for example 15m", param_hint="--expires-in"
        ) from None
