"""``darkroom keys``: API keys."""

from __future__ import annotations

import getpass
import json
import os
import platform
import sys
from typing import Any

import click

from serve_app.cli.connection import completion, options, resources
from serve_app.cli.connection.client import Client
from serve_app.cli.connection.one_time_link import network_lines, offer_link
from serve_app.cli.connection.remote import Remote
from serve_app.cli.connection.remote import origin as origin_of
from serve_app.cli.connection.server import Server
from serve_app.cli.connection.text import echo
from serve_app.cli.connection.times import Duration
from serve_app.resources.keys import KEYS
from serve_app.tenants.scopes import API, SCOPES

DAY_S = 86_400.0
MINUTE_S = 60.0
MOST_CHARACTERS = 200  # of a name, for the server


def own_name() -> str:
    """Name of a key that has none: who made it, and where, as in keys of SSH."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        user = f"user-{os.getuid()}"
    return f"{user}@{platform.node()}"[:MOST_CHARACTERS]


keys_group = resources.plain_group(
    KEYS, about="Create, list, rotate and revoke API keys, and sign browsers in."
)


@keys_group.command("create")
@options.server
@click.argument("name", default=own_name)
@options.tenant
@click.option(
    "--scope",
    "scopes",
    type=click.Choice(SCOPES),
    multiple=True,
    default=(API,),
    show_default=True,
    help="Scope of the key. May be repeated.",
)
@click.option(
    "--endpoint",
    "endpoints",
    metavar="ENDPOINT",
    multiple=True,
    shell_complete=completion.endpoints,
    help="Endpoint that the key may use, such as 'fal-ai/flux/*'. May be repeated. Default: all.",
)
@options.expires_in
@click.option(
    "--replay-undelivered",
    is_flag=True,
    help="If the response to a submit is lost, the client's retry gets the same request, which is "
    "billed once.",
)
@options.as_json
def create(
    server: Server,
    name: str,
    tenant: str | None,
    scopes: tuple[str, ...],
    endpoints: tuple[str, ...],
    expires_in_s: float | None,
    **flags: bool,
) -> None:
    """Create a key called NAME and print it. It cannot be shown again.

    Default of NAME: your user and this machine, such as ann@lab. A tenant that does not exist is
    created.
    """
    wish: dict[str, Any] = {"alias": name, "scopes": list(scopes)}
    if tenant is not None:
        wish["tenant"] = tenant
    if endpoints:
        wish["endpoints"] = list(endpoints)
    if expires_in_s is not None:
        wish["expires_in_s"] = expires_in_s
    if flags["replay_undelivered"]:
        wish["replay_undelivered"] = True
    with Client(server) as client:
        answer = client.post(KEYS.path, wish)
    _show_secret(answer, as_json=flags["as_json"])


@keys_group.command("rotate")
@options.server
@click.argument("key_id")
@click.option(
    "--overlap",
    "overlap_s",
    type=Duration(),
    default="1d",
    show_default=True,
    help="Time for which the old key still works, such as 1h.",
)
@options.as_json
def rotate(server: Server, key_id: str, overlap_s: float, *, as_json: bool) -> None:
    """Replace a key by one with the same rights, and print the new one."""
    with Client(server) as client:
        answer = client.post(f"{resources.path_of(KEYS, key_id)}/rotate", {"overlap_s": overlap_s})
    _show_secret(answer, as_json=as_json)


@keys_group.command("link")
@options.server
@click.option(
    "--expires-in",
    "valid_s",
    type=Duration(),
    default="12h",
    show_default=True,
    help="Time until it expires, such as 10m.",
)
@click.option(
    "--at",
    "origin",
    metavar="URL",
    default=None,
    help="Address at which the browser reaches Darkroom. Default: that of this command.",
)
@options.as_json
def link(server: Server, valid_s: float, origin: str | None, *, as_json: bool) -> None:
    """Print a link that signs a browser in, once.

    The browser gets a key of its own, with the rights of the key that this command uses.
    """
    if not MINUTE_S <= valid_s <= 7 * DAY_S:
        raise click.UsageError("--expires-in takes a time from 1m to 7d.")
    at = origin_of(origin or server.url())
    with Client(server) as client:
        answer = offer_link(client, valid_s=valid_s)
    url = f"{at}{answer['path']}"
    if as_json:
        echo(json.dumps({"url": url, "expires_at": answer["expires_at"]}))
    elif sys.stdout.isatty() and not Remote(at, "").is_this_machine:
        for line in network_lines(url):
            echo(line)
    else:
        echo(url)


def _show_secret(created: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        echo(json.dumps(created))
        return
    # Standard output contains only the key, so that it can be piped.
    echo(created["key"])
    echo("Save this key now: only its digest is stored, so it cannot be shown again.", err=True)
