"""``darkroom usage``: what was used, and what it cost."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urlencode

import click

from serve_app.cli.connection import options
from serve_app.cli.connection.client import Client
from serve_app.cli.connection.server import Server
from serve_app.cli.connection.text import echo
from serve_app.cli.group import InheritingGroup
from serve_app.telemetry.clock import SystemClock

COLUMNS = {
    "day": "day",
    "tenant": "tenant",
    "key_id": "key",
    "endpoint_id": "endpoint",
    "requests": "requests",
    "successes": "successes",
    "images": "images",
    "run_s": "seconds",
    "cost": "cost",
    "currency": "",
}
NUMBERS = frozenset({"requests", "successes", "images", "run_s", "cost"})


@click.group("usage", cls=InheritingGroup, invoke_without_command=True)
@options.server_options
@click.option(
    "--by",
    multiple=True,
    type=click.Choice(["day", "tenant", "key", "endpoint"]),
    help="Groups; may be repeated. Default: endpoint.",
)
@click.option("--since", help="First day or time. Default: 30 days before the end.")
@click.option("--until", help="End, exclusive. Default: now.")
@click.option("--tenant", help="Default: that of the key; `*`: all, also with --by tenant.")
@click.option("--csv", "as_csv", is_flag=True, help="Print a CSV file.")
@options.as_json
@click.pass_context
def usage_group(
    ctx: click.Context,
    by: Sequence[str],
    since: str | None,
    until: str | None,
    tenant: str | None,
    *,
    as_csv: bool,
    as_json: bool,
    **given: Any,
) -> None:
    """Show usage and costs."""
    if ctx.invoked_subcommand is not None:
        return
    asked: dict[str, Any] = {"by": ",".join(by or ["endpoint"]), "start": since, "end": until}
    if tenant == "*" or (tenant is None and "tenant" in by):
        asked["tenants"] = "*"
    else:
        asked["tenant"] = tenant
    query = {name: value for name, value in asked.items() if value is not None}
    query.setdefault("start", _month_before(until))
    with Client(options.named_server(given)) as client:
        if as_csv:
            echo(client.text(f"/v1/usage.csv?{urlencode(query)}"), nl=False)
            return
        answer = client.get("/v1/usage", **query)
    for line in [json.dumps(answer)] if as_json else lines(answer):
        echo(line)


def lines(answer: Mapping[str, Any]) -> Iterator[str]:
    """The answer of ``/v1/usage`` as a table."""
    results = answer["results"]
    if not results:
        yield "Nothing was used in this time."
        return
    names = [name for name in COLUMNS if name in results[0]]
    rows = [[_cell(name, each[name]) for name in names] for each in results]
    heads = [COLUMNS[name] for name in names]
    widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
    for row in [heads, *rows]:
        cells = (
            cell.rjust(width) if name in NUMBERS else cell.ljust(width)
            for name, cell, width in zip(names, row, widths, strict=True)
        )
        yield "  ".join(cells).rstrip()
    for each in answer["costs"]:
        yield f"Together {each['cost']:.4f} {each['currency']}."


def _cell(name: str, value: Any) -> str:
    if name == "run_s":
        return f"{value:.1f}"
    if name == "cost":
        return f"{value:.4f}" if value else ""
    return "" if value is None else str(value)


def _month_before(until: str | None) -> str:
    try:
        end = datetime.fromisoformat(until) if until else SystemClock().now()
    except ValueError:
        raise click.BadParameter(
            "use a date or time, such as 2026-01-31", param_hint="--until"
        ) from None
    return (end - timedelta(days=30)).date().isoformat()


@usage_group.command("report")
@options.server
@click.option("--since", help="First day or time. Default: 30 days before the end.")
@click.option("--until", help="End, exclusive. Default: now.")
@options.as_json
def report_command(server: Server, since: str | None, until: str | None, *, as_json: bool) -> None:
    """Compare what the GPUs cost with fal's list prices for the same work."""
    with Client(server) as client:
        answer = client.get("/v1/usage/report", start=since, end=until)
    for line in [json.dumps(answer)] if as_json else report_lines(answer):
        echo(line)


def report_lines(answer: Mapping[str, Any]) -> Iterator[str]:
    """The answer of ``/v1/usage/report`` as text."""
    currency = answer["currency"]
    for each in answer["pools"]:
        cost = "no cost is set" if each["cost"] is None else f"{each['cost']:.2f} {currency}"
        yield f"pool {each['pool']}, {each['gpu'] or 'no GPU'}: {_hours(each)}; {cost}"
    if not answer["pools"]:
        yield "No replica ran in this time."
    yield f"Together {_hours(answer)}; {answer['cost']:.2f} {currency}."
    priced = [each for each in answer["endpoints"] if each["cost"] is not None]
    for each in priced:
        yield (
            f"{each['endpoint_id']}: {each['requests']} requests, at fal "
            f"{each['cost']:.2f} {each['currency']}"
        )
    left_out = len(answer["endpoints"]) - len(priced)
    rest = f"; {left_out} without a price in DARKROOM_FAL_PRICES" if left_out else ""
    yield f"At fal's list prices {answer['fal_cost']:.2f} {currency}{rest}."


def _hours(each: Mapping[str, Any]) -> str:
    return (
        f"{each['paid_hours']:.1f} GPU hours, {each['busy_hours']:.1f} busy, "
        f"{each['idle_hours']:.1f} idle"
    )
