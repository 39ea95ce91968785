"""Commands about requests, and ``darkroom status``: their arguments and options."""

from __future__ import annotations

from typing import Any

import click

from serve_app.cli.commands import operations, requests
from serve_app.cli.connection import completion, options
from serve_app.cli.connection.command_group import CommandGroup
from serve_app.cli.connection.server import Server
from serve_app.domain.request import State


@click.command("logs")
@options.server
@click.argument("request_id", shell_complete=completion.requests)
@click.option(
    "-f", "--follow", is_flag=True, help="Keep printing new lines until the request has ended."
)
@options.as_json
def logs_command(server: Server, request_id: str, *, follow: bool, as_json: bool) -> None:
    """Show the log of a request, or follow it with -f."""
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
    """Show whether Darkroom is ready, its pools and its queue."""
    requests.status(server, as_json=as_json)


@click.group("requests", cls=CommandGroup)
def requests_group() -> None:
    """List, show, cancel, requeue and delete requests, and change their priority."""


@requests_group.command("list")
@options.server
@click.option(
    "--state",
    "states",
    type=click.Choice([state.value for state in State]),
    multiple=True,
    help="Show only this state. May be repeated.",
)
@click.option(
    "--endpoint",
    "endpoint_id",
    metavar="ENDPOINT",
    shell_complete=completion.endpoints,
    help="Show only requests for this endpoint.",
)
@options.tenant_or_all
@options.since
@options.until
@options.before
@options.limit(500, 20)
@options.as_json
def requests_list(server: Server, *, as_json: bool, **wish: Any) -> None:
    """List the latest requests, newest first.

    Times are those of the submits. Without a zone, they are in the zone of this machine.
    """
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
@options.tenant
@options.as_json
def requests_cancel(server: Server, request_id: str, *, tenant: str | None, as_json: bool) -> None:
    """Cancel a queued or running request."""
    requests.cancel(server, request_id, tenant=tenant, as_json=as_json)


@requests_group.command("delete")
@options.server
@click.argument("request_id", shell_complete=completion.requests)
@options.as_json
def requests_delete(server: Server, request_id: str, *, as_json: bool) -> None:
    """Delete a finished request with its input, output, log and files."""
    requests.delete(server, request_id, as_json=as_json)


requests_group.add_command(operations.requeue_command)
requests_group.add_command(operations.fail_command)
requests_group.add_command(operations.priority_command)
