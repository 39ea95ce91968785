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
from serve_app.cli.connection.text import counted, echo
from serve_app.cli.group import InheritingGroup
from serve_app.domain.billing.sums import UsageGroup
from serve_app.telemetry.clock import SystemClock

COLUMNS = {
    "day": "day",
    "hour": "hour",
    "minute": "minute",
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
    type=click.Choice([*map(str, UsageGroup)]),
    help="What to group by. May be repeated. Default: endpoint.",
)
@options.since
@options.until
@options.tenant_or_all
@click.option("--csv", "as_csv", is_flag=True, help="Print a CSV file.")
@options.as_json
@click.pass_context
def usage_group(
    ctx: click.Context,
    by: Sequence[str],
    since: datetime | None,
    until: datetime | None,
    tenant: str | None,
    *,
    as_csv: bool,
    as_json: bool,
    **params: Any,
) -> None:
    """Show what was used, and what it cost, in the last 30 days.

    Days, hours and times without a zone are in UTC. With --by tenant, all tenants are shown.
    """
    if ctx.invoked_subcommand is not None:
        return
    if as_csv and as_json:
        raise click.UsageError("--csv and --json name two formats. Leave out one of them.", ctx)
    # Whole days: the first one has all of its usage.
    first = (until or SystemClock().now()).date() - timedelta(days=30)
    filters: dict[str, Any] = {
        "by": ",".join(by or ["endpoint"]),
        "start": _iso(since) or first.isoformat(),
        "end": _iso(until),
    }
    if tenant == "*" or (tenant is None and "tenant" in by):
        filters["tenants"] = "*"
    else:
        filters["tenant"] = tenant
    query = {name: value for name, value in filters.items() if value is not None}
    with Client(options.named_server(params)) as client:
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
    rows = [[_cell(name, result[name]) for name in names] for result in results]
    heads = [COLUMNS[name] for name in names]
    widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
    for row in [heads, *rows]:
        cells = (
            cell.rjust(width) if name in NUMBERS else cell.ljust(width)
            for name, cell, width in zip(names, row, widths, strict=True)
        )
        yield "  ".join(cells).rstrip()
    for total in answer["costs"]:
        yield f"Total: {total['cost']:.4f} {total['currency']}."


def _cell(name: str, value: Any) -> str:
    if name == "run_s":
        return f"{value:.1f}"
    if name == "cost":
        return f"{value:.4f}" if value else ""
    return "" if value is None else str(value)


def _iso(at: datetime | None) -> str | None:
    return None if at is None else at.isoformat()


@usage_group.command("report")
@options.server
@options.since
@options.until
@options.as_json
def report_command(
    server: Server, since: datetime | None, until: datetime | None, *, as_json: bool
) -> None:
    """Compare what the GPUs cost with fal's list prices for the same work.

    Default: the work of the last 30 days.
    """
    with Client(server) as client:
        answer = client.get("/v1/usage/report", start=_iso(since), end=_iso(until))
    for line in [json.dumps(answer)] if as_json else report_lines(answer):
        echo(line)


def report_lines(answer: Mapping[str, Any]) -> Iterator[str]:
    """The answer of ``/v1/usage/report`` as text."""
    currency = answer["currency"]
    for row in answer["pools"]:
        cost = "no cost is set" if row["cost"] is None else f"{row['cost']:.2f} {currency}"
        yield f"pool {row['pool']}, {row['gpu'] or 'no GPU'}: {_hours(row)}; {cost}"
    if not answer["pools"]:
        yield "No replica ran in this time."
    yield f"Total: {_hours(answer)}; {answer['cost']:.2f} {currency}."
    priced = [endpoint for endpoint in answer["endpoints"] if endpoint["cost"] is not None]
    for row in priced:
        yield (
            f"{row['endpoint_id']}: {counted(row['requests'], 'request')}, at fal's prices "
            f"{row['cost']:.2f} {row['currency']}"
        )
    left_out = len(answer["endpoints"]) - len(priced)
    rest = f"; {left_out} without a price in DARKROOM_FAL_PRICES" if left_out else ""
    yield f"At fal's list prices: {answer['fal_cost']:.2f} {currency}{rest}."


def _hours(row: Mapping[str, Any]) -> str:
    return (
        f"{row['paid_hours']:.1f} GPU hours, {row['busy_hours']:.1f} busy, "
        f"{row['idle_hours']:.1f} idle"
    )
