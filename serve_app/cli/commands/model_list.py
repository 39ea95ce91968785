"""``darkroom models``: the endpoints, and what their own models need."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from serve_app.cli.connection.client import Client
from serve_app.cli.connection.server import Server
from serve_app.cli.connection.text import echo, shorten
from serve_app.domain.errors import EndpointNotFound

PAGE = 100
SHOWN_REVISION = 12  # number of digits shown of a commit


GROUPS = {
    "text-to-image": "Images from text",
    "image-to-image": "Images from images",
    "text-to-video": "Videos from text",
    "image-to-video": "Videos from images",
    "text-to-audio": "Audio from text",
}
"""Category → heading. Other categories are their own heading, after these."""


def list_models(server: Server, *, as_json: bool, everything: bool = False) -> None:
    """Print the served endpoints, one line each, or one JSON document of all endpoints.

    ``everything``: all endpoints, with what each needs, and why some are not served.
    """
    with Client(server) as client:
        models = [*all_models(client, preflight=everything or as_json)]
    if as_json:
        echo(json.dumps({"models": models}, indent=2))
        return
    for line in format_models(models, everything=everything):
        echo(line)


def show_model(server: Server, endpoint: str, *, as_json: bool) -> None:
    """Print all that is known of one endpoint. Raises ``EndpointNotFound``."""
    with Client(server) as client:
        page = client.get("/v1/models", endpoint_id=endpoint, expand="preflight")
    if len(page["models"]) != 1:  # all, without a name
        raise EndpointNotFound(
            f"There is no endpoint {shorten(endpoint) or 'without a name'}. "
            "`darkroom models --all` lists all."
        )
    (model,) = page["models"]
    if as_json:
        echo(json.dumps(model, indent=2))
        return
    for line in details(model):
        echo(line)


def format_models(models: Sequence[dict[str, Any]], *, everything: bool) -> Iterator[str]:
    """Lines for all endpoints, by what they make. Columns are as wide as their contents."""
    shown = [entry for entry in models if everything or entry["darkroom"]["served"]]
    rows = [_columns(entry, everything=everything) for entry in shown]
    heading = HEADINGS if everything and rows else ()
    widths = [
        max(map(len, column)) for column in zip(*([heading] if heading else []), *rows, strict=True)
    ]
    by_category: dict[str, list[Sequence[str]]] = {key: [] for key in GROUPS}
    for model, row in zip(shown, rows, strict=True):
        by_category.setdefault(model["metadata"]["category"], []).append(row)
    before = ""
    if heading:
        yield _line(heading, widths)
        before = "\n"
    for category, group in by_category.items():
        if group:
            yield f"{before}{GROUPS.get(category, category)}"
            before = "\n"
        for row in group:
            yield _line(row, widths)
    if not shown:
        yield "No endpoint is served here."
    if everything:
        yield from _reasons(models)
        yield "\n`darkroom models show ENDPOINT` shows all about one."
    elif hidden := len(models) - len(shown):
        yield f"\n{hidden} more are in the catalogue and not served; --all shows them, and why."


HEADINGS = ("ENDPOINT", "NAME", "STATE", "REAL MODEL", "NEEDS", "DOWNLOAD", "LICENCE")


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    cells = (text.ljust(width) for text, width in zip(row, widths, strict=True))
    return "  ".join(("", *cells)).rstrip()


def _columns(model: dict[str, Any], *, everything: bool) -> Sequence[str]:
    """Id, name and state of an endpoint, and with ``everything`` what its own model needs."""
    kind = (
        ("demo" if model["darkroom_demo"] else "") if model["darkroom"]["served"] else "not served"
    )
    endpoint_id, name = model["endpoint_id"], model["metadata"]["display_name"]
    row = (endpoint_id, "" if name == endpoint_id else name, kind)
    if not everything:
        return row
    answer = model["darkroom"]["preflight"]
    fits = {True: "fits", False: "does not fit", None: "?"}[answer["fits"]]
    needs, size = answer["needs"], answer["needs"]["disk_gb"]
    device = {None: "?", False: "no GPU"}.get(needs["gpu"]) or f"{needs['device_gb']:g} GB GPU"
    download = "?" if size is None else f"{size:g} GB" if size else "none"
    return (*row, fits, device, download, model["metadata"]["license"])


def _reasons(models: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Each reason why endpoints are not served, once."""
    reasons: dict[str, list[str]] = {}
    for model in models:
        if not model["darkroom"]["served"]:
            reasons.setdefault(model["darkroom"]["reason"], []).append(model["endpoint_id"])
    for reason, ids in reasons.items():
        yield f"\nNot served ({len(ids)}): {reason}"
        if len(reasons) > 1:
            yield f"  {', '.join(ids)}"


def details(model: dict[str, Any]) -> Iterator[str]:
    """Lines with all that is known of an endpoint."""
    ours = model["darkroom"]
    facts = {
        "name": model["metadata"]["display_name"],
        "family": ours["family"],
        "weights": _weights(ours["weights"]),
        "from": _origin(ours),
        **ours["preflight"]["sentences"],
    }
    yield model["endpoint_id"]
    for subject, sentence in facts.items():
        yield f"  {subject:<8}  {sentence}"


def all_models(client: Client, *, preflight: bool = False) -> Iterator[dict[str, Any]]:
    """All models as the server lists them, page by page. ``preflight``: with what each needs."""
    cursor: str | None = None
    while True:
        expand = "preflight" if preflight else None
        page = client.get("/v1/models", limit=PAGE, cursor=cursor, expand=expand)
        yield from page["models"]
        if not page["has_more"]:
            return
        cursor = page["next_cursor"]


def _origin(ours: dict[str, Any]) -> str:
    replaced = f", in place of: {', '.join(ours['replaces'])}" if ours["replaces"] else ""
    return f"{ours['origin']}{replaced}"


def _weights(weights: dict[str, Any]) -> str:
    if weights["source"] is None:
        return "none"
    revision = weights["revision"]
    pinned = f"@{revision[:SHOWN_REVISION]}" if revision else ""
    # A Darkroom before this version, elsewhere, does not say it.
    file = [weights["checkpoint"]] if weights.get("checkpoint") else []
    parts = [
        f"{name} of {place if isinstance(place, str) else ' and '.join(place)}"
        for name, place in weights.get("parts", {}).items()
    ]
    beside = f" with {', '.join([*file, *parts])}" if file or parts else ""
    return f"{weights['source']}{pinned}{beside}"
