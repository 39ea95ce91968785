"""Endpoints of ComfyUI workflows, as ``darkroom deploy`` stores them."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from deployments.executors.comfyui.interface import interface
from deployments.executors.comfyui.server import node_classes
from deployments.executors.comfyui.workflow import COMFYUI
from deployments.executors.kind import DeployContext
from serve_app.domain.errors import Misconfigured
from serve_app.domain.executors.comfyui import ComfyUiConfig
from serve_app.domain.executors.deployable import Choices, Deployable
from serve_app.paths import absolute


def deploy(choices: Choices, context: DeployContext) -> Deployable | None:
    """The workflow in a file, checked against the nodes of a ComfyUI: the one that is named, or
    else that of the settings."""
    path = choices.path
    graph = None if path is None else comfyui_graph(path)
    if path is None or graph is None:
        return None
    choices.refuse("a ComfyUI workflow", "--pool", "--input", "--output", "--comfyui")
    settings = (
        context.settings.get(COMFYUI) if choices.comfyui is None else _place_of(choices.comfyui)
    )
    if settings is None:
        raise Misconfigured(
            "No ComfyUI is known that has the workflow's nodes. Name its address or its folder "
            "with --comfyui, or in the setting `comfyui`."
        )
    classes = asyncio.run(node_classes(settings, context.weights))
    places = dict(map(_place, choices.inputs))
    exposed = interface(_check_graph(graph), classes, places, choices.outputs)
    entry = {
        "family": COMFYUI,
        "schema": "json",
        "description": f"ComfyUI workflow {path.stem}.",
        "options": {
            COMFYUI: exposed.workflow.model_dump(mode="json"),
            "input_schema": exposed.input_schema,
            "output_schema": exposed.output_schema,
        },
    }
    name = re.sub(r"[^a-z0-9]+", "-", path.stem.lower()).strip("-") or "workflow"
    return Deployable([choices.entry(choices.base_id(name), entry)])


def comfyui_graph(path: Path) -> Mapping[str, Any] | None:
    """The workflow in a file, in ComfyUI's API format. None: it has something else.

    Raises ``Misconfigured`` for one in the format of ComfyUI's editor.
    """
    if path.suffix != ".json" or not path.is_file():
        return None
    try:
        document: Any = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None  # whoever reads it as something else says what is wrong
    if not isinstance(document, dict):
        return None
    fields = cast("Mapping[str, Any]", document)
    if isinstance(fields.get("nodes"), list) and "links" in fields:
        raise Misconfigured(
            f"{path.name} is in the format of ComfyUI's editor. Export it there for programs: "
            "Workflow > Export (API)."
        )
    nodes = fields.values()
    is_graph = all(isinstance(node, dict) and "class_type" in node for node in nodes)
    return fields if fields and is_graph else None


def _place_of(location: str) -> ComfyUiConfig:
    if re.match(r"https?://", location):
        return ComfyUiConfig(address=location)
    try:
        return ComfyUiConfig(path=absolute(Path(location)))
    except ValueError as error:
        raise Misconfigured(f"{error}.") from None


def _place(text: str) -> tuple[str, str]:
    name, equals, place = text.partition("=")
    if not equals or not re.fullmatch(r"[A-Za-z_]\w*", name) or "." not in place:
        raise Misconfigured(
            f"--input {text} should be NAME=NODE.VALUE, such as --input prompt=6.text."
        )
    return name, place


def _check_graph(graph: Mapping[str, Any]) -> Mapping[str, Any]:
    for node, entry in graph.items():
        if not isinstance(entry.get("inputs"), dict):
            raise Misconfigured(f"Node {node} ({entry['class_type']}) has no inputs.")
    return graph
