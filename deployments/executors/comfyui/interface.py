"""Inputs and outputs of a workflow as an endpoint's: found in its graph, or named by its author."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any, cast

from deployments.executors.base import FILE_MARK
from deployments.executors.comfyui.workflow import ComfyUiWorkflow, ExposedInput, Graph, is_link
from serve_app.domain.errors import Misconfigured

NodeClasses = Mapping[str, Mapping[str, Any]]
"""Classes of nodes by name, as ComfyUI's ``/object_info`` describes them."""

ROLES = {
    "seed": "seed",
    "noise_seed": "seed",
    "steps": "num_inference_steps",
    "cfg": "guidance_scale",
    "guidance": "guidance_scale",
    "denoise": "strength",
    "width": "width",
    "height": "height",
    "batch_size": "num_images",
    "length": "num_frames",
    "fps": "fps",
}
"""Values of nodes that become inputs by themselves, and the names that fal's endpoints use."""

UPLOADS = {"image_upload": "image", "video_upload": "video", "audio_upload": "audio"}
"""Options by which a node says that a value is a file to upload."""

KINDS = ("images", "videos", "audios", "texts", "files")
"""Fields of an output. Each is a list, which may be empty."""

TYPES = {"INT": "integer", "FLOAT": "number", "STRING": "string", "BOOLEAN": "boolean"}

SHOWN_CHOICES = 8


@dataclass(frozen=True, slots=True)
class Interface:
    """What an endpoint of a workflow takes and gives."""

    workflow: ComfyUiWorkflow
    input_schema: Mapping[str, Any]
    output_schema: Mapping[str, Any]


def interface(
    graph: Graph, classes: NodeClasses, named: Mapping[str, str], outputs: Sequence[str]
) -> Interface:
    """Interface of a workflow.

    ``named``: names of inputs with their places, such as ``{"text": "6.text"}``; empty: those that
    are found. ``outputs``: nodes whose files are the result; empty: all that save some.

    Raises ``Misconfigured``, which names the node.
    """
    _check(graph, classes)
    inputs = _select_inputs(graph, classes, named) if named else _detect_inputs(graph, classes)
    saving = [node for node in graph if _class(graph, classes, node).get("output_node")]
    for node in outputs:
        if node not in graph:
            raise Misconfigured(f"The workflow has no node {node}, whose output you named.")
        if node not in saving:
            raise Misconfigured(f"{_node_label(graph, node)} saves nothing, so it has no output.")
    if not saving:
        raise Misconfigured(
            "The workflow saves nothing: it needs a node such as SaveImage, whose files are the "
            "result."
        )
    properties: dict[str, Any] = {}
    required: list[str] = []
    for exposed in inputs:
        schema = _schema(graph, classes, exposed)
        properties[exposed.name] = schema
        if exposed.is_file:
            required.append(exposed.name)
    input_schema = {"type": "object", "properties": properties, "additionalProperties": False}
    return Interface(
        ComfyUiWorkflow(graph=graph, inputs=tuple(inputs), outputs=tuple(outputs)),
        input_schema | ({"required": required} if required else {}),
        _output_schema(graph, classes, outputs or saving),
    )


def any_graph() -> Interface:
    """Interface of an endpoint that runs whatever workflow a request has."""
    graph = {
        "type": "object",
        "title": "Workflow",
        "description": "Workflow in ComfyUI's API format.",
        "minProperties": 1,
        "additionalProperties": {
            "type": "object",
            "properties": {"class_type": {"type": "string"}, "inputs": {"type": "object"}},
            "required": ["class_type", "inputs"],
        },
    }
    file = {"type": "string", "format": "uri", FILE_MARK: "file"}
    fields = {
        "prompt": graph,
        "files": {
            "type": "object",
            "description": "Files by the names that values of the workflow have for them.",
            "additionalProperties": file,
        },
        "extra_data": {"type": "object", "description": "What ComfyUI keeps beside the workflow."},
        "client_id": {"type": "string", "description": "Client that hears the events."},
        "prompt_id": {"type": "string", "description": "The client's own id of the prompt."},
    }
    schema = {"type": "object", "properties": fields, "required": ["prompt"]}
    return Interface(
        ComfyUiWorkflow(graph=None), schema, {"type": "object", "properties": _fields(KINDS)}
    )


