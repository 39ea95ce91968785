"""``darkroom undeploy``, and the endpoints of an app that are stored."""

from __future__ import annotations

import json

import click

from serve_app.cli.connection import options
from serve_app.cli.connection.client import ApiFailure, Client
from serve_app.cli.connection.resources import path_of
from serve_app.cli.connection.server import Server
from serve_app.cli.connection.text import echo
from serve_app.domain.errors import Misconfigured
from serve_app.domain.executors.deployable import base_id
from serve_app.domain.executors.kinds import facts_of, option_of
from serve_app.resources.entries import ENTRIES


@click.command("undeploy")
@options.server
@click.argument("name")
@options.force
@options.as_json
def undeploy_command(server: Server, name: str, *, force: bool, as_json: bool) -> None:
    """Delete all endpoints that `darkroom deploy` has stored as NAME.

    NAME is that of an app, a Cog model or a ComfyUI workflow, such as apps/greeter.
    """
    with Client(server) as client:
        base = base_id(name)
        endpoints = endpoints_of(client, base)
        if not endpoints:
            raise Misconfigured(f"There is no app {name}. `darkroom models` lists the endpoints.")
        for endpoint in endpoints:
            client.delete(path_of(ENTRIES, endpoint), **({"force": "true"} if force else {}))
            if not as_json:
                echo(f"{endpoint} is deleted.")
    if as_json:
        echo(json.dumps({"deleted": endpoints}))


def endpoints_of(client: Client, base: str, *families: str) -> list[str]:
    """Ids of the endpoints that `darkroom deploy` has stored as ``base``. ``families``: only
    theirs. What is stored as another name may have an id that begins with it."""
    endpoints: list[str] = []
    for row in client.get(ENTRIES.path)["entries"]:
        family, options = row["entry"]["family"], row["entry"].get("options", {})
        suffix = facts_of(family).suffix(option_of(family, options))
        is_chosen = not families or family in families
        if is_chosen and suffix is not None and row["endpoint_id"] == base + suffix:
            endpoints.append(row["endpoint_id"])
    return endpoints


def delete_endpoint(client: Client, endpoint: str) -> bool:
    """Delete an endpoint. False: it has unfinished requests, which is said."""
    try:
        client.delete(path_of(ENTRIES, endpoint))
    except ApiFailure as failure:
        echo(
            f"{endpoint} is still served, although the class no longer has it: {failure.message}",
            err=True,
        )
        return False
    return True
