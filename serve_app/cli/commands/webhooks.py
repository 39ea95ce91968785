"""``darkroom webhooks``: deliveries, redelivery, tests and signing keys."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any

import click
import httpx2

from serve_app.cli.commands.requests import request_path
from serve_app.cli.connection import completion, options
from serve_app.cli.connection.client import Client
from serve_app.cli.connection.command_group import CommandGroup
from serve_app.cli.connection.server import Server
from serve_app.cli.connection.text import counted, echo, one_line


@click.group("webhooks", cls=CommandGroup)
def webhooks_group() -> None:
    """List, test and repeat deliveries of webhooks, and rotate the keys that sign them."""


_request = click.argument("request_id", shell_complete=completion.requests)


@webhooks_group.command("list")
@options.server
@click.option(
    "--state", type=click.Choice(["pending", "delivered", "dead"]), help="Show only this state."
)
@options.before
@options.limit(500, 20)
@options.tenant
@options.as_json
def list_command(server: Server, *, as_json: bool, **wish: Any) -> None:
    """List deliveries, newest request first. Those that were given up are dead."""
    with Client(server) as client:
        answer = client.get("/v1/webhooks", **wish)
    if as_json:
        echo(json.dumps(answer))
        return
    for webhook in answer["webhooks"]:
        echo(line(webhook))


@webhooks_group.command("show")
@options.server
@_request
@options.tenant
@options.as_json
def show_command(server: Server, request_id: str, tenant: str | None, *, as_json: bool) -> None:
    """Show the webhook of a request and every attempt."""
    with Client(server) as client:
        answer = client.get(f"{request_path(request_id)}/webhook", tenant=tenant)
    for shown in [json.dumps(answer)] if as_json else lines(answer):
        echo(shown)


@webhooks_group.command("redeliver")
@options.server
@_request
@options.tenant
@options.as_json
def redeliver_command(
    server: Server, request_id: str, tenant: str | None, *, as_json: bool
) -> None:
    """Send a webhook again, with the same body."""
    query = f"?{httpx2.QueryParams({'tenant': tenant})}" if tenant else ""
    with Client(server) as client:
        answer = client.put(f"{request_path(request_id)}/webhook/redeliver{query}")
    echo(json.dumps(answer) if as_json else f"The webhook is sent again to {answer['url']}.")


@webhooks_group.command("test")
@options.server
@click.argument("url")
@options.as_json
def test_command(server: Server, url: str, *, as_json: bool) -> None:
    """Send one signed test webhook to URL and report the response.

    The exit status is 1 if the delivery fails.
    """
    with Client(server) as client:
        answer = client.post("/v1/webhooks/test", {"url": url})
    took = f"after {answer['took_s']:.2f} s"
    text = f"Delivered {took}: {answer['status']}." if answer["delivered"] else answer["error"]
    echo(json.dumps(answer) if as_json else text)
    if not answer["delivered"]:
        sys.exit(1)


@webhooks_group.command("secret")
@options.server
@options.as_json
def secret_command(server: Server, *, as_json: bool) -> None:
    """Print the secrets that Standard Webhooks libraries need to verify deliveries."""
    with Client(server) as client:
        answer = client.get("/v1/webhooks/secret")
    for shown in [json.dumps(answer)] if as_json else answer["secrets"]:
        echo(shown)


@webhooks_group.command("rotate")
@options.server
@click.option("--at-once", is_flag=True, help="Sign with the new key now and delete the others.")
@options.as_json
def rotate_command(server: Server, *, at_once: bool, as_json: bool) -> None:
    """Create a signing key. It signs after 25 hours, when every receiver has fetched it."""
    with Client(server) as client:
        answer = client.put(f"/v1/webhooks/rotate?at_once={int(at_once)}")
    if as_json:
        echo(json.dumps(answer))
        return
    for key in answer["keys"]:
        echo(f"{key['kid']}  {'signs' if key['signs'] else 'will sign'}")


def line(delivery: dict[str, Any]) -> str:
    """Line of a delivery in a list."""
    error = (
        f"  {one_line(delivery['error'])}"
        if delivery["error"] and delivery["state"] != "delivered"
        else ""
    )
    url = one_line(delivery["url"])
    state = f"{delivery['state']:<9}"
    tries = counted(delivery["tries"], "attempt")
    return f"{delivery['request_id']}  {state}  {tries:<10}  {url}{error}"


def lines(delivery: dict[str, Any]) -> Iterator[str]:
    """Lines of a delivery and its tries."""
    yield line(delivery)
    for tried in delivery["log"]:
        outcome = one_line(tried["error"] or "") or f"It answered {tried['status']}."
        yield f"{tried['at'][:19]}  {tried['took_s']:.2f} s  {outcome}"
    if delivery["next_try_at"]:
        yield f"{delivery['next_try_at'][:19]}  next attempt"