def _check(graph: Graph, classes: NodeClasses) -> None:
    """Check what ComfyUI would refuse. Raises ``Misconfigured``."""
    for node in graph:
        described, values = _class(graph, classes, node), graph[node]["inputs"]
        where = _node_label(graph, node)
        for name, spec in _specs(described, "required"):
            if name not in values:
                raise Misconfigured(f"{where}: the value `{name}` is missing.")
            choices = _choices(spec)
            value = values[name]
            if choices is None or is_link(value) or _upload(spec) or value in choices:
                continue
            shown = ", ".join(map(str, choices[:SHOWN_CHOICES])) or "none"
            more = ", …" if len(choices) > SHOWN_CHOICES else ""
            raise Misconfigured(
                f"{where}: this ComfyUI has no {name} {value!r}. It has: {shown}{more}."
            )
        for name, value in values.items():
            if is_link(value) and value[0] not in graph:
                raise Misconfigured(
                    f"{where}: `{name}` refers to node {value[0]}, which is not there."
                )


def _class(graph: Graph, classes: NodeClasses, node: str) -> Mapping[str, Any]:
    node_class = classes.get(str(graph[node]["class_type"]))
    if node_class is None:
        raise Misconfigured(
            f"{_node_label(graph, node)}: this ComfyUI has no such class of nodes. Install its "
            "custom nodes there, and list them in the setting `comfyui`."
        )
    return node_class


def _node_label(graph: Graph, node: str) -> str:
    title = graph[node].get("_meta", {}).get("title")
    name = graph[node]["class_type"]
    return f"Node {node} ({name})" if title in (None, name) else f"Node {node} ({name}, “{title}”)"


def _specs(described: Mapping[str, Any], *groups: str) -> Iterator[tuple[str, Sequence[Any]]]:
    by_group = cast("Mapping[str, Any]", described.get("input", {}))
    for group in groups:
        yield from cast("Mapping[str, Sequence[Any]]", by_group.get(group) or {}).items()


def _options(spec: Sequence[Any]) -> Mapping[str, Any]:
    options = spec[1] if len(spec) > 1 else None
    return cast("Mapping[str, Any]", options) if isinstance(options, Mapping) else {}


def _choices(spec: Sequence[Any]) -> Sequence[Any] | None:
    """Values of a menu, as older and newer nodes write one. None: it is no menu."""
    if isinstance(spec[0], list):
        return cast("Sequence[Any]", spec[0])
    if spec[0] == "COMBO":
        options = _options(spec)
        # A menu that a server fills later has no options here.
        return cast("Sequence[Any]", options["options"]) if "options" in options else None
    return None


def _upload(spec: Sequence[Any]) -> str:
    """Kind of the file that is a value. Empty: it is none."""
    options = _options(spec)
    return next((kind for option, kind in UPLOADS.items() if options.get(option)), "")


def _detect_inputs(graph: Graph, classes: NodeClasses) -> list[ExposedInput]:
    """Inputs that a user of the workflow wants to give: files, prompts, seeds, sizes, steps."""
    texts = _texts(graph)
    exposed: list[tuple[str, str, str, str]] = []
    for node in graph:
        described, values = _class(graph, classes, node), graph[node]["inputs"]
        for name, spec in _specs(described, "required", "optional"):
            if name not in values or is_link(values[name]):
                continue
            if kind := _upload(spec):
                role = "mask" if "mask" in str(graph[node]["class_type"]).lower() else kind
                exposed.append((f"{role}_url", node, name, kind))
            elif spec[0] == "STRING" and _options(spec).get("multiline"):
                exposed.append((texts.get(node, "prompt"), node, name, ""))
            elif name in ROLES and spec[0] in ("INT", "FLOAT"):
                exposed.append((ROLES[name], node, name, "seed" if ROLES[name] == "seed" else ""))
    times = Counter(name for name, *_ in exposed)
    return [
        ExposedInput(name if times[name] == 1 else f"{name}_{node}", node, field, kind)
        for name, node, field, kind in exposed
    ]


def _texts(graph: Graph) -> Mapping[str, str]:
    """Names of the nodes before the ``positive`` and ``negative`` values of samplers. A node before
    both is the prompt."""
    names: dict[str, str] = {}
    for value, called in (("negative", "negative_prompt"), ("positive", "prompt")):
        for fields in graph.values():
            link = fields["inputs"].get(value)
            if is_link(link):
                names |= dict.fromkeys(_before(graph, str(link[0])), called)
    return names


