"""A request as a prompt of ComfyUI: its ids, its entry in queue and history, and its output."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, cast

from typing_extensions import TypedDict

from serve_app.catalog.catalog import CatalogEntry
from serve_app.domain.errors import (
    DatabaseUnavailable,
    NotFound,
    RequestDeleted,
    RequestNotFound,
)
from serve_app.domain.outcome import Failure
from serve_app.domain.ports import Queue
from serve_app.domain.progress import Preview
from serve_app.domain.request import LogLine, NewRequest, Request, State
from serve_app.ingress.services import request_ids

KINDS = ("images", "videos", "audios", "files")
"""Lists of files in the output of an endpoint of workflows."""

MAX_ID = 200  # characters of an id that a client made


class ComfyUiFile(TypedDict):
    """File of a node. ``/view`` takes these three as its query."""

    filename: str
    subfolder: str
    type: Literal["output", "input"]


class HistoryStatus(TypedDict):
    """``messages``: the events of the prompt, each with its data."""

    status_str: Literal["success", "error"]
    completed: bool
    messages: list[Any]


class HistoryEntry(TypedDict):
    """Prompt that has ended. ``prompt``: as in the queue. ``outputs``: by node."""

    prompt: list[Any]
    outputs: dict[str, Any]
    status: HistoryStatus
    meta: dict[str, Any]


@dataclass(frozen=True, slots=True)
class PromptFile:
    """File of a request that has succeeded, by the names that its client sees."""

    node: str
    listed_as: str
    name: str
    key: str  # in storage


def prompt_id(request: Request) -> str:
    """Id of the prompt: the one that its client chose, or that of the request."""
    return str(request.input.get("prompt_id") or request.id)


def number(request: Request) -> int:
    """Place in the order of all prompts."""
    return int(request.created_at.timestamp() * 1000)


def queue_entry(request: Request) -> list[Any]:
    """Entry in the queue: number, id, graph, extra data, and nodes whose outputs are wanted."""
    fields = request.input
    extra = dict(cast("Mapping[str, Any]", fields.get("extra_data") or {}))
    if fields.get("client_id"):
        extra["client_id"] = fields["client_id"]
    return [number(request), prompt_id(request), fields.get("prompt") or {}, extra, []]


def history(request: Request) -> HistoryEntry:
    """Entry in the history, of a request that has ended."""
    by_node = outputs(request)
    ended = [*queue_entry(request)[:4], list(by_node)]
    succeeded = request.state is State.SUCCEEDED
    messages = [["execution_start", _message_data(request, request.started_at)], *endings(request)]
    return {
        "prompt": ended,
        "outputs": by_node,
        "status": {
            "status_str": "success" if succeeded else "error",
            "completed": succeeded,
            "messages": messages,
        },
        "meta": {node: _names(node) for node in by_node},
    }


def outputs(request: Request) -> dict[str, Any]:
    """Output of each node that has one. Empty if it was deleted."""
    by_node: dict[str, Any] = {}
    for file in files(request):
        entry: ComfyUiFile = {"filename": file.name, "subfolder": request.id, "type": "output"}
        by_node.setdefault(file.node, {}).setdefault(file.listed_as, []).append(entry)
    for node, text in texts(request):
        by_node.setdefault(node, {}).setdefault("text", []).append(text)
    return by_node


def texts(request: Request) -> Iterator[tuple[str, str]]:
    """Texts of a request, each with its node."""
    output = _output(request)
    values = cast("Sequence[str]", output.get("texts") or ())
    for node, text in zip(output.get("text_nodes") or (), values, strict=False):
        yield str(node), text


def files(request: Request) -> Iterator[PromptFile]:
    """Files of a request; no two have the same name."""
    taken: set[str] = set()
    output = _output(request)
    for kind in KINDS:
        listed = output.get(kind)
        for entry in cast("list[Any]", listed) if isinstance(listed, list) else ():
            fields = cast("Mapping[str, Any]", entry) if isinstance(entry, Mapping) else {}
            key = fields.get("artifact")
            if not isinstance(key, str):
                continue
            name = str(fields.get("file_name") or key).rpartition("/")[2]
            if name in taken:
                name = f"{len(taken)}_{name}"
            taken.add(name)
            called = str(fields.get("listed_as") or kind)
            yield PromptFile(str(fields.get("node", "")), called, name, key)


def _output(request: Request) -> Mapping[str, Any]:
    return (request.outcome.output if request.outcome else None) or {}


_NODE = re.compile(r"Node (?P<node>\S+) \((?P<kind>.+)\)")
"""Line of a request's log that its executor writes when a node begins."""


