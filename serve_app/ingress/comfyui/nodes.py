"""Nodes and models: what a replica's ComfyUI said of them, and the check of a graph by it."""

from __future__ import annotations

import gzip
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from typing_extensions import TypedDict

from serve_app.domain.errors import FieldProblem, InvalidInput, NodesUnknown, NotFound
from serve_app.domain.executors.comfyui import KnownNodes
from serve_app.ingress.comfyui.endpoint import caller_of, endpoint_of
from serve_app.ingress.comfyui.errors import ERRORS, TAG
from serve_app.ingress.http.errors import json_reply
from serve_app.ingress.http.openapi import Operation, answer, in_path
from serve_app.ingress.services.cpu_executor import in_cpu_thread
from serve_app.ingress.services.services import services_of

NOT_KNOWN = (
    "No replica has described the nodes of its ComfyUI yet, so they are not known here. Each does "
    "as soon as its ComfyUI has started. If the pool has no replica, queue any workflow. Ask again "
    "in a minute."
)
MAX_NAMED = 5  # nodes, in one message


class ModelFolder(TypedDict):
    """Kind of models. ``folders`` is empty: where they are is not told."""

    name: str
    folders: list[str]


class ModelName(TypedDict):
    """Model by its path below the folders of its kind."""

    name: str
    pathIndex: int


async def object_info(request: HttpRequest) -> Response:
    """``GET /object_info``: all classes of nodes, as a replica's ComfyUI describes them."""
    known = await _current_nodes(request)
    headers = {"content-type": "application/json", "vary": "accept-encoding"}
    if "gzip" in request.headers.get("accept-encoding", ""):
        return Response(known.packed, headers={**headers, "content-encoding": "gzip"})
    return Response(await in_cpu_thread(gzip.decompress, known.packed), headers=headers)


async def one_class(request: HttpRequest) -> Response:
    """``GET /object_info/{node_class}``: one class, or nothing if there is none of this name."""
    known = await _current_nodes(request)
    described = await in_cpu_thread(known.describe, request.path_params["node_class"])
    return json_reply(described)


async def kinds(request: HttpRequest) -> Response:
    """``GET /models``: kinds of models."""
    return json_reply([*(await _current_nodes(request)).models])


async def models(request: HttpRequest) -> Response:
    """``GET /models/{folder}``: models of a kind."""
    return json_reply(await _models(request))


async def kinds_of_page(request: HttpRequest) -> Response:
    """``GET /experiment/models``: kinds of models, as ComfyUI's page reads them."""
    folders: list[ModelFolder] = [
        {"name": kind, "folders": []} for kind in (await _current_nodes(request)).models
    ]
    return json_reply(folders)


async def models_of_page(request: HttpRequest) -> Response:
    """``GET /experiment/models/{folder}``: models of a kind, as ComfyUI's page reads them."""
    names: list[ModelName] = [{"name": name, "pathIndex": 0} for name in await _models(request)]
    return json_reply(names)


async def embeddings(request: HttpRequest) -> Response:
    """``GET /embeddings``: names of the embeddings, without their suffixes."""
    names = (await _current_nodes(request)).models.get("embeddings", ())
    return json_reply([_stem(name) for name in names])


async def _current_nodes(request: HttpRequest) -> KnownNodes:
    """``NodesUnknown``: no replica has ever described them."""
    endpoint_of(request, await caller_of(request))
    known = await services_of(request).comfyui.current()
    if known is None:
        raise NodesUnknown(NOT_KNOWN)
    return known


async def _models(request: HttpRequest) -> Sequence[str]:
    known = (await _current_nodes(request)).models
    kind: str = request.path_params["folder"]
    if kind not in known:
        raise NotFound(f"ComfyUI has no kind of models {kind[:100]!r}. See /comfyui/models.")
    return known[kind]


def _stem(name: str) -> str:
    folder, slash, last = name.rpartition("/")
    return folder + slash + (last.rpartition(".")[0] or last)


# Check of a graph before it is queued. Values are checked by ComfyUI when the prompt begins: only
# it knows its files, and nodes have checks of their own.


def check_graph(graph: Mapping[str, Any], known: KnownNodes) -> None:
    """Raise ``InvalidInput`` for a graph that no ComfyUI with these nodes runs; each problem is of
    its node, and the message names them. It takes long for a large graph, so call it in a thread.
    """
    if unknown := [*_unknown(graph, known)]:
        raise _refusal(unknown)
    saving = [node for node in graph if known.classes[_class(graph, node)].saves]
    if not saving:
        raise InvalidInput(
            "Prompt has no outputs: add a node that saves something, such as SaveImage."
        )
    # A prompt runs if one of its outputs can be computed; the others are left out.
    missing = {node: problems for node in graph if (problems := [*_missing(graph, node, known)])}
    broken = _reachable([*missing], _dependents(graph))
    if all(output in broken for output in saving):
        needed = _reachable(saving, {node: _sources(graph, node) for node in graph})
        raise _refusal([problem for node in needed for problem in missing.get(node, ())])