def _before(graph: Graph, node: str) -> set[str]:
    """A node, and all nodes that it depends on."""
    seen: set[str] = set()
    waiting = [node]
    while waiting:
        current = waiting.pop()
        if current in graph and current not in seen:
            seen.add(current)
            values = graph[current]["inputs"].values()
            waiting += [str(value[0]) for value in values if is_link(value)]
    return seen


def _select_inputs(
    graph: Graph, classes: NodeClasses, named: Mapping[str, str]
) -> list[ExposedInput]:
    exposed: list[ExposedInput] = []
    for name, place in named.items():
        node, _, field = place.partition(".")
        if node not in graph:
            raise Misconfigured(f"Input {name}: the workflow has no node {node}.")
        specs = dict(_specs(_class(graph, classes, node), "required", "optional"))
        where = _node_label(graph, node)
        if field not in specs:
            raise Misconfigured(
                f"Input {name}: {where} has no value `{field}`. It has: {', '.join(specs)}."
            )
        if is_link(graph[node]["inputs"].get(field)):
            raise Misconfigured(
                f"Input {name}: `{field}` of {where} comes from another node, so no request can "
                "give it."
            )
        kind = _upload(specs[field])
        exposed.append(ExposedInput(name, node, field, kind or _seed(field)))
    return exposed


def _seed(field: str) -> str:
    return "seed" if ROLES.get(field) == "seed" else ""


def _schema(graph: Graph, classes: NodeClasses, exposed: ExposedInput) -> dict[str, Any]:
    """JSON Schema of an input."""
    described = _class(graph, classes, exposed.node)
    spec = dict(_specs(described, "required", "optional"))[exposed.field]
    options, value = _options(spec), graph[exposed.node]["inputs"].get(exposed.field)
    schema: dict[str, Any] = {"title": exposed.name.replace("_", " ").capitalize()}
    if tooltip := options.get("tooltip"):
        schema["description"] = str(tooltip)
    choices = _choices(spec)
    if exposed.is_file:
        return schema | {"type": "string", "format": "uri", FILE_MARK: exposed.kind}
    if choices is not None:
        schema["enum"] = list(choices)
    elif isinstance(spec[0], str) and spec[0] in TYPES:
        schema["type"] = TYPES[spec[0]]
        bounds = (("minimum", "min"), ("maximum", "max"))
        schema |= {ours: options[theirs] for ours, theirs in bounds if theirs in options}
    if exposed.kind != "seed" and value is not None:
        schema["default"] = value
    return schema


def _output_schema(graph: Graph, classes: NodeClasses, saving: Sequence[str]) -> Mapping[str, Any]:
    kinds = {_saves(graph, classes, node) for node in saving}
    properties = _fields([kind for kind in KINDS if kind in kinds])
    seeds: dict[str, Any] = {
        "seeds": {
            "type": "object",
            "title": "Seeds",
            "description": "Seeds by the names of their inputs.",
            "additionalProperties": {"type": "integer"},
        }
    }
    return {"type": "object", "properties": properties | seeds}


def _saves(graph: Graph, classes: NodeClasses, node: str) -> str:
    """What a node saves, by what it takes."""
    types = {str(spec[0]) for _, spec in _specs(_class(graph, classes, node), "required")}
    name = str(graph[node]["class_type"]).lower()
    if "VIDEO" in types or any(word in name for word in ("video", "webm")):
        return "videos"
    if "AUDIO" in types:
        return "audios"
    if types & {"IMAGE", "MASK"}:
        return "images"
    return "texts" if "*" in types or "STRING" in types else "files"


def _fields(kinds: Sequence[str]) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for kind in kinds:
        item: dict[str, Any] = {"type": "string"}
        if kind != "texts":
            item = {
                "type": "object",
                "properties": {
                    "url": {"type": "string", "description": "URL of the file."},
                    "content_type": {"type": "string", "description": "Media type."},
                    "file_name": {"type": "string"},
                },
                "required": ["url"],
                FILE_MARK: kind.removesuffix("s"),
            }
        fields[kind] = {"type": "array", "title": kind.capitalize(), "items": item}
    return fields


def kind_of(file_name: str, media_type: str) -> str:
    """Field of the output that a file belongs to."""
    first = media_type.partition("/")[0]
    if PurePath(file_name).suffix.lower() in (".webm", ".mp4", ".mov", ".mkv"):
        return "videos"
    return {"image": "images", "video": "videos", "audio": "audios"}.get(first, "files")
