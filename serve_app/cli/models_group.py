"""``darkroom models``: the endpoints and their weights."""

from __future__ import annotations

import sys

import click

from serve_app.cli import completion, models, models_pull, models_store, options
from serve_app.cli.installation import Installation
from serve_app.settings import Config

_endpoints = click.argument("endpoints", nargs=-1, shell_complete=completion.endpoints)


@click.group("models", invoke_without_command=True)
@options.installation
@options.as_json
@click.pass_context
def models_group(context: click.Context, installation: Installation, *, as_json: bool) -> None:
    """List the endpoints, their weights, and the recipe that fits this machine."""
    if context.invoked_subcommand is None:
        models.run(installation, as_json=as_json)


@models_group.command("pull")
@options.config
@_endpoints
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@options.as_json
def pull_command(config: Config, endpoints: tuple[str, ...], *, yes: bool, as_json: bool) -> None:
    """Download the weights of ENDPOINTS, or of all that are served, to this machine.

    Says first what that is: size, licence, free disk, the recipe that fits. Needs no running
    Darkroom.
    """
    sys.exit(models_pull.run(config, endpoints, yes=yes, as_json=as_json))


@models_group.command("verify")
@options.config
@options.as_json
def verify_command(config: Config, *, as_json: bool) -> None:
    """Read all downloaded weights again and compare their digests.

    Damaged files are thrown away. The exit status is their number.
    """
    sys.exit(models_store.verify(config, as_json=as_json))


@models_group.command("push-mirror")
@options.config
@_endpoints
@options.as_json
def push_mirror_command(config: Config, endpoints: tuple[str, ...], *, as_json: bool) -> None:
    """Bring the weights of ENDPOINTS, or of all that are served, from here to the mirror."""
    sys.exit(models_store.push_mirror(config, endpoints, as_json=as_json))
