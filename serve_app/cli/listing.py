"""The commands that show what a running Darkroom holds."""

from __future__ import annotations

import json
from collections import Counter

import click

from serve_app.cli.client import Client
from serve_app.cli.installation import Installation


def status(installation: Installation) -> None:
    client = Client(installation)
    ready, parts = client.readiness()
    click.echo(f"{client.url}: {'ready' if ready else 'not ready'}")
    for name, state in parts["checks"].items():
        click.echo(f"  {name}: {state}")
    if not ready:
        return
    answer = client.get("/v1/status")
    for name, pool in answer["pools"].items():
        stages = Counter(one["stage"] for one in answer["replicas"] if one["pool"] == name)
        shown = ", ".join(f"{count} {stage}" for stage, count in stages.items()) or "none"
        click.echo(
            f"pool {name}: {pool['queued']} queued, {pool['running']} running; replicas: {shown}"
        )


def requests(installation: Installation, states: tuple[str, ...], limit: int) -> None:
    answer = Client(installation).get("/v1/requests", state=list(states) or None, limit=limit)
    for one in answer["requests"]:
        click.echo(
            f"{one['request_id']}  {one['state']:<9}  {one['created_at'][:19]}  "
            f"{one['endpoint_id']}"
        )


def request(installation: Installation, request_id: str) -> None:
    one = Client(installation).get(f"/v1/requests/{request_id}")
    log = one.pop("log", [])
    click.echo(json.dumps(one, indent=2))
    for line in log:
        click.echo(f"{line['at'][:23]} {line['level']:<7} {line['message']}")


def cancel(installation: Installation, request_id: str) -> None:
    answer = Client(installation).put(f"/v1/requests/{request_id}/cancel")
    click.echo(answer["verdict"])
