"""The installation's ComfyUI, and what its clients ask for beside their prompts: nodes and models,
as a replica's ComfyUI describes them, and small files that each tenant keeps.
"""

from __future__ import annotations

import asyncio
import gzip
import io
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol, cast

from serve_app.domain.errors import Unavailable
from serve_app.domain.ports import Clock

MAX_DESCRIPTION_BYTES = 64 * 2**20
"""Largest description of nodes and models, as JSON."""

MAX_PACKED_BYTES = 8 * 2**20
"""The same by gzip. 300 kB of ComfyUI's own nodes take 30."""

MAX_FILE_BYTES = 2 * 2**20
MAX_FILES = 500  # of a tenant
MAX_TENANT_BYTES = 32 * 2**20


@dataclass(frozen=True, slots=True)
class ComfyUiConfig:
    """A ComfyUI of the operator's: a folder on each node, or an address."""

    path: Path | None = None  # folder with its main.py
    python: Path | None = None  # of its environment; None: venv/bin/python in its folder
    address: str = ""  # of one that runs elsewhere, instead of a path
    models: Path | None = None  # folder with a subfolder for each kind of models
    nodes: Mapping[str, str] = field(default_factory=dict[str, str])  # name → commit
    arguments: tuple[str, ...] = ()
    start_timeout_s: float = 300.0


@dataclass(frozen=True, slots=True)
class ComfyUiFileInfo:
    """A file that a tenant keeps."""

    path: str
    size: int  # bytes
    created_at: datetime
    changed_at: datetime


class ComfyUiBook(Protocol):
    """Store of both. Methods raise ``DatabaseUnavailable``."""

    async def describe(self, packed: bytes) -> None:
        """Store the description of a ComfyUI, in place of the one before. ``TooLarge``."""
        ...

    async def digest(self) -> str:
        """SHA-256 of the description; empty if there is none."""
        ...

    async def description(self) -> bytes | None:
        """The description: JSON by gzip. None: no replica has ever sent one."""
        ...

    async def files(self, tenant: str) -> Sequence[ComfyUiFileInfo]:
        """Files of a tenant, by their paths."""
        ...

    async def read(self, tenant: str, path: str) -> bytes | None:
        """Content of a file. None: there is none."""
        ...

    async def put(self, tenant: str, path: str, content: bytes, *, overwrite: bool = True) -> bool:
        """Store a file. False: there is one, which must not be replaced. ``StorageFull`` above the
        limits of a tenant."""
        ...

    async def merge(self, tenant: str, path: str, values: Mapping[str, Any]) -> None:
        """Set values of a file that is a JSON object. Calls at the same time lose none.
        ``StorageFull`` above the limits of a tenant."""
        ...

    async def move(self, tenant: str, source: str, path: str, *, overwrite: bool = True) -> bool:
        """Rename a file. False: there is one at ``path``, which must not be replaced. ``NotFound``:
        there is none at ``source``."""
        ...

    async def remove(self, tenant: str, path: str) -> bool:
        """Remove a file. False: there is none."""
        ...


class PromptArrivals:
    """Says at once which tenants have queued a prompt through this process, so that who waits for
    one need not ask the database as often. Use on one event loop."""

    def __init__(self) -> None:
        self._awaited: dict[str, asyncio.Event] = {}

    def announce(self, tenant: str) -> None:
        """Wake those who wait for a prompt of the tenant."""
        if (event := self._awaited.pop(tenant, None)) is not None:
            event.set()

    def next(self, tenant: str) -> asyncio.Event:
        """Event of the next prompt of the tenant. Take it before a look at the database, so that no
        prompt after the look is missed."""
        return self._awaited.setdefault(tenant, asyncio.Event())


# Nodes and models as an ingress process knows them.

LOOK_EVERY_S = 5.0
"""Age from which a process looks whether there is another description."""


@dataclass(frozen=True, slots=True)
class NodeClass:
    """What has to be known of a class of nodes to check a graph."""

    saves: bool  # its result is one of the prompt
    required: tuple[str, ...]  # inputs that a graph must have


@dataclass(frozen=True, slots=True)
class KnownNodes:
    """What a replica's ComfyUI has."""

    packed: bytes  # answer of ``/object_info``, by gzip
    classes: Mapping[str, NodeClass]
    models: Mapping[str, Sequence[str]]  # names of files by their kind, such as ``checkpoints``
    version: str

    def describe(self, name: str) -> Mapping[str, Any]:
        """A class as ComfyUI describes it, by its name; empty if there is none. It takes long, so
        call it in a thread."""
        if name not in self.classes:
            return {}
        return {name: json.loads(gzip.decompress(self.packed))[name]}


class ComfyUiNodes:
    """The description in ``book`` that is in force, and the book itself."""

    def __init__(self, book: ComfyUiBook, clock: Clock) -> None:
        self.book = book
        self.arrivals = PromptArrivals()
        self._clock = clock
        self._digest = ""
        self._known: KnownNodes | None = None
        self._looked_at: float | None = None
        self._looking = asyncio.Lock()

    async def current(self) -> KnownNodes | None:
        """What is known. None: no replica has ever described its ComfyUI."""
        async with self._looking:
            now = self._clock.monotonic()
            if self._looked_at is None or now >= self._looked_at + LOOK_EVERY_S:
                await self._look()
                self._looked_at = now
        return self._known

    async def _look(self) -> None:
        digest = await self.book.digest()
        if digest == self._digest:
            return
        packed = await self.book.description()
        self._known = None if packed is None else await asyncio.to_thread(known_nodes, packed)
        self._digest = digest


def known_nodes(packed: bytes) -> KnownNodes:
    """Read a description. ``Unavailable`` if it is damaged or too large."""
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(packed)) as file:
            text = file.read(MAX_DESCRIPTION_BYTES + 1)
        if len(text) > MAX_DESCRIPTION_BYTES:
            raise ValueError("it is too large")  # noqa: TRY301
        document = json.loads(text)
        classes = cast("Mapping[str, Mapping[str, Any]]", document["classes"])
        return KnownNodes(
            packed=gzip.compress(json.dumps(classes, separators=(",", ":")).encode(), mtime=0),
            classes={name: _node_class(node_class) for name, node_class in classes.items()},
            models={str(kind): [*map(str, names)] for kind, names in document["models"].items()},
            version=str(document.get("version", "")),
        )
    except (
        OSError,
        EOFError,
        zlib.error,
        ValueError,
        TypeError,
        KeyError,
        AttributeError,
    ) as error:
        raise Unavailable(
            "What a replica says of ComfyUI's nodes cannot be read. Restart the replicas of its "
            "pool."
        ) from error


def _node_class(described: Mapping[str, Any]) -> NodeClass:
    """``described``: as in ComfyUI's ``/object_info``."""
    groups = cast("Mapping[str, Any]", described.get("input") or {})
    required = cast("Mapping[str, Any]", groups.get("required") or {})
    names = [name for name, spec in required.items() if not _changes_with_graph(spec)]
    return NodeClass(bool(described.get("output_node")), tuple(names))


def _changes_with_graph(spec: Any) -> bool:
    """Check for an input whose own inputs depend on the graph: it has no value of its own."""
    kind = cast("list[Any]", spec)[0] if isinstance(spec, list) and spec else ""
    return isinstance(kind, str) and kind.startswith("COMFY_")
