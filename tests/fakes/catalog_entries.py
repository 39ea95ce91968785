"""Entries of the catalogue that operators have added, in memory."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from serve_app.domain.audit.acts import Actor
from serve_app.domain.ports import Clock
from serve_app.queue.transactions.catalog_entries import EntryRemoval, KeptEntry, no_bundle

Note = Callable[[Actor, str, str, Mapping[str, Any]], None]


class FakeCatalogEntries:
    def __init__(self, clock: Clock, note: Note, unfinished: Callable[[str], int]) -> None:
        """``note`` writes the audit log; ``unfinished`` counts requests of an endpoint."""
        self._clock = clock
        self._note = note
        self._unfinished = unfinished
        self._stored: dict[str, KeptEntry] = {}
        self._version = 0

    async def version(self) -> str:
        return str(self._version or "")

    async def all(self) -> Sequence[KeptEntry]:
        return [self._stored[key] for key in sorted(self._stored)]

    async def put(self, endpoint: str, entry: Mapping[str, Any], actor: Actor) -> None:
        self._version += 1
        now = self._clock.now()
        self._stored[endpoint] = KeptEntry(endpoint, dict(entry), now, actor.key_id)
        self._note(actor, "model.add", endpoint, {"entry": dict(entry)})

    async def add(self, endpoint: str, entry: Mapping[str, Any], actor: Actor) -> bool:
        if endpoint in self._stored:
            return False
        await self.put(endpoint, entry, actor)
        return True

    async def remove(self, endpoint: str, actor: Actor, *, force: bool) -> EntryRemoval:
        unfinished = self._unfinished(endpoint)
        if endpoint not in self._stored or (unfinished and not force):
            return EntryRemoval(removed=False, unfinished=unfinished)
        self._version += 1
        removed = self._stored.pop(endpoint)
        self._note(actor, "model.remove", endpoint, {"entry": removed.entry})
        return EntryRemoval(removed=True, unfinished=unfinished)


class FakeAppBundles:
    def __init__(self, note: Note) -> None:
        self._note = note
        self._stored: dict[str, bytes] = {}

    async def store(self, content: bytes, actor: Actor) -> str:
        digest = hashlib.sha256(content).hexdigest()
        self._stored[digest] = content
        self._note(actor, "app.store", digest, {"bytes": len(content)})
        return digest

    async def read(self, digest: str) -> bytes:
        if digest not in self._stored:
            raise no_bundle(digest)
        return self._stored[digest]
