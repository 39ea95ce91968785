"""Operator commands for a running Darkroom: the queue, endpoints and requests."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import click
import httpx2

from serve_app.cli.commands.requests import request_path
from serve_app.cli.connection import completion, options
from serve_app.cli.connection.client import Client
from serve_app.cli.connection.command_group import CommandGroup
from serve_app.cli.connection.server import Server
from serve_app.cli.connection.text import echo

SHOWN_FROM_S = 1.0
"""Shortest age of the oldest database transaction that is shown: each statement is one."""


@click.command("queue")
@options.server
@options.as_json
def queue_command(server: Server, *, as_json: bool) -> None:
    """Show what waits and runs, by pool and tenant."""
    with Client(server) as client:
        answer = client.get("/v1/queue")
    for line in [json.dumps(answer)] if as_json else queue_lines(answer):
        echo(line)


def queue_lines(seen: dict[str, Any]) -> Iterator[str]:
    """Response of ``/v1/queue`` as text."""
    for lane in seen["lanes"]:
        oldest = "" if lane["oldest_s"] is None else f", oldest {lane['oldest_s']:.0f} s"
        yield (
            f"pool {lane['pool']}, tenant {lane['tenant']}: {lane['queued']} queued{oldest}; "
            f"{lane['running']} running"
        )
    if not seen["lanes"]:
        yield "No requests are queued or running."
    for lease in seen["leases"]:
        yield (
            f"{lease['request_id']}  {lease['endpoint']}: attempt {lease['attempt']} for "
            f"{lease['age_s']:.0f} s on {lease['replica_id']}"
        )
    for halt in seen["halts"]:
        since = f"since {halt['at'][:19]}, by key {halt['actor']}"
        yield f"endpoint {halt['endpoint_id']}: {halt['kind']} {since}"
    oldest = seen["oldest_transaction"]
    if oldest is not None and oldest["age_s"] >= SHOWN_FROM_S:
        yield (
            f"oldest database transaction: {oldest['age_s']:.1f} s, {oldest['state']} "
            f"({oldest['application'] or 'unnamed'}, process {oldest['pid']})"
        )


@click.group("endpoints", cls=CommandGroup)
def endpoints_group() -> None:
    """Pause, drain and resume endpoints."""


_endpoint = click.argument("endpoint", shell_complete=completion.endpoints)


@endpoints_group.command("pause")
@options.server
@_endpoint
@options.as_json
def pause(server: Server, endpoint: str, *, as_json: bool) -> None:
    """Accept requests for ENDPOINT but keep them queued."""
    _put_and_print(
        server, f"/v1/endpoints/{quote(endpoint)}/pause", f"{endpoint} is paused.", as_json=as_json
    )


@endpoints_group.command("drain")
@options.server
@_endpoint
@options.as_json
def drain(server: Server, endpoint: str, *, as_json: bool) -> None:
    """Refuse new requests for ENDPOINT and serve the queued ones."""
    _put_and_print(
        server,
        f"/v1/endpoints/{quote(endpoint)}/drain",
        f"{endpoint} is draining.",
        as_json=as_json,
    )


@endpoints_group.command("resume")
@options.server
@_endpoint
@options.as_json
def resume(server: Server, endpoint: str, *, as_json: bool) -> None:
    """End a pause or a drain of ENDPOINT."""
    _put_and_print(
        server,
        f"/v1/endpoints/{quote(endpoint)}/resume",
        f"{endpoint} is resumed.",
        as_json=as_json,
    )


_request = click.argument("request_id", shell_complete=completion.requests)


@click.command("requeue")
@options.server
@_request
@options.as_json
def requeue_command(server: Server, request_id: str, *, as_json: bool) -> None:
    """Return a running request to the queue.

    The request is taken from its replica and gets its old place in the queue.
    """
    _put_and_print(
        server,
        f"{request_path(request_id)}/requeue",
        "The request is {state}.",
        as_json=as_json,
    )


@click.command("fail")
@options.server
@_request
@click.option("--reason", default="", help="Reason shown to the owner of the request.")
@options.as_json
def fail_command(server: Server, request_id: str, reason: str, *, as_json: bool) -> None:
    """Let a queued or running request fail."""
    query = httpx2.QueryParams({"reason": reason})
    _put_and_print(
        server,
        f"{request_path(request_id)}/fail?{query}",
        "The request is {state}.",
        as_json=as_json,
    )


@click.command("priority")
@options.server
@_request
@click.argument("priority", type=click.Choice(["low", "normal", "high"]))
@options.as_json
def priority_command(server: Server, request_id: str, priority: str, *, as_json: bool) -> None:
    """Change the priority of a request that waits.

    It moves among the requests of its tenant as if it had been submitted with it.
    """
    _put_and_print(
        server,
        f"{request_path(request_id)}/priority?{httpx2.QueryParams({'priority': priority})}",
        f"The request has {priority} priority.",
        as_json=as_json,
    )


def _put_and_print(server: Server, path: str, text: str, *, as_json: bool) -> None:
    with Client(server) as client:
        answer = client.put(path)
    echo(json.dumps(answer) if as_json else text.format_map(answer))
