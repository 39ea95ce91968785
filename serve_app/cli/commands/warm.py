"""``darkroom warm``: keep the weights of endpoints loaded."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import click

from serve_app.cli.connection import completion, options
from serve_app.cli.connection.client import Client
from serve_app.cli.connection.resources import path_of
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


@click.command("warm")
@options.server
@click.argument("endpoint", required=False, shell_complete=completion.endpoints)
@click.option("--replicas", type=click.IntRange(1, 10_000), default=1, show_default=True)
@click.option(
    "--level",
    type=click.Choice(["hot", "host", "disk"]),
    default="hot",
    show_default=True,
    help="Where replicas hold the weights: on the GPU, in host memory, or on disk.",
)
@click.option(
    "--for", "for_s", type=Duration(), help="Time such as 30m or 8h. Default: until --off."
)
@click.option("--off", is_flag=True, help="End the target that was set for ENDPOINT.")
@options.as_json
def warm_command(
    server: Server,
    endpoint: str | None,
    replicas: int,
    level: str,
    for_s: float | None,
    *,
    off: bool,
    as_json: bool,
) -> None:
    """Keep the weights of ENDPOINT loaded; without ENDPOINT, list what is kept.

    Example: darkroom warm fal-ai/flux/dev --replicas 2 --for 30m
    """
    if endpoint is None and (off or for_s is not None):
        raise click.UsageError("Name the endpoint.")
    with Client(server) as client:
        if endpoint is None:
            answer = client.get(WARM_TARGETS.path)
            lines = target_lines(answer["warm_targets"])
        elif off:
            client.delete(path_of(WARM_TARGETS, endpoint))
            answer, lines = {"endpoint_id": endpoint}, iter([f"{endpoint} is not kept any more."])
        else:
            wish = {"endpoint_id": endpoint, "replicas": replicas, "level": level, "for_s": for_s}
            answer = client.post(WARM_TARGETS.path, wish)
            lines = target_lines([answer])
    for line in [json.dumps(answer)] if as_json else lines:
        click.echo(line)


def target_lines(targets: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Warm targets as text, with what keeps replicas from them."""
    for each in targets:
        what = f"{each['endpoint_id']}: {each['level']}" if each["endpoint_id"] else "warm:"
        until = "" if each["until"] is None else f", until {each['until'][:19]}"
        where = f"of the pool {each['pool']}" if each["pool"] else "of no pool"
        yield (
            f"{what} on {each['ready_replicas']} of {each['replicas']} replicas {where}, by "
            f"{'the configuration' if each['source'] == 'configuration' else 'an operator'}{until}"
        )
        yield from (f"  {problem}" for problem in each["problems"])
    if not targets:
        yield "No warm target is in force."
