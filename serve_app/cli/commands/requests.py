"""The commands that show what a running Darkroom holds."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

import click

from serve_app.cli.client import Client
from serve_app.cli.installation import Installation
from serve_app.cli.request_log import line_of


def status(installation: Installation, *, as_json: bool) -> None:
    answer: dict[str, Any] = {"pools": {}, "replicas": [], "unplaceable": {}}
    with Client(installation) as client:
        ready, parts = client.readiness()
        if ready:
            answer = client.get("/v1/status")
    if as_json:
        click.echo(json.dumps({"url": client.url, "ready": ready, **parts, **answer}))
        return
    click.echo(f"{client.url}: {'ready' if ready else 'not ready'}")
    for name, state in parts["checks"].items():
        click.echo(f"  {name}: {state}")
    for name, pool in answer["pools"].items():
        replicas = [one for one in answer["replicas"] if one["pool"] == name]
        for line in pool_lines(name, pool, replicas):
            click.echo(line)
    for problem in answer["unplaceable"].values():
        click.echo(problem)


def pool_lines(
    name: str, pool: Mapping[str, Any], replicas: Sequence[Mapping[str, Any]]
) -> Iterator[str]:
    """A pool, and what its replicas load."""
    stages = Counter(one["stage"] for one in replicas)
    shown = ", ".join(f"{count} {stage}" for stage, count in stages.items()) or "none"
    yield f"pool {name}: {pool['queued']} queued, {pool['running']} running; replicas: {shown}"
    yield from (f"  {one['replica_id']}: {one['detail']}" for one in replicas if one["detail"])


def requests(
    installation: Installation,
    *,
    states: tuple[str, ...],
    endpoint_id: str | None,
    tenant: str | None,
    since: datetime | None,
    until: datetime | None,
    before: str | None,
    limit: int,
    as_json: bool,
) -> None:
    """Times without a zone are of this machine's."""
    with Client(installation) as client:
        answer = client.get(
            "/v1/requests",
            state=list(states) or None,
            endpoint_id=endpoint_id,
            tenant=tenant,
            since=since and since.astimezone().isoformat(),
            until=until and until.astimezone().isoformat(),
            before=before,
            limit=limit,
        )
    if as_json:
        click.echo(json.dumps(answer))
        return
    for one in answer["requests"]:
        click.echo(
            f"{one['request_id']}  {one['state']:<9}  {one['created_at'][:19]}  "
            f"{one['endpoint_id']}" + (f"  {one['tenant']}" if tenant else "")
        )


def request(installation: Installation, request_id: str, *, as_json: bool) -> None:
    with Client(installation) as client:
        one = client.get(f"/v1/requests/{request_id}")
    if as_json:
        click.echo(json.dumps(one))
        return
    log = one.pop("log", [])
    click.echo(json.dumps(one, indent=2))
    for line in log:
        click.echo(line_of(line))


def cancel(installation: Installation, request_id: str, *, as_json: bool) -> None:
    with Client(installation) as client:
        answer = client.put(f"/v1/requests/{request_id}/cancel")
    click.echo(json.dumps(answer) if as_json else answer["verdict"])


def delete(installation: Installation, request_id: str, *, as_json: bool) -> None:
    with Client(installation) as client:
        answer = client.delete(f"/v1/requests/{request_id}")
    click.echo(json.dumps(answer) if as_json else f"Deleted, with {answer['deleted_files']} files.")
