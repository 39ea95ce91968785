"""``darkroom warm``: keep the weights of endpoints loaded."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import click

from serve_app.cli.connection import options, resources
from serve_app.cli.connection.client import Client
from serve_app.cli.connection.server import Server
from serve_app.resources.warm_targets import WARM_TARGETS

UNITS_S: Mapping[str, int] = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_DURATION = re.compile(rf"(\d+(?:\.\d+)?)([{''.join(UNITS_S)}])")


class Duration(click.ParamType[float]):
    """Seconds of a text such as ``30m``."""

    name = "duration"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        if isinstance(value, float):
            return value
        found = _DURATION.fullmatch(value)
        if found is None:
            self.fail(f"{value} should be a number with s, m, h or d, such as 30m", param, ctx)
        return float(found[1]) * UNITS_S[found[2]]


warm_group = resources.plain_group(
    WARM_TARGETS, "warm", "Keep the weights of endpoints loaded, so that requests do not wait."
)


@warm_group.command("set")
@options.server
@resources.key_of(WARM_TARGETS)
@click.option("--replicas", type=click.IntRange(1, 10_000), default=1, show_default=True)
@click.option(
    "--level",
    type=click.Choice(["hot", "host", "disk"]),
    default="hot",
    show_default=True,
    help="Where replicas hold the weights: on the GPU, in host memory, or on disk.",
)
@click.option("--for", "for_s", type=Duration(), help="Time such as 30m or 8h. Default: no end.")
@options.as_json
def set_command(server: Server, *, as_json: bool, **wish: Any) -> None:
    """Keep the weights of an endpoint loaded."""
    with Client(server) as client:
        row = client.post(WARM_TARGETS.path, wish)
    resources.echo_one(WARM_TARGETS, row, as_json=as_json)
