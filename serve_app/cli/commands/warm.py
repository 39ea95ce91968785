"""``darkroom warm``: keep the weights of endpoints loaded."""

from __future__ import annotations

from typing import Any

import click

from serve_app.cli.connection import options, resources
from serve_app.cli.connection.client import Client
from serve_app.cli.connection.server import Server
from serve_app.cli.connection.times import Duration
from serve_app.resources.warm_targets import WARM_TARGETS

warm_group = resources.plain_group(
    WARM_TARGETS, "warm", "Keep the weights of endpoints loaded, so that requests do not wait."
)


@warm_group.command("set")
@options.server
@resources.key_of(WARM_TARGETS)
@click.option(
    "--replicas",
    type=click.IntRange(1, 10_000),
    metavar="NUMBER",
    default=1,
    show_default=True,
    help="Number of replicas that keep them loaded.",
)
@click.option(
    "--level",
    type=click.Choice(["hot", "host", "disk"]),
    default="hot",
    show_default=True,
    help="Where replicas hold the weights: on the GPU, in host memory, or on disk.",
)
@click.option(
    "--for",
    "for_s",
    type=Duration(),
    help="How long, such as 30m or 8h. Default: until `darkroom warm delete`.",
)
@options.as_json
def set_command(server: Server, *, as_json: bool, **wish: Any) -> None:
    """Keep the weights of an endpoint loaded."""
    with Client(server) as client:
        row = client.post(WARM_TARGETS.path, wish)
    resources.echo_one(WARM_TARGETS, row, as_json=as_json)
