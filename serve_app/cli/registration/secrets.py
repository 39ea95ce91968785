"""``darkroom secrets``: values that endpoints use by name."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Any

import click

from serve_app.cli.connection import options, resources
from serve_app.cli.connection.client import Client
from serve_app.cli.connection.server import Server
from serve_app.cli.connection.text import echo, standard_input
from serve_app.domain.errors import Misconfigured
from serve_app.resources.secrets import SECRETS

secrets_group = resources.plain_group(
    SECRETS, about="Set, list and delete secrets: keys and tokens that endpoints use by name."
)


@secrets_group.command("set")
@options.server
@click.argument("name")
@resources.owners(SECRETS)
@options.as_json
def set_command(server: Server, name: str, *, owner: Mapping[str, Any], as_json: bool) -> None:
    """Set or replace the secret NAME, such as FAL_KEY.

    The value is read from standard input, or asked for. It is stored encrypted and never shown.
    Apps get secrets of the installation only.
    """
    if sys.stdin.isatty():
        value = click.prompt(f"Value of {name}", hide_input=True)
    else:
        value = standard_input().removesuffix("\n").removesuffix("\r")
    if not value:
        raise Misconfigured(f"The value of {name} is empty. Send it to standard input.")
    with Client(server) as client:
        answer = client.put(resources.path_of(SECRETS, name), {"value": value}, **owner)
    echo(json.dumps(answer) if as_json else f"The secret {name} is set.")