def begun_node(line: LogLine, graph: Mapping[str, Any]) -> str | None:
    """Node of the graph that begins at a line of its request's log; None: another line."""
    match = _NODE.fullmatch(line.message)
    if match is None or class_of(graph, match["node"]) != match["kind"]:
        return None
    return match["node"]


async def newest_preview(queue: Queue, request: Request) -> Preview | None:
    """The newest preview of a request; each look asks the replica for more. None: there is none, or
    it was submitted without. ``RequestNotFound``."""
    try:
        return await queue.preview(request.tenant, request.id)
    except RequestNotFound:
        raise
    except (NotFound, DatabaseUnavailable):
        return None


def class_of(graph: Mapping[str, Any], node: str) -> str:
    """Class of a node; empty if it is not in the graph. A graph that came by another protocol was
    not checked: its nodes may be anything."""
    fields = graph.get(node)
    named = isinstance(fields, Mapping)
    return str(cast("Mapping[str, Any]", fields).get("class_type", "")) if named else ""


# Events about a prompt: kind and data.

Event = tuple[str, dict[str, Any]]


def endings(request: Request) -> list[list[Any]]:
    """Event of the end, as the history has it."""
    kind, data = ending(request)
    return [[kind, data]]


def ending(request: Request, node: str = "") -> Event:
    """Event of the end. ``node``: the one that ran."""
    message = _message_data(request, request.finished_at)
    if request.state is State.SUCCEEDED:
        return "execution_success", message
    graph = cast("Mapping[str, Any]", request.input.get("prompt") or {})
    message |= {"node_id": node, "node_type": class_of(graph, node), "executed": []}
    if request.state is State.CANCELLED:
        return "execution_interrupted", message
    failure = request.outcome.failure if request.outcome else None
    return "execution_error", message | _exception(failure)


def _exception(failure: Failure | None) -> dict[str, Any]:
    return {
        "exception_type": failure.code if failure else "error",
        "exception_message": failure.message if failure else "It ended without an outcome.",
        "traceback": [],
        "current_inputs": {},
        "current_outputs": [],
    }


def _message_data(request: Request, at: datetime | None) -> dict[str, Any]:
    when = at or request.finished_at or request.created_at
    return {"prompt_id": prompt_id(request), "timestamp": int(when.timestamp() * 1000)}


def _names(node: str) -> dict[str, Any]:
    return {"node_id": node, "display_node": node, "parent_node": None, "real_node_id": node}


# Ids that clients choose. They are idempotency keys: a prompt sent twice under one runs once.


def idempotency(chosen: str) -> tuple[str, bytes]:
    """Idempotency key of a client's id, and the digest of its body: it does not depend on the body,
    so that the id alone finds the request."""
    key = f"comfyui:{chosen}"
    return key, hashlib.sha256(key.encode()).digest()


async def find(queue: Queue, tenant: str, entry: CatalogEntry, identifier: str) -> Request | None:
    """Request of a prompt by either id. None: the tenant has none at this endpoint."""
    endpoint = entry.endpoint.id
    if not identifier or len(identifier) > MAX_ID:
        return None
    key, digest = idempotency(identifier)
    new = NewRequest(
        id="",
        tenant=tenant,
        endpoint=endpoint,
        endpoint_digest="",
        pool="",
        input={},
        idempotency_key=key,
        body_digest=digest,
    )
    try:
        request = await queue.find_earlier(new)
        if request is None and request_ids.valid(identifier):
            request = await queue.get(tenant, identifier)
    except (RequestNotFound, RequestDeleted):
        return None
    return request if request is not None and request.endpoint == endpoint else None
