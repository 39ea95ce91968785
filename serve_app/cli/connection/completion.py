"""Shell completion: click completes commands, and the running Darkroom provides the ids."""

from __future__ import annotations

import contextlib

import click
import httpx2
from click.shell_completion import get_completion_class

from serve_app.cli.connection import options
from serve_app.cli.connection.client import Client
from serve_app.cli.connection.text import echo
from serve_app.domain.errors import DarkroomError, Misconfigured

PROGRAM = "darkroom"
VARIABLE = "_DARKROOM_COMPLETE"


def script(command: click.Command, shell: str) -> str:
    """Completion script for ``shell``. Raises ``Misconfigured`` for an unsupported shell."""
    completer = get_completion_class(shell)
    if completer is None:
        raise Misconfigured(f"There is no completion for {shell}. Use bash, zsh or fish.")
    return completer(command, {}, PROGRAM, VARIABLE).source()


def endpoints(context: click.Context, parameter: click.Parameter, typed: str) -> list[str]:
    """Endpoint ids that start with ``typed``.

    Empty if no Darkroom is running, because a completion cannot report errors.
    """
    del parameter
    models = _answer(context, "/v1/models", "models")
    return [
        endpoint_id
        for model in models
        if (endpoint_id := str(model["endpoint_id"])).startswith(typed)
    ]


def requests(context: click.Context, parameter: click.Parameter, typed: str) -> list[str]:
    """Ids of the latest requests that start with ``typed``."""
    del parameter
    latest = _answer(context, "/v1/requests", "requests")
    return [
        request_id
        for request in latest
        if (request_id := str(request["request_id"])).startswith(typed)
    ]


def _answer(context: click.Context, path: str, name: str) -> list[dict[str, object]]:
    with contextlib.suppress(DarkroomError, httpx2.HTTPError, OSError, KeyError, ValueError):
        with Client(options.named_server(context.params)) as client:
            return list(client.get(path)[name])
    return []


@click.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion_command(context: click.Context, shell: str) -> None:
    """Print the completion script for SHELL.

    Example: eval "$(darkroom completion bash)"
    """
    echo(script(context.find_root().command, shell))
