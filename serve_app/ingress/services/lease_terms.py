"""Data that turns a stored request into a lease: endpoint and upload tickets."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from serve_app.catalog.catalog import Catalog
from serve_app.domain.artifact import THUMBNAIL_TYPE, UploadTicket
from serve_app.domain.endpoint import Endpoint
from serve_app.domain.errors import EndpointNotFound
from serve_app.domain.lease import LeaseKey
from serve_app.domain.media.draft import DRAFT_TYPE
from serve_app.domain.media.marking import Marking, MarkPolicy
from serve_app.domain.media.safety import SafetyPolicy
from serve_app.domain.ports import Storage
from serve_app.settings import Config
from serve_app.storage.keys import artifact_key, derived_token, snapshot_key

TICKET_VALID_S = 6 * 3600.0
"""Seconds, longer than any generation. Late uploads are prevented by the fence, not by expiry."""

MAX_THUMBNAIL_BYTES = 2**18
MAX_SNAPSHOT_BYTES = 2 * 2**30
SNAPSHOT_TICKET_VALID_S = 600.0
"""Seconds. A snapshot's ticket is requested when the snapshot is taken, and used at once."""


@dataclass(frozen=True, slots=True)
class FilePolicy:
    """What replicas do with every file besides writing it."""

    describe: bool = True  # prompt, seed and settings of requests that are kept are in it
    thumbnails: bool = True  # a small image is made of it
    marking: Marking = field(default_factory=Marking)
    certificates: str = ""  # of the signer, as PEM; empty: files are not signed
    safety: SafetyPolicy = field(default_factory=SafetyPolicy)

    @classmethod
    def of(cls, config: Config, safety: SafetyPolicy, certificates: str = "") -> FilePolicy:
        models = config.models
        marking = config.provenance.marking
        return cls(models.describe_files, models.thumbnails, marking, certificates, safety)


class CatalogLeaseTerms:
    """Implements ``domain.ports.LeaseTerms`` with the catalog and the storage."""

    def __init__(
        self,
        catalog: Catalog,
        storage: Storage,
        max_artifact_bytes: int,
        *,
        files_url: str = "",
        files: FilePolicy | None = None,
        names_secret: bytes,
        refresh: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """``names_secret``: the names of files are derived from it; the same in every ingress.
        ``refresh`` puts changes of the catalog in force; None: it does not change."""
        self.files_url = files_url
        self._files = files or FilePolicy()
        self.describe_files = self._files.describe
        self.certificates = self._files.certificates
        self._names_secret = names_secret
        self._refresh = refresh
        self._catalog = catalog
        self._storage = storage
        self._max_artifact_bytes = max_artifact_bytes

    def marking(self, tenant: str) -> MarkPolicy:
        return self._files.marking.of(tenant)

    def safety(self, tenant: str, endpoint_id: str) -> tuple[Mapping[str, Any], ...]:
        entry = self._catalog.find_any(endpoint_id)
        own = self._files.safety.of_lease(tenant, endpoint_id)
        if entry is None or not entry.base:
            return own
        # A private endpoint is also under the rules of the one that it is like.
        of_base = self._files.safety.of_lease(tenant, entry.base)
        return (*own, *(each for each in of_base if each not in own))

    def endpoint(self, endpoint_id: str) -> Endpoint | None:
        entry = self._catalog.find_any(endpoint_id)
        return entry.endpoint if entry and not entry.missing else None

    def unfit(self, named: frozenset[str], device_bytes: int) -> frozenset[str]:
        return frozenset(
            entry.endpoint.id
            for entry in self._catalog.every()
            if (named and not named & {entry.endpoint.id, entry.base})
            or (device_bytes and entry.endpoint.is_too_large_for(device_bytes))
        )

    async def refresh(self) -> None:
        if self._refresh is not None:
            await self._refresh()

    def tickets(
        self, held: LeaseKey, endpoint: Endpoint, input: Mapping[str, Any]
    ) -> tuple[UploadTicket, ...]:
        entry = self._catalog.find_any(endpoint.id)
        if entry is None:
            raise EndpointNotFound(f"There is no endpoint {endpoint.id}.")
        return tuple(
            self._with_thumbnail(held, number, media_type)
            for number, media_type in enumerate(entry.schema.media_types(input))
        )

    def _with_thumbnail(self, held: LeaseKey, number: int, media_type: str) -> UploadTicket:
        ticket = self._ticket(held, media_type, self._max_artifact_bytes, number)
        if not self._files.thumbnails or media_type == DRAFT_TYPE:
            return ticket
        small = self._ticket(held, THUMBNAIL_TYPE, MAX_THUMBNAIL_BYTES, number, "thumbnail")
        return replace(ticket, thumbnail=small)

    def _ticket(
        self, held: LeaseKey, media_type: str, max_bytes: int, *names: object
    ) -> UploadTicket:
        # Derived, so each time the same: the files of an earlier attempt can be found.
        token = derived_token(self._names_secret, held.request_id, held.attempt, held.nonce, *names)
        key = artifact_key(held.request_id, held.attempt, media_type, token)
        return self._storage.ticket(key, media_type, max_bytes, TICKET_VALID_S)

    def snapshot_ticket(self, held: LeaseKey) -> UploadTicket:
        return self._storage.ticket(
            snapshot_key(held.request_id, held.attempt),
            "application/octet-stream",
            MAX_SNAPSHOT_BYTES,
            SNAPSHOT_TICKET_VALID_S,
        )

    def state_url(self, key: str) -> str:
        return f"{self.files_url}/files/{key}"
