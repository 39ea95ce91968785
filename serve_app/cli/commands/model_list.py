"""``darkroom models``: what is served, from which weights, and how they fit this machine."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import click

from serve_app.cli import gpu, recipe
from serve_app.cli.client import Client
from serve_app.cli.installation import Installation
from serve_app.domain.endpoint import Recipe, fitting

PAGE = 100
SHOWN_REVISION = 12  # digits of a commit


def run(installation: Installation, *, as_json: bool) -> None:
    """List every endpoint, as lines or as one JSON document."""
    memory = gpu.least_memory_bytes()
    with Client(installation) as client:
        models = [{**each, "recipe": _recipe(each, memory)} for each in every(client)]
    if as_json:
        click.echo(json.dumps({"device_memory_bytes": memory, "models": models}, indent=2))
        return
    for model in models:
        for line in lines(model, memory):
            click.echo(line)


def lines(model: dict[str, Any], memory: int | None) -> Iterator[str]:
    """One endpoint: a line with what it is, and indented ones with what it stands on."""
    ours, metadata = model["darkroom"], model["metadata"]
    kind = ("demo" if model["darkroom_demo"] else "real") if ours["served"] else "not served"
    yield f"{model['endpoint_id']:<34} {ours['family']:<12} {kind:<11} {metadata['license']}"
    yield f"    weights  {_weights(ours['weights'])}"
    if ours["recipes"]:
        yield f"    recipe   {recipe.said(_recipes(model), memory)}"
    if not ours["served"]:
        yield f"    {ours['reason']}"


def every(client: Client) -> Iterator[dict[str, Any]]:
    """As the server tells them."""
    cursor: str | None = None
    while True:
        page = client.get("/v1/models", limit=PAGE, cursor=cursor)
        yield from page["models"]
        if not page["has_more"]:
            return
        cursor = page["next_cursor"]


def _recipe(model: dict[str, Any], memory: int | None) -> dict[str, Any] | None:
    """The one for this machine, as the server tells it."""
    if memory is None:
        return None
    told: list[dict[str, Any]] = model["darkroom"]["recipes"]
    chosen = fitting(_recipes(model), memory)
    return next((each for each in told if chosen and each["memory_gb"] == chosen.memory_gb), None)


def _recipes(model: dict[str, Any]) -> list[Recipe]:
    return [
        Recipe(
            each["memory_gb"],
            each["precision"],
            each["offload"],
            tuple(each["hot"]),
            compile=each.get("compile", False),
        )
        for each in model["darkroom"]["recipes"]
    ]


def _weights(weights: dict[str, Any]) -> str:
    if weights["source"] is None:
        return "none"
    revision = weights["revision"]
    return f"{weights['source']}{'@' + revision[:SHOWN_REVISION] if revision else ''}"