def _unknown(graph: Mapping[str, Any], known: KnownNodes) -> Iterator[FieldProblem]:
    for node in graph:
        name = _class(graph, node)
        if name not in known.classes:
            message = f"{_node_label(graph, node)}: ComfyUI here has no such class of nodes"
            where = ("body", "prompt", node, "class_type")
            yield FieldProblem(where, message, "missing_node_type", {"class_type": name})


def _missing(graph: Mapping[str, Any], node: str, known: KnownNodes) -> Iterator[FieldProblem]:
    for name in known.classes[_class(graph, node)].required:
        if name not in graph[node]["inputs"]:
            message = f"{_node_label(graph, node)}: Required input is missing: {name}"
            where = ("body", "prompt", node, "inputs", name)
            of = {"class_type": _class(graph, node)}
            yield FieldProblem(where, message, "required_input_missing", of)


def _sources(graph: Mapping[str, Any], node: str) -> Sequence[str]:
    """Nodes whose results are values of this one."""
    values = cast("Mapping[str, Any]", graph[node]["inputs"]).values()
    links = (cast("list[Any]", value) for value in values if isinstance(value, list))
    return [
        link[0]
        for link in links
        if len(link) == 2 and isinstance(link[0], str) and link[0] in graph
    ]


def _dependents(graph: Mapping[str, Any]) -> Mapping[str, Sequence[str]]:
    """Nodes that have a node's results among their values, by that node."""
    dependents: dict[str, list[str]] = {}
    for node in graph:
        for source in _sources(graph, node):
            dependents.setdefault(source, []).append(node)
    return dependents


def _reachable(starts: Sequence[str], following: Mapping[str, Sequence[str]]) -> Mapping[str, None]:
    """Nodes that are reached from ``starts``, with these. Each is looked at once: a graph may have
    a hundred thousand."""
    seen = dict.fromkeys(starts)
    waiting = [*reversed(starts)]
    while waiting:
        for node in following.get(waiting.pop(), ()):
            if node not in seen:
                seen[node] = None
                waiting.append(node)
    return seen


def _class(graph: Mapping[str, Any], node: str) -> str:
    return str(graph[node]["class_type"])


def _node_label(graph: Mapping[str, Any], node: str) -> str:
    meta = graph[node].get("_meta")
    title = cast("Mapping[str, Any]", meta).get("title") if isinstance(meta, Mapping) else None
    name = _class(graph, node)
    return f"Node {node} ({name})" if title in (None, name) else f"Node {node} ({name}, “{title}”)"


def _refusal(problems: Sequence[FieldProblem]) -> InvalidInput:
    named = "; ".join(problem.message for problem in problems[:MAX_NAMED])
    more = f"; and {len(problems) - MAX_NAMED} more" if len(problems) > MAX_NAMED else ""
    return InvalidInput(f"Nothing was queued. {named}{more}.", tuple(problems))


_MAP = dict[str, Any]

INFO = Operation(
    "comfyuiObjectInfo",
    "List the classes of nodes",
    {200: answer("As a replica's ComfyUI describes them, by name.", _MAP)},
    errors=(404, 503),
    tag=TAG,
    error_format=ERRORS,
)
INFO_OF_ONE = replace(
    INFO,
    name="comfyuiObjectInfoOfClass",
    summary="Show a class of nodes",
    responses={200: answer("The class by its name; empty if there is none.", _MAP)},
    parameters=(in_path("node_class", "Name of the class."),),
)
KINDS = replace(
    INFO,
    name="comfyuiModelKinds",
    summary="List the kinds of models",
    responses={200: answer("Such as `checkpoints`.", list[str])},
)
MODELS = replace(
    INFO,
    name="comfyuiModels",
    summary="List the models of a kind",
    responses={200: answer("Their names.", list[str])},
    parameters=(in_path("folder", "The kind."),),
)
KINDS_OF_PAGE = replace(
    KINDS,
    name="comfyuiModelKindsOfPage",
    summary="List the kinds of models, for ComfyUI's page",
    responses={200: answer("The kinds.", list[ModelFolder])},
)
MODELS_OF_PAGE = replace(
    MODELS,
    name="comfyuiModelsOfPage",
    summary="List the models of a kind, for ComfyUI's page",
    responses={200: answer("The models.", list[ModelName])},
)
EMBEDDINGS = replace(
    KINDS,
    name="comfyuiEmbeddings",
    summary="List the embeddings",
    responses={200: answer("Their names without suffixes.", list[str])},
)
