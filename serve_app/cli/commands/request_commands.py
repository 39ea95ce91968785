"""Commands about requests, and ``darkroom status``: their arguments and options."""

from __future__ import annotations

from typing import Any

import click

from serve_app.cli.commands import operations, requests
from serve_app.cli.connection import completion, options
from serve_app.cli.connection.server import Server
from serve_app.cli.group import CommandGroup


@click.command("logs")
@options.server
@click.argument("request_id", shell_complete=completion.requests)
@click.option(
    "-f", "--follow", is_flag=True, help="Keep printing new lines until the request has ended."
)
@options.as_json
def logs_command(server: Server, request_id: str, *, follow: bool, as_json: bool) -> None:
    """Show a request's log."""
    requests.show(server, request_id, follow=follow, as_json=as_json)


@click.command("open")
@options.server
@click.argument("request_id", shell_complete=completion.requests)
@options.as_json
def open_command(server: Server, request_id: str, *, as_json: bool) -> None:
    """Open the files that a request produced and print their URLs."""
    requests.open_files(server, request_id, as_json=as_json)


@click.command("status")
@options.server
@options.as_json
def status_command(server: Server, *, as_json: bool) -> None:
    """Show whether Darkroom is ready, and its pools and queue."""
    requests.status(server, as_json=as_json)


@click.group("requests", cls=CommandGroup)
def requests_group() -> None:
    """List, show, cancel, requeue, fail and delete requests."""


@requests_group.command("list")
@options.server
@click.option("--state", "states", multiple=True, help="Show only this state. May be repeated.")
@click.option("--endpoint", "endpoint_id", help="Show only this endpoint's requests.")
@click.option(
    "--tenant", help="Tenant, or '*' for all tenants. Requires a key with the scope operator."
)
@click.option(
    "--since", type=click.DateTime(), help="Show requests submitted at this time or later."
)
@click.option("--until", type=click.DateTime(), help="Show requests submitted before this time.")
@click.option("--before", help="Show requests older than this request id (next page).")
@click.option("--limit", type=click.IntRange(1, 500), default=20, show_default=True)
@options.as_json
def requests_list(server: Server, *, as_json: bool, **wish: Any) -> None:
    """List the latest requests, newest first."""
    requests.requests(server, **wish, as_json=as_json)


@requests_group.command("show")
@options.server
@click.argument("request_id", shell_complete=completion.requests)
@options.as_json
def requests_show(server: Server, request_id: str, *, as_json: bool) -> None:
    """Show one request and its log."""
    requests.request(server, request_id, as_json=as_json)


@requests_group.command("cancel")
@options.server
@click.argument("request_id", shell_complete=completion.requests)
@click.option("--tenant", help="Tenant of the request. Requires a key with the scope operator.")
@options.as_json
def requests_cancel(server: Server, request_id: str, *, tenant: str | None, as_json: bool) -> None:
    """Cancel a queued or running request."""
    requests.cancel(server, request_id, tenant=tenant, as_json=as_json)


@requests_group.command("delete")
@options.server
@click.argument("request_id", shell_complete=completion.requests)
@options.as_json
def requests_delete(server: Server, request_id: str, *, as_json: bool) -> None:
    """Delete an ended request.

    This deletes its input, outcome, log and files.
    """
    requests.delete(server, request_id, as_json=as_json)


requests_group.add_command(operations.requeue_command)
requests_group.add_command(operations.fail_command)
requests_group.add_command(operations.priority_command)
