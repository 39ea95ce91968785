"""``darkroom login``, ``logout`` and ``contexts``: saved addresses and keys of installations."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click

from serve_app.cli.connection import options
from serve_app.cli.connection.client import Client
from serve_app.cli.connection.contexts import contexts_file, read_contexts, write_contexts
from serve_app.cli.connection.remote import Remote, origin
from serve_app.domain.errors import NotFound


def _names(_context: Any, _parameter: Any, typed: str) -> list[str]:
    return [name for name in sorted(read_contexts().named) if name.startswith(typed)]


@click.command("login")
@click.argument("url")
@click.option("--name", default=None, help="Name of the context. Default: the host name.")
@click.option(
    "--key", default=None, help="API key. Default: asked for, or read from standard input."
)
@click.option(
    "--ca-file",
    type=click.Path(path_type=Path, exists=True, dir_okay=False, resolve_path=True),
    default=None,
    help="PEM file with the authority of the server's certificate. Default: this machine's.",
)
def login_command(url: str, name: str | None, key: str | None, ca_file: Path | None) -> None:
    """Save the address and key of the Darkroom at URL, and use it in all commands from now on.

    The key is checked first. `darkroom contexts use` changes between saved ones.
    """
    address = origin(url)
    secret = key or _asked_key()
    remote = Remote(address, secret, None if ca_file is None else str(ca_file))
    if remote.readable_on_the_way:
        click.echo(
            f"Everyone on the network can read the key on its way to {address}: it is not HTTPS.",
            err=True,
        )
    with Client(remote) as client:
        client.readiness()  # a sentence if this is no Darkroom
        client.get("/v1/models", limit=1)  # refused without a valid key
    name = name or urlsplit(address).hostname or address
    write_contexts(read_contexts().saved(name, remote))
    click.echo(f"Saved as {name} in {contexts_file()}. All commands use {address} now.")


@click.command("logout")
@click.argument("name", required=False, shell_complete=_names)
def logout_command(name: str | None) -> None:
    """Delete the saved context NAME. Default: the current one. The key itself stays valid."""
    contexts = read_contexts()
    chosen = name or contexts.current
    if not chosen:
        raise NotFound("No context is in use. `darkroom contexts` lists the saved ones.")
    write_contexts(contexts.without(chosen))
    click.echo(f"Deleted the context {chosen}.")


@click.group("contexts", invoke_without_command=True)
@options.as_json
@click.pass_context
def contexts_group(context: click.Context, *, as_json: bool) -> None:
    """List the saved contexts. An asterisk marks the current one."""
    if context.invoked_subcommand is not None:
        return
    contexts = read_contexts()
    if as_json:
        found = [
            {"name": name, "url": remote.address, "current": name == contexts.current}
            for name, remote in contexts.named.items()
        ]
        click.echo(json.dumps({"contexts": found}, indent=2))
        return
    for name, remote in sorted(contexts.named.items()):
        click.echo(f"{'*' if name == contexts.current else ' '} {name:<24} {remote.address}")
    if not contexts.current:
        click.echo("Commands use the Darkroom of this machine.")


@contexts_group.command("use")
@click.argument("name", required=False, shell_complete=_names)
@click.option("--local", is_flag=True, help="Use the Darkroom of this machine again.")
def use_command(name: str | None, *, local: bool) -> None:
    """Use the saved context NAME in all commands, or with --local this machine's Darkroom."""
    if local == (name is not None):
        raise click.UsageError("Name a context, or use --local.")
    write_contexts(read_contexts().used(name or ""))
    click.echo(f"All commands use {name or 'the Darkroom of this machine'} now.")


def _asked_key() -> str:
    if sys.stdin.isatty():
        return str(click.prompt("API key", hide_input=True)).strip()
    key = sys.stdin.readline().strip()
    if not key:
        raise click.UsageError("There is no key. Use --key, or pass it on standard input.")
    return key
