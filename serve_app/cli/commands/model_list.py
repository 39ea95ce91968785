"""``darkroom models``: the endpoints, their weights, and the recipe that fits this machine."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from typing import Any

from serve_app.cli.connection.client import Client
from serve_app.cli.connection.server import Server
from serve_app.cli.connection.text import echo
from serve_app.domain.endpoint import Recipe, WorkLimit, fitting

# Text for the recipe that fits this machine.


def recipe_text(recipes: Sequence[Recipe], memory: int | None) -> str:
    """Description of the recipe that fits.

    ``recipes`` is not empty and sorted by memory, ascending. ``memory`` is the memory of the
    smallest GPU in bytes; None without a GPU.
    """
    least = recipes[0].memory_gb
    if memory is None:
        return f"none: no GPU was found on this machine, and the smallest recipe needs {least:g} GB"
    chosen = fitting(recipes, memory)
    if chosen is None:
        return (
            f"none: this machine's GPU has {memory / 1e9:.0f} GB, and the smallest recipe needs "
            f"{least:g} GB"
        )
    return (
        f"{chosen.precision}, offload {chosen.offload}, hot: {', '.join(chosen.hot)} "
        f"(for {chosen.memory_gb:g} GB; this machine has {memory / 1e9:.0f})"
        + (f"; at most {largest_text(chosen.largest)}" if chosen.largest else "")
    )


def largest_text(limit: WorkLimit) -> str:
    """Description of the largest work."""
    text = f"{limit.megapixels:g} megapixels"
    text += f" × {limit.frames} frames" if limit.frames > 1 else ""
    if limit.tile_above is not None:
        text += f", decoded in tiles above {limit.tile_above:g}"
    return text


# GPU memory of this machine, read without torch.

NVIDIA_SMI = "nvidia-smi"
QUERY = ("--query-gpu=memory.total", "--format=csv,noheader,nounits")
TIMEOUT_S = 10.0  # without its persistence daemon the driver takes seconds to start
MIB = 2**20


def smallest_gpu_bytes() -> int | None:
    """Memory of the smallest GPU in bytes, because a replica may get any of them.

    None if there is no GPU, or if ``nvidia-smi`` is missing or fails.
    """
    tool = shutil.which(NVIDIA_SMI)
    if tool is None:
        return None
    try:
        asked = subprocess.run(  # noqa: S603 found on the path, with constant arguments
            [tool, *QUERY], capture_output=True, text=True, timeout=TIMEOUT_S, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return parse_smallest(asked.stdout)


def parse_smallest(listing: str) -> int | None:
    """Smallest size in bytes of a listing with one line of MiB per GPU; None if it is empty."""
    sizes = [int(line) for line in listing.split("\n") if line.strip().isdecimal()]
    return min(sizes) * MIB if sizes else None


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

    ``everything``: all endpoints, with weights, recipe, and why one is not served.
    """
    memory = smallest_gpu_bytes()
    with Client(server) as client:
        models = [{**each, "recipe": _recipe(each, memory)} for each in all_models(client)]
    if as_json:
        echo(json.dumps({"device_memory_bytes": memory, "models": models}, indent=2))
        return
    for line in grouped(models, memory, everything=everything):
        echo(line)


def grouped(
    models: Sequence[dict[str, Any]], memory: int | None, *, everything: bool
) -> Iterator[str]:
    """Lines for all endpoints, by what they make. Columns are as wide as their contents."""
    shown = [each for each in models if everything or each["darkroom"]["served"]]
    widths = [
        max(map(len, column), default=0) for column in zip(*map(_columns, shown), strict=True)
    ]
    by_category: dict[str, list[dict[str, Any]]] = {each: [] for each in GROUPS}
    for each in shown:
        by_category.setdefault(each["metadata"]["category"], []).append(each)
    before = ""
    for category, group in by_category.items():
        if group:
            yield f"{before}{GROUPS.get(category, category)}"
            before = "\n"
        for each in group:
            cells = zip(_columns(each), widths, strict=True)
            yield "  ".join(("", *(text.ljust(width) for text, width in cells))).rstrip()
            yield from details(each, memory) if everything else ()
    if not shown:
        yield "No endpoint is served here."
    if hidden := len(models) - len(shown):
        yield f"\n{hidden} more are in the catalogue and not served; --all shows them, and why."


def _columns(model: dict[str, Any]) -> tuple[str, str, str]:
    """Id, name and state of an endpoint."""
    kind = (
        ("demo" if model["darkroom_demo"] else "") if model["darkroom"]["served"] else "not served"
    )
    endpoint_id, name = model["endpoint_id"], model["metadata"]["display_name"]
    return endpoint_id, "" if name == endpoint_id else name, kind


def details(model: dict[str, Any], memory: int | None) -> Iterator[str]:
    """Indented lines with an endpoint's family, licence, weights and recipe."""
    ours = model["darkroom"]
    yield f"      family   {ours['family']}"
    if licence := model["metadata"]["license"]:
        yield f"      licence  {licence}"
    yield f"      weights  {_weights(ours['weights'])}"
    if ours["origin"] != "built-in":
        yield f"      from     {_origin(ours)}"
    if ours["recipes"]:
        yield f"      recipe   {recipe_text(_recipes(model), memory)}"
    if not ours["served"]:
        yield f"      why not  {ours['reason']}"


def all_models(client: Client) -> Iterator[dict[str, Any]]:
    """All models as the server lists them, page by page."""
    cursor: str | None = None
    while True:
        page = client.get("/v1/models", limit=PAGE, cursor=cursor)
        yield from page["models"]
        if not page["has_more"]:
            return
        cursor = page["next_cursor"]


def _recipe(model: dict[str, Any], memory: int | None) -> dict[str, Any] | None:
    """Recipe for this machine, as the server lists it; None if none fits."""
    if memory is None:
        return None
    recipes: list[dict[str, Any]] = model["darkroom"]["recipes"]
    chosen = fitting(_recipes(model), memory)
    return next(
        (each for each in recipes if chosen and each["memory_gb"] == chosen.memory_gb), None
    )


def _recipes(model: dict[str, Any]) -> list[Recipe]:
    return [
        Recipe(
            each["memory_gb"],
            each["precision"],
            each["offload"],
            tuple(each["hot"]),
            compile=each.get("compile", False),
            compile_decoder=each.get("compile_decoder", False),
            dtypes=each.get("dtypes", {}),
            attention=each.get("attention", ""),
            largest=WorkLimit(**limit) if (limit := each.get("largest")) else None,
        )
        for each in model["darkroom"]["recipes"]
    ]


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
