"""Error text for unknown endpoints, with suggestions."""

from __future__ import annotations

import difflib
import re
from collections.abc import Container, Sequence
from pathlib import Path

FAL_ENDPOINTS = Path(__file__).with_name("fal_endpoints.txt")

WORKFLOWS = frozenset({"workflows", "comfy"})
"""Namespaces of fal for customers' workflows, which are not models."""

_TRAINS = re.compile(r"(?:^|[-/_])train(?:er|ing)(?:$|[-/_])")
HOW_TO_ADD = (
    "To add it, run `darkroom models add` with a diffusers repository; "
    "docs/how-to/add-a-model.md says how."
)
MAX_SHOWN = 200  # characters of an id


def read_fal_ids() -> frozenset[str]:
    """Endpoint ids that fal's JavaScript client 1.10.1 knows."""
    return frozenset(FAL_ENDPOINTS.read_text(encoding="utf-8").split())


def sentence(endpoint_id: str, here: Sequence[str], fal_ids: Container[str]) -> str:
    """Message for an unknown endpoint: the reason, the most similar ids of ``here``, what to do."""
    shown = endpoint_id[:MAX_SHOWN]
    if shown.partition("/")[0] in WORKFLOWS:
        return (
            f"`{shown}` is a workflow, and Darkroom runs none: it serves single models. Call the "
            "endpoints that the workflow is made of one after the other."
        )
    if _TRAINS.search(shown):
        return (
            f"`{shown}` trains a model, and Darkroom trains none: it serves models. Train "
            "elsewhere, and serve the weights with `darkroom models add`."
        )
    near = difflib.get_close_matches(shown, here, n=3, cutoff=0.5)
    if shown in fal_ids:
        nearest = f"Nearest here: {', '.join(near)}." if near else _all(here)
        return (
            f"`{shown}` is an endpoint of fal's that this installation does not have. {nearest} "
            f"{HOW_TO_ADD}"
        )
    if near:
        return f"There is no endpoint `{shown}`. Did you mean {', '.join(near)}?"
    return f"There is no endpoint `{shown}`. {_all(here)}"


def _all(here: Sequence[str]) -> str:
    return f"This installation serves {', '.join(sorted(here)) or 'none'}."
