"""``darkroom models verify`` and ``push-mirror``: the store of weights, looked after."""

from __future__ import annotations

import json
from collections.abc import Sequence

import click

from serve_app.cli.downloads import chosen_endpoints
from serve_app.domain.errors import DarkroomError
from serve_app.settings import Config
from weights.disk import gigabytes
from weights.store import Store, repositories_of


def verify(config: Config, *, as_json: bool) -> int:
    """Read every file of the store again; the exit status is the number of damaged ones."""
    store = Store(config.weights_store())
    found = [
        {"repository": repository, "path": path, "right": right}
        for repository, path, right in store.verify()
    ]
    damaged = [each for each in found if not each["right"]]
    if as_json:
        click.echo(json.dumps({"directory": str(store.directory), "files": found}, indent=2))
    else:
        for each in damaged:
            click.echo(f"PROBLEM  {each['repository']}: {each['path']} was damaged; thrown away.")
        click.echo(f"{len(found)} files in {store.directory}, {len(damaged)} damaged.")
        if damaged:
            click.echo("`darkroom models pull` fetches them again, or whoever needs them first.")
    return min(len(damaged), 100)


def push_mirror(config: Config, ids: Sequence[str], *, as_json: bool) -> int:
    """Fill the mirror with what is here; what is not is told. Returns the exit status."""
    store = Store(config.weights_store())
    wanted = dict.fromkeys(
        weights for each in chosen_endpoints(config, ids) for weights in repositories_of(each)
    )
    sent: dict[str, int] = {}
    troubles: dict[str, str] = {}
    for weights in wanted:
        try:
            if not store.is_here(weights):
                troubles[weights.source] = "not here; `darkroom models pull` brings it"
                continue
            sent[weights.source] = store.push(weights)
        except DarkroomError as error:
            troubles[weights.source] = error.message
    if as_json:
        click.echo(json.dumps({"sent_bytes": sent, "errors": troubles}, indent=2))
    else:
        for name, size in sent.items():
            click.echo(f"ok       {name}: {gigabytes(size) if size else 'nothing'} was sent")
        for name, trouble in troubles.items():
            click.echo(f"PROBLEM  {name}: {trouble}")
    return 1 if troubles else 0
