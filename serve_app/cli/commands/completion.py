"""What the shell completes: commands by click, and ids by asking the Darkroom that runs."""

from __future__ import annotations

import contextlib

import click
import httpx
from click.shell_completion import get_completion_class

from serve_app.cli.client import Client
from serve_app.cli.installation import Installation
from serve_app.domain.errors import DarkroomError, Misconfigured

PROGRAM = "darkroom"
VARIABLE = "_DARKROOM_COMPLETE"


def script(command: click.Command, shell: str) -> str:
    """Lines for the shell's start-up file. ``Misconfigured`` for a shell that click cannot."""
    found = get_completion_class(shell)
    if found is None:
        raise Misconfigured(f"There is no completion for {shell}.")
    return found(command, {}, PROGRAM, VARIABLE).source()


def endpoints(context: click.Context, parameter: click.Parameter, typed: str) -> list[str]:
    """Ids of endpoints; none when nothing runs, for a completion cannot complain."""
    del parameter
    models = _answer(context, "/v1/models", "models")
    return [each for one in models if (each := str(one["endpoint_id"])).startswith(typed)]


def requests(context: click.Context, parameter: click.Parameter, typed: str) -> list[str]:
    """Ids of the latest requests."""
    del parameter
    latest = _answer(context, "/v1/requests", "requests")
    return [each for one in latest if (each := str(one["request_id"])).startswith(typed)]


def _answer(context: click.Context, path: str, name: str) -> list[dict[str, object]]:
    installation = context.params.get("installation")
    if not isinstance(installation, Installation):
        return []  # the settings are wrong, and a command will say so
    with contextlib.suppress(DarkroomError, httpx.HTTPError, OSError, KeyError, ValueError):
        with Client(installation) as client:
            return list(client.get(path)[name])
    return []
