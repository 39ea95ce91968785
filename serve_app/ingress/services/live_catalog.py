"""Catalogue of an ingress process while it runs: files, and the entries of the database."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from serve_app.catalog.catalog import (
    Catalog,
    CatalogFile,
    StoredEntry,
    build_stored,
    check_fallback,
    combine_entries,
    read_file,
)
from serve_app.catalog.entries import CatalogEntry, unknown_pool
from serve_app.catalog.private import PrivateEndpoint, private_entry, why_not_private
from serve_app.catalog.workflows.entry import workflow_entry
from serve_app.domain.audit.acts import Actor
from serve_app.domain.errors import EntryExists, InvalidInput, NotFound, RequestActive
from serve_app.domain.lora import RegisteredFileFacts
from serve_app.domain.workflows.runs import RegisteredWorkflow, WorkflowDefinitions
from serve_app.ingress.services.cpu_executor import in_cpu_thread
from serve_app.ingress.services.followed import Followed
from serve_app.ingress.services.served_catalog import conflicts, entry_builder
from serve_app.queue.transactions.catalog_entries import MAX_COUNTED, CatalogEntries, KeptEntry
from serve_app.registry.records import TenantWeights, WeightBook
from serve_app.settings import Config

log = logging.getLogger(__name__)


class LiveCatalog(Followed):
    """Keeps ``catalog`` as the settings and the stored entries say."""

    def __init__(
        self,
        entries: CatalogEntries,
        config: Config,
        catalog: Catalog,
        weights: WeightBook | None = None,
        workflows: WorkflowDefinitions | None = None,
    ) -> None:
        """``catalog``: the object that all handlers hold. It gets other entries. ``weights``: with
        the private endpoints of tenants; None: there are none. ``workflows``: likewise."""
        super().__init__("catalogue")
        self._weights = weights
        self._workflows = workflows
        self._entries = entries
        self._config = config
        self._file: CatalogFile | None = None  # as it was valid last
        self._catalog = catalog
        self._version = ("", "")
        self._conflicts: frozenset[str] = frozenset()
        self._changing = asyncio.Lock()  # a slower, older load must not replace a newer one
        self.on_change: Callable[[], None] = lambda: None  # called when entries have changed

    async def use(self, config: Config) -> None:
        """Put the catalogue of ``config`` in force. ``Misconfigured``: its file is not valid, and
        nothing has changed."""
        async with self._changing:
            file = await asyncio.to_thread(read_file, config.models.models)
            await self._load(config, file)
            self._config, self._file = config, file

    async def refresh(self) -> None:
        """Put stored entries in force that have changed."""
        async with self._changing:
            now = await self._versions()
            if now[0] != self._version[0]:
                await self._load(self._config, self._file)
            elif now != self._version:
                await self._load_private(now)

    async def _versions(self) -> tuple[str, str]:
        private = "" if self._weights is None else await self._weights.version()
        if self._workflows is not None:
            private += f" {await self._workflows.version()}"
        return await self._entries.version(), private

    def why_not_private(self, endpoint_id: str) -> str:
        """Why a private endpoint cannot have this id; empty if it can."""
        public = [entry.endpoint.id for entry in self._catalog]
        return why_not_private(endpoint_id, public, self._config.models.model_aliases)

    # Calls of operators.

    async def list_stored(self) -> Sequence[KeptEntry]:
        return await self._entries.all()

    async def check(self, endpoint: str, entry: Mapping[str, Any]) -> CatalogEntry:
        """Entry as it would be served here. ``InvalidInput`` names every mistake."""
        return await in_cpu_thread(self._check, StoredEntry(endpoint, entry))

    async def put(self, endpoint: str, entry: Mapping[str, Any], actor: Actor) -> CatalogEntry:
        """Store an entry and put it in force. ``InvalidInput`` names every mistake."""
        checked = await self.check(endpoint, entry)
        await self._entries.put(endpoint, entry, actor)
        await self.put_in_force()
        return self._catalog.find(endpoint) or checked

    async def add(self, endpoint: str, entry: Mapping[str, Any], actor: Actor) -> CatalogEntry:
        """Store an entry of a new id. ``InvalidInput`` names every mistake. ``EntryExists``: the
        catalogue has this id, from any place; of the database, also one of this moment."""
        checked = await self.check(endpoint, entry)
        listed = any(model.endpoint.id == endpoint for model in self._catalog.every())
        if listed or not await self._entries.add(endpoint, entry, actor):
            raise EntryExists(
                f"There is a model {endpoint} already, so nothing was stored. Choose another id, "
                "or replace it: `--replace`, or a call without `If-None-Match`."
            )
        await self.put_in_force()
        return self._catalog.find(endpoint) or checked

    async def remove(self, endpoint: str, actor: Actor, *, force: bool) -> int:
        """Remove a stored entry, and return the number of its unfinished requests.

        ``RequestActive``: it has some, and ``force`` is not set. ``NotFound``: it is not stored.
        """
        done = await self._entries.remove(endpoint, actor, force=force)
        if done.removed:
            await self.put_in_force()
            return done.unfinished
        if all(entry.endpoint != endpoint for entry in await self._entries.all()):
            raise NotFound(self._not_stored(endpoint))
        number = f"{MAX_COUNTED} or more" if done.unfinished == MAX_COUNTED else done.unfinished
        raise RequestActive(
            f"{endpoint} has {number} queued or running requests, so it was not removed. Let them "
            f"end first (`darkroom endpoints drain {endpoint}`), or remove it with `--force` "
            "(`?force=true`): queued requests then fail as soon as a replica would take them."
        )

    def _check(self, stored_entry: StoredEntry) -> CatalogEntry:
        builder = entry_builder(self._config)
        entry = build_stored(builder, stored_entry, strict=True)
        named = entry.source.pool
        if named and builder.pools is not None and (why := unknown_pool(named, builder.pools)):
            raise InvalidInput.of_field("pool", f"The pool {why}")
        check_fallback(entry, self._catalog)
        return entry

    def _not_stored(self, endpoint: str) -> str:
        entry = self._catalog.find(endpoint)
        if entry is None:
            return f"The database has no entry {endpoint}."
        where = "file of DARKROOM_MODELS" if entry.origin == "file" else "built-in catalogue"
        return f"{endpoint} is in the {where}, not in the database, so it cannot be removed here."

    async def _load(self, config: Config, file: CatalogFile | None) -> None:
        version = await self._versions()  # first, or a change would be missed
        stored = await self._entries.all()
        private = await self._private()

        def load() -> Catalog:
            public = combine_entries(file, entry_builder(config), stored)
            return with_private(public, *private)

        self._catalog.become(await asyncio.to_thread(load))
        self._version = version
        lines = frozenset(conflicts(self._catalog))
        for line in sorted(lines - self._conflicts):
            log.warning("%s", line)
        self._conflicts = lines
        self.on_change()

    async def _load_private(self, version: tuple[str, str]) -> None:
        """Put private endpoints in force that have changed. The public ones stay: building them
        takes half a second, and any tenant can change its own."""
        private = await self._private()
        self._catalog.become(await asyncio.to_thread(with_private, self._catalog, *private))
        self._version = version
        self.on_change()

    async def _private(self) -> tuple[Sequence[TenantWeights], Sequence[RegisteredWorkflow]]:
        weights = [] if self._weights is None else await self._weights.endpoints()
        workflows = [] if self._workflows is None else await self._workflows.all()
        return weights, workflows


def with_private(
    public: Catalog, weights: Sequence[TenantWeights], workflows: Sequence[RegisteredWorkflow]
) -> Catalog:
    """Catalogue with the endpoints of tenants: of their weights, and of workflows, whose steps may
    use those."""
    private = [*private_entries(public, weights)]
    catalog = public.with_private(private)
    entries = [
        entry for workflow in workflows if (entry := _workflow_entry(catalog, workflow)) is not None
    ]
    return public.with_private([*private, *entries])


def _workflow_entry(catalog: Catalog, workflow: RegisteredWorkflow) -> CatalogEntry | None:
    seen = catalog.of_tenant("" if workflow.public else workflow.tenant)
    try:
        return workflow_entry(
            workflow.tenant,
            workflow.name,
            workflow.definition,
            public=workflow.public,
            catalog=seen,
        )
    except (ValueError, LookupError) as error:  # of another version
        log.warning("The workflow %s/%s is left out: %s", workflow.tenant, workflow.name, error)
        return None


def private_entries(public: Catalog, weights: Sequence[TenantWeights]) -> Iterator[CatalogEntry]:
    """Entries of registered weights that have an endpoint, and whose base is in the catalogue."""
    for record in weights:
        base = public.find(record.base)
        if base is None or record.endpoint is None:
            continue
        files = [RegisteredFileFacts(file.path, file.digest) for file in record.files]
        endpoint = PrivateEndpoint(
            record.endpoint,
            record.tenant,
            record.base,
            record.base_weights,
            record.kind,
            files,
            str(record.source.get("hub", "")),
            record.scale,
        )
        yield private_entry(base, endpoint)
