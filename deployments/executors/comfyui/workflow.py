"""A ComfyUI workflow as an endpoint runs it: its graph, and which of its values requests give."""

from __future__ import annotations

import copy
import random
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from serve_app.domain.errors import InvalidInput
from serve_app.options.executors import DeployedOption

COMFYUI = "comfyui"
"""Name that endpoints use as their ``family``, and their option with the workflow."""

GRAPH_FIELD = "prompt"
"""Field of the input with the graph, for an endpoint that runs any."""

FILES_FIELD, EXTRA_FIELD = "files", "extra_data"
"""Fields of the same endpoint: files by the names that the graph has for them, and what ComfyUI
keeps beside the graph."""

MAX_SEED = 2**53 - 1
"""Largest seed that is drawn: every client can read it, also those whose numbers are floats."""

Graph = Mapping[str, Mapping[str, Any]]
"""A workflow in ComfyUI's API format: by the id of a node, its ``class_type`` and ``inputs``."""


@dataclass(frozen=True, slots=True)
class ExposedInput:
    """A value of a node that requests give. ``kind``: empty, ``seed``, or the kind of a file."""

    name: str
    node: str
    field: str
    kind: str = ""

    @property
    def is_file(self) -> bool:
        return self.kind not in ("", "seed")


class ComfyUiWorkflow(DeployedOption):
    """Workflow of an endpoint. ``graph`` is None for an endpoint that runs any: its requests have
    one."""

    graph: Graph | None
    inputs: tuple[ExposedInput, ...] = ()
    outputs: tuple[str, ...] = ()  # nodes whose files are the result; empty: all that save some

    def field_of(self, node: str, name: str) -> str | None:
        """Name of the input that sets the value ``name`` of ``node``. None: none does."""
        names = [
            exposed.name for exposed in self.inputs if (exposed.node, exposed.field) == (node, name)
        ]
        return names[0] if names else None


@dataclass(frozen=True, slots=True)
class SubmittedPrompt:
    """One run of a workflow."""

    id: str  # of the prompt, at ComfyUI
    graph: Graph
    outputs: tuple[str, ...]
    seeds: Mapping[str, int]  # by the name of the input


def job(workflow: ComfyUiWorkflow, fields: Mapping[str, Any], name: str) -> SubmittedPrompt:
    """Run of a workflow with the values of a request. Files are names at ComfyUI by now.

    ``name``: of the attempt; equal names give equal ids. Raises ``InvalidInput`` if the request has
    the graph, and it is none.
    """
    graph = workflow.graph
    if graph is None:
        graph = as_graph(fields.get(GRAPH_FIELD), GRAPH_FIELD)
    filled = {node: dict(copy.deepcopy(dict(entry))) for node, entry in graph.items()}
    seeds: dict[str, int] = {}
    for exposed in workflow.inputs:
        value = fields.get(exposed.name)
        if value is None and exposed.kind == "seed":
            value = random.randint(0, MAX_SEED)  # noqa: S311  # a seed is no secret
        if value is None:
            continue
        if exposed.kind == "seed":
            seeds[exposed.name] = int(value)
        filled[exposed.node]["inputs"][exposed.field] = value
    if workflow.graph is None:
        _rename(filled, fields.get(FILES_FIELD) or {})
    for node, values in literals(filled):
        if isinstance(values.get("filename_prefix"), str):
            # ComfyUI counts up within a prefix: two requests must never share a file.
            values["filename_prefix"] = f"{folder_of(name)}/{node}"
    return SubmittedPrompt(
        str(uuid.uuid5(uuid.NAMESPACE_OID, name)), filled, workflow.outputs, seeds
    )


def _rename(graph: Mapping[str, Mapping[str, Any]], renamed: Mapping[str, str]) -> None:
    """Put ComfyUI's names of files in place of the client's."""
    for _, values in literals(graph):
        for field, value in values.items():
            if isinstance(value, str) and value in renamed:
                values[field] = renamed[value]


def folder_of(name: str) -> str:
    """Folder of an attempt's files, below ComfyUI's folders for inputs and outputs."""
    return f"darkroom/{name}"


def literals(graph: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Nodes of a graph with their values."""
    for node, entry in graph.items():
        values = entry.get("inputs")
        if isinstance(values, dict):
            yield node, cast("dict[str, Any]", values)


def as_graph(value: Any, field: str) -> Graph:
    """A value as a graph. Raises ``InvalidInput``, which names ``field`` and the node."""
    if not isinstance(value, Mapping) or not value:
        raise InvalidInput.of_field(field, "Input should be a workflow in ComfyUI's API format")
    for node, entry in cast("Mapping[str, Any]", value).items():
        fields = cast("Mapping[str, Any]", entry) if isinstance(entry, Mapping) else {}
        if not isinstance(fields.get("class_type"), str):
            raise InvalidInput.of_field(f"{field}.{node}", "Node should have a class_type")
        if not isinstance(fields.get("inputs"), Mapping):
            raise InvalidInput.of_field(f"{field}.{node}", "Node should have inputs")
    return cast("Graph", value)


def is_link(value: Any) -> bool:
    """Check for a reference to an output of another node: its id, and the output's number."""
    if not isinstance(value, list):
        return False
    parts = cast("Sequence[Any]", value)
    return len(parts) == 2 and isinstance(parts[0], str) and isinstance(parts[1], int)
