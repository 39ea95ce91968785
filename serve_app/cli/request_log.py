"""``darkroom logs`` and ``darkroom open``: what a request said, and what it made."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from typing import Any

import click

from serve_app.cli.client import ApiFailure, Client
from serve_app.cli.files import outputs
from serve_app.cli.installation import Installation
from serve_app.domain.request import State

LOOK_S = 0.5


def line_of(line: Mapping[str, Any]) -> str:
    return f"{line['at'][:23]} {line['level']:<7} {line['message']}"


def show(
    installation: Installation,
    request_id: str,
    *,
    follow: bool,
    as_json: bool,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Print a request's log; with ``follow``, go on until it has ended."""
    shown = 0
    with Client(installation) as client:
        while True:
            found = client.get(f"/v1/requests/{request_id}")
            for line in found["log"][shown:]:
                click.echo(json.dumps(line) if as_json else line_of(line))
            shown = max(shown, len(found["log"]))
            if not follow or State(found["state"]).final:
                return
            sleep(LOOK_S)


def open_files(
    installation: Installation,
    request_id: str,
    launch: Callable[[str], int] = click.launch,
    *,
    as_json: bool = False,
) -> None:
    """Open what a request made in the viewer of the desktop, and print where each file is."""
    with Client(installation) as client:
        found = client.get(f"/v1/requests/{request_id}")
        if found["state"] != State.SUCCEEDED:
            raise ApiFailure(
                f"The request is {found['state']}, so there is nothing to open. "
                f"`darkroom logs {request_id}` says more."
            )
        output = client.get(f"/queue/{found['endpoint_id']}/requests/{request_id}")
    files = list(outputs(output))
    if not files:
        raise ApiFailure("The request made no file; `darkroom requests show` has its output.")
    urls = [file["url"] for file in files]
    click.echo(json.dumps({"request_id": request_id, "urls": urls}) if as_json else "\n".join(urls))
    for url in urls:
        launch(url)
