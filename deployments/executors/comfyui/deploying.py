"""Endpoints of ComfyUI workflows, as ``darkroom deploy`` stores them."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from deployments.executors.comfyui.interface import Interface, interface
from deployments.executors.comfyui.server import node_classes
from deployments.executors.comfyui.workflow import COMFYUI
from serve_app.domain.endpoint import ComfyUiConfig
from serve_app.domain.errors import Misconfigured
from serve_app.paths import absolute


def described(
    graph: Mapping[str, Any],
    comfyui: str | None,
    configured: ComfyUiConfig | None,
    weights: Path | None,
    *,
    named: Sequence[str],
    outputs: Sequence[str],
) -> Interface:
    """Interface of a workflow, checked against the nodes of a ComfyUI.

    ``comfyui``: origin or folder of the ComfyUI that describes them; None: the ``configured`` one.
    ``weights``: directory of Darkroom's store. ``named``: texts such as ``prompt=6.text``.
    """
    settings = configured if comfyui is None else _place_of(comfyui)
    if settings is None:
        raise Misconfigured(
            "No ComfyUI is known that has the workflow's nodes. Name its address or its folder "
            "with --comfyui, or in the setting `comfyui`."
        )
    classes = asyncio.run(node_classes(settings, weights))
    places = dict(map(_place, named))
    return interface(_checked(graph), classes, places, outputs)


def entry(found: Interface, category: str, description: str) -> dict[str, Any]:
    """Entry of the catalogue for a workflow."""
    return {
        "family": COMFYUI,
        "schema": "json",
        "category": category,
        "description": description,
        "options": {
            "comfyui": found.workflow.as_option(),
            "input_schema": found.input_schema,
            "output_schema": found.output_schema,
        },
    }


def default_name(file: Path) -> str:
    """Name of an endpoint by that of its file."""
    return re.sub(r"[^a-z0-9]+", "-", file.stem.lower()).strip("-") or "workflow"


def _place_of(given: str) -> ComfyUiConfig:
    if re.match(r"https?://", given):
        return ComfyUiConfig(address=given)
    try:
        return ComfyUiConfig(path=absolute(Path(given)))
    except ValueError as error:
        raise Misconfigured(f"{error}.") from None


def _place(text: str) -> tuple[str, str]:
    name, equals, place = text.partition("=")
    if not equals or not re.fullmatch(r"[A-Za-z_]\w*", name) or "." not in place:
        raise Misconfigured(
            f"--input {text} should be NAME=NODE.VALUE, such as --input prompt=6.text."
        )
    return name, place


def _checked(graph: Mapping[str, Any]) -> Mapping[str, Any]:
    for node, each in graph.items():
        if not isinstance(each.get("inputs"), dict):
            raise Misconfigured(f"Node {node} ({each['class_type']}) has no inputs.")
    return graph
