"""``darkroom login``, ``logout`` and ``contexts``: saved addresses and keys of installations."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click

from serve_app.cli.connection import options
from serve_app.cli.connection.client import Client
from serve_app.cli.connection.contexts import contexts_file, read_contexts, write_contexts
from serve_app.cli.connection.remote import Remote, origin
from serve_app.cli.connection.text import echo
from serve_app.cli.group import InheritingGroup
from serve_app.domain.errors import DarkroomError, NotFound

SLOWER_S = 5.0
"""How much longer to wait when the provider asks for it (RFC 8628)."""


def _names(_context: Any, _parameter: Any, typed: str) -> list[str]:
    return [name for name in sorted(read_contexts().named) if name.startswith(typed)]


@click.command("login")
@click.argument("url")
@click.option(
    "--name", metavar="NAME", default=None, help="Name of the context. Default: the host's."
)
@click.option(
    "--key",
    metavar="KEY",
    default=None,
    help="API key. Default: asked for, or read from standard input.",
)
@click.option(
    "--sign-in",
    "signs_in",
    is_flag=True,
    help="Sign in at the installation's provider, in a browser on any machine. The key ends with "
    "the sign-in.",
)
@click.option(
    "--ca-file",
    type=click.Path(path_type=Path, exists=True, dir_okay=False, resolve_path=True),
    default=None,
    help="PEM file with the authority of the server's certificate. Default: this machine's.",
)
def login_command(
    url: str, name: str | None, key: str | None, ca_file: Path | None, *, signs_in: bool
) -> None:
    """Save the Darkroom at URL with a key, and use it in all commands.

    The key is checked first. `darkroom contexts use` switches between saved ones.
    """
    if signs_in and key is not None:
        raise click.UsageError("Use --key or --sign-in, not both.")
    address = origin(url)
    authority = None if ca_file is None else str(ca_file)
    secret = (
        signed_in(Remote(address, "", authority), time.sleep) if signs_in else key or _asked_key()
    )
    remote = Remote(address, secret, authority, signed_in=signs_in)
    if remote.readable_on_the_way:
        echo(
            f"Everyone on the network can read the key on its way to {address}: it is not HTTPS.",
            err=True,
        )
    with Client(remote) as client:
        client.readiness()  # a sentence if this is no Darkroom
        client.get("/v1/models", limit=1)  # refused without a valid key
    name = name or urlsplit(address).hostname or address
    write_contexts(read_contexts().with_context(name, remote))
    echo(f"Saved as {name} in {contexts_file()}. All commands use {address} now.")


@click.command("logout")
@click.argument("name", required=False, shell_complete=_names)
def logout_command(name: str | None) -> None:
    """Delete the saved context NAME. Default: the current one.

    A key of `darkroom login --sign-in` is revoked. Any other key stays valid.
    """
    contexts = read_contexts()
    chosen = name or contexts.current
    if not chosen:
        raise NotFound("No context is in use. `darkroom contexts` lists the saved ones.")
    remote = contexts.of(chosen)
    write_contexts(contexts.without(chosen))
    echo(f"Deleted the context {chosen}.")
    if remote.signed_in:
        _end_sign_in(remote)


def signed_in(remote: Remote, sleep: Callable[[float], None]) -> str:
    """Key of the person who signs in, in a browser on any machine. ``ApiFailure``: people cannot
    sign in there, or the person did not."""
    with Client(remote) as client:
        begun = client.post("/v1/sign-in/device", {})
        echo(f"Open {begun['url']} in a browser, and enter the code {begun['user_code']}")
        if begun["url_with_code"]:
            echo(f"or open {begun['url_with_code']}, and compare the code.")
        pause_s = float(begun["ask_every_s"])
        while True:
            sleep(pause_s)
            answer = client.post("/v1/sign-in/device/finish", {"device_code": begun["device_code"]})
            if "key" in answer:
                break
            pause_s += SLOWER_S if answer["slower"] else 0.0
    echo(f"You are {answer['person']}, until {answer['expires_at'][:16]} (UTC).")
    return str(answer["key"])


def _end_sign_in(remote: Remote) -> None:
    """Revoke the key of a person. The context is deleted already, whatever the server says."""
    try:
        with Client(remote) as client:
            client.delete("/v1/sign-in")
        echo("Its key is revoked.")
    except DarkroomError as error:
        echo(f"Its key could not be revoked ({error.message}). It ends with the sign-in.", err=True)


@click.group("contexts", cls=InheritingGroup, invoke_without_command=True)
@options.as_json
@click.pass_context
def contexts_group(context: click.Context, *, as_json: bool) -> None:
    """List the saved contexts. An asterisk marks the current one."""
    if context.invoked_subcommand is not None:
        return
    contexts = read_contexts()
    if as_json:
        rows = [
            {"name": name, "url": remote.address, "current": name == contexts.current}
            for name, remote in contexts.named.items()
        ]
        echo(json.dumps({"contexts": rows}, indent=2))
        return
    for name, remote in sorted(contexts.named.items()):
        echo(f"{'*' if name == contexts.current else ' '} {name:<24} {remote.address}")
    if not contexts.current:
        echo("Commands use the Darkroom of this machine.")


@contexts_group.command("use")
@click.argument("name", required=False, shell_complete=_names)
@click.option("--local", is_flag=True, help="Use the Darkroom of this machine.")
def use_command(name: str | None, *, local: bool) -> None:
    """Use the context NAME, or this machine's Darkroom with --local, in all commands."""
    if local == (name is not None):
        raise click.UsageError("Name a context, or use --local.")
    write_contexts(read_contexts().with_current(name or ""))
    echo(f"All commands use {name or 'the Darkroom of this machine'} now.")


def _asked_key() -> str:
    if sys.stdin.isatty():
        return click.prompt("API key", hide_input=True).strip()
    key = sys.stdin.readline().strip()
    if not key:
        raise click.UsageError("There is no key. Use --key, or pass it on standard input.")
    return key
