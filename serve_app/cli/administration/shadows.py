"""``darkroom shadows``: requests beside their copies at other endpoints."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import click

from serve_app.cli.connection import completion, options
from serve_app.cli.connection.client import Client
from serve_app.cli.connection.server import Server
from serve_app.cli.connection.text import echo, one_line, shorten


@click.command("shadows")
@options.server
@click.argument("endpoint", required=False, shell_complete=completion.endpoints)
@options.limit(100, 20)
@options.as_json
def shadows_command(server: Server, endpoint: str | None, limit: int, *, as_json: bool) -> None:
    """Compare requests for ENDPOINT, or for all, with their copies at shadows.

    Shows the totals of the last day, then the newest pairs.
    """
    with Client(server) as client:
        answer = client.get("/v1/shadows", endpoint_id=endpoint, limit=limit)
    for line in [json.dumps(answer)] if as_json else shadow_lines(answer, endpoint):
        echo(line)


def shadow_lines(answer: Mapping[str, Any], endpoint: str | None = None) -> Iterator[str]:
    """Comparisons and pairs as text."""
    for comparison in answer["comparisons"]:
        if endpoint in (None, comparison["endpoint_id"]):
            names = f"{comparison['endpoint_id']} beside {comparison['shadow']}"
            yield f"{names}, {comparison['pairs']} pairs in a day"
            yield f"  original  {_totals(comparison['originals'])}"
            yield f"  copy      {_totals(comparison['copies'])}"
    for pair in answer["pairs"]:
        prompt = shorten(pair["prompt"] or "")
        yield f"{pair['endpoint_id']} → {pair['shadow']}  {prompt}".rstrip()
        yield f"  original  {_side(pair['original'])}"
        yield f"  copy      {_copy(pair)}"
    if not answer["pairs"]:
        yield "No request was copied."


def _totals(sums: Mapping[str, Any]) -> str:
    median = "no success" if sums["median_s"] is None else f"median {sums['median_s']:.2f} s"
    return ", ".join([median, f"{sums['failed']} failed", *_cost(sums)])


def _copy(pair: Mapping[str, Any]) -> str:
    if pair["copy"] is not None:
        return _side(pair["copy"])
    if pair["state"] == "sent":
        return "deleted"
    return f"{pair['state']}: {pair['reason']}" if pair["reason"] else pair["state"]


def _side(side: Mapping[str, Any] | None) -> str:
    if side is None:
        return "deleted"
    parts = [f"{side['state']}"]
    if side["run_s"] is not None:
        parts.append(f"{side['run_s']:.2f} s")
    parts += _cost(side)
    if side["error"] is not None:
        parts.append(one_line(side["error"]["message"]))
    return ", ".join([*parts, *(file["url"] for file in side["files"])])


def _cost(priced: Mapping[str, Any]) -> list[str]:
    if priced["currency"] is None or priced["cost"] is None:
        return []
    return [f"{priced['cost']:g} {priced['currency']}"]
