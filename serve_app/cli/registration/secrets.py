"""``darkroom secrets``: values that endpoints use by name."""

from __future__ import annotations

import json
import sys
from typing import Any
from urllib.parse import quote

import click

from serve_app.cli.connection import options
from serve_app.cli.connection.client import Client
from serve_app.cli.connection.server import Server
from serve_app.cli.connection.text import standard_input
from serve_app.domain.errors import Misconfigured

SECRETS = "/v1/secrets"


@click.group("secrets")
def secrets_group() -> None:
    """Keep keys and tokens that endpoints use by name."""


_name = click.argument("name")
_tenant = click.option("--tenant", help="Whose secrets. Default: the key's tenant.")
_installation = click.option(
    "--installation", is_flag=True, help="Secrets for all tenants. Needs the scope operator."
)


@secrets_group.command("set")
@options.server
@_name
@_tenant
@_installation
@options.as_json
def set_command(
    server: Server, name: str, *, tenant: str | None, installation: bool, as_json: bool
) -> None:
    """Set or replace the secret NAME, such as FAL_KEY.

    The value is read from standard input, or asked for. It is stored encrypted and never shown.
    Apps get secrets of the installation only.
    """
    if sys.stdin.isatty():
        value = str(click.prompt(f"Value of {name}", hide_input=True))
    else:
        value = standard_input().removesuffix("\n").removesuffix("\r")
    if not value:
        raise Misconfigured(f"The value of {name} is empty. Send it to standard input.")
    with Client(server) as client:
        owner = _owner(tenant, installation=installation)
        answer = client.put(_path(name), {"value": value}, **owner)
    click.echo(json.dumps(answer) if as_json else f"{name} is set for {_whose(answer)}.")


@secrets_group.command("list")
@options.server
@_tenant
@_installation
@options.as_json
def list_command(server: Server, *, tenant: str | None, installation: bool, as_json: bool) -> None:
    """List secrets, without their values."""
    with Client(server) as client:
        answer = client.get(SECRETS, **_owner(tenant, installation=installation))
    if as_json:
        click.echo(json.dumps(answer))
        return
    for each in answer["secrets"]:
        click.echo(f"{each['name']}  {each['changed_at']}  by {each['changed_by']}")
    if not answer["secrets"]:
        click.echo(f"No secrets are set for {_whose(answer)}.")


@secrets_group.command("remove")
@options.server
@_name
@_tenant
@_installation
@options.as_json
def remove_command(
    server: Server, name: str, *, tenant: str | None, installation: bool, as_json: bool
) -> None:
    """Remove a secret. Endpoints that need it fail from then on."""
    with Client(server) as client:
        answer = client.delete(_path(name), **_owner(tenant, installation=installation))
    click.echo(json.dumps(answer) if as_json else f"{name} is removed from {_whose(answer)}.")


def _path(name: str) -> str:
    return f"{SECRETS}/{quote(name, safe='')}"


def _owner(tenant: str | None, *, installation: bool) -> dict[str, Any]:
    if installation and tenant is not None:
        raise Misconfigured("Use either --tenant or --installation.")
    return {"tenant": tenant, "installation": "true" if installation else None}


def _whose(answer: dict[str, Any]) -> str:
    return answer["tenant"] or "the installation"
