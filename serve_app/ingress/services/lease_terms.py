"""Data that turns a stored request into a lease: endpoint and upload tickets."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from serve_app.catalog.catalog import Catalog
from serve_app.domain.artifact import EXTENSIONS, THUMBNAIL_TYPE, UploadTicket
from serve_app.domain.endpoint import Endpoint
from serve_app.domain.errors import EndpointNotFound
from serve_app.domain.lease import LeaseKey
from serve_app.domain.media.draft import DRAFT_TYPE
from serve_app.domain.media.marking import Marking, MarkPolicy
from serve_app.domain.media.safety import SafetyPolicy
from serve_app.domain.media.upload_policy import MAX_POST_BYTES, UploadPolicy
from serve_app.domain.ports import Storage
from serve_app.settings import Config
from serve_app.storage.keys import artifact_key, derived_token, snapshot_key
from serve_app.storage.signed_urls import FileUrlSigner

TICKET_VALID_S = 6 * 3600.0
"""Seconds, longer than any generation. Late uploads are prevented by the fence, not by expiry."""

MAX_THUMBNAIL_BYTES = 2**18
DEPICTED = re.compile(r"(image|video)/(?!svg)")
"""Media types of executors' files that have a thumbnail. No library here draws SVG, and the code
that draws audio needs torch, which executors do without."""
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
    signer: FileUrlSigner | None = None  # of the tokens for private inputs; None: there are none

    @classmethod
    def of(
        cls,
        config: Config,
        safety: SafetyPolicy,
        certificates: str = "",
        signer: FileUrlSigner | None = None,
    ) -> FilePolicy:
        models = config.models
        marking = config.provenance.marking
        return cls(models.describe_files, models.thumbnails, marking, certificates, safety, signer)


@dataclass(frozen=True, slots=True)
class Places:
    """Storage locations of tenants."""

    of_tenant: Callable[[str], str] = lambda _: ""  # of its new files; empty: the installation's
    locations: Collection[str] = ()  # ids of all


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
        places: Places | None = None,
        refresh: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """``names_secret``: the names of files are derived from it; the same in every ingress.
        ``refresh`` puts changes of the catalog in force; None: it does not change."""
        self.files_url = files_url
        self._files = files or FilePolicy()
        self.describe_files = self._files.describe
        self.certificates = self._files.certificates
        self._names_secret = names_secret
        self._places = places or Places()
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
        return (*own, *(rule for rule in of_base if rule not in own))

    def endpoint(self, endpoint_id: str) -> Endpoint | None:
        entry = self._catalog.find_any(endpoint_id)
        return entry.endpoint if entry and not entry.missing else None

    def fallback_input(
        self, endpoint_id: str, fields: Mapping[str, str | None], input: Mapping[str, Any]
    ) -> Mapping[str, Any]:
        return self._catalog.fallback_input(endpoint_id, fields, input)

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
        self,
        lease_key: LeaseKey,
        tenant: str,
        endpoint: Endpoint,
        input: Mapping[str, Any],
        file_access: str = "",
        upload_policy: UploadPolicy | None = None,
    ) -> tuple[UploadTicket, ...]:
        place = self._places.of_tenant(tenant)
        planned = self._plan(lease_key, endpoint, input, file_access)
        if upload_policy is not None:
            return tuple(
                self._post_ticket(lease_key, number, file.media_type, upload_policy)
                for number, file in enumerate(planned)
            )
        return tuple(self._ticket(file, place) for file in planned)

    def files_token(self, tenant: str) -> str:
        signer = self._files.signer
        return "" if signer is None else signer.reader_token(tenant, TICKET_VALID_S)

    def file_ticket(
        self,
        lease_key: LeaseKey,
        tenant: str,
        number: int,
        media_type: str,
        file_access: str = "",
        upload_policy: UploadPolicy | None = None,
    ) -> UploadTicket:
        if upload_policy is not None:
            return self._post_ticket(lease_key, number, media_type, upload_policy)
        planned = self._plan_file(lease_key, number, media_type, file_access)
        if not DEPICTED.match(media_type):
            planned = replace(planned, thumbnail=None)
        return self._ticket(planned, self._places.of_tenant(tenant))

    def leftovers(
        self,
        lease_key: LeaseKey,
        endpoint: Endpoint,
        input: Mapping[str, Any],
        file_access: str = "",
    ) -> Sequence[str]:
        return [
            file.key(place)
            for planned in self._plan(lease_key, endpoint, input, file_access)
            for file in (planned, planned.thumbnail)
            if file is not None
            for place in ("", *self._places.locations)
        ]

    def _plan(
        self, lease_key: LeaseKey, endpoint: Endpoint, input: Mapping[str, Any], access: str
    ) -> Sequence[_PlannedFile]:
        entry = self._catalog.find_any(endpoint.id)
        if entry is None:
            raise EndpointNotFound(f"There is no endpoint {endpoint.id}.")
        media_types = entry.schema.media_types(input)
        return [
            self._plan_file(lease_key, number, media_type, access)
            for number, media_type in enumerate(media_types)
        ]

    def _plan_file(
        self, lease_key: LeaseKey, number: int, media_type: str, access: str
    ) -> _PlannedFile:
        thumbnail, most = None, self._max_artifact_bytes
        if self._files.thumbnails and media_type != DRAFT_TYPE:
            token = self._token(lease_key, number, "thumbnail")
            thumbnail = _PlannedFile(lease_key, THUMBNAIL_TYPE, MAX_THUMBNAIL_BYTES, token, access)
        return _PlannedFile(
            lease_key, media_type, most, self._token(lease_key, number), access, thumbnail
        )

    def _token(self, lease_key: LeaseKey, *names: object) -> Callable[[int], str]:
        # Derived, so each time the same: the files of an earlier attempt can be found.
        return derived_token(
            self._names_secret, lease_key.request_id, lease_key.attempt, lease_key.nonce, *names
        )

    def _ticket(self, planned: _PlannedFile, place: str) -> UploadTicket:
        ticket = self._storage.ticket(
            planned.key(place), planned.media_type, planned.max_bytes, TICKET_VALID_S
        )
        if planned.thumbnail is None:
            return ticket
        return replace(ticket, thumbnail=self._ticket(planned.thumbnail, place))

    def _post_ticket(
        self, lease_key: LeaseKey, number: int, media_type: str, policy: UploadPolicy
    ) -> UploadTicket:
        # The name is that of the request, not of the attempt: a policy deletes nothing, so another
        # attempt must replace what an earlier one has stored.
        name = f"{lease_key.request_id}-{number}.{EXTENSIONS.get(media_type, 'bin')}"
        most = min(self._max_artifact_bytes, MAX_POST_BYTES)
        limit = policy.conditions.max_bytes
        return UploadTicket(
            key=policy.file_url(name),
            url=policy.url,
            media_type=media_type,
            max_bytes=most if limit is None else min(most, limit),
            form=policy.form(name, media_type),
        )

    def snapshot_ticket(self, lease_key: LeaseKey, tenant: str) -> UploadTicket:
        place = self._places.of_tenant(tenant)
        return self._storage.ticket(
            snapshot_key(lease_key.request_id, lease_key.attempt, location=place),
            "application/octet-stream",
            MAX_SNAPSHOT_BYTES,
            SNAPSHOT_TICKET_VALID_S,
        )

    def state_url(self, key: str) -> str:
        return f"{self.files_url}/files/{key}"


@dataclass(frozen=True, slots=True)
class _PlannedFile:
    """File that an attempt may produce."""

    lease_key: LeaseKey
    media_type: str
    max_bytes: int
    token: Callable[[int], str]
    access: str = ""  # id of its access rules; empty: it is public
    thumbnail: _PlannedFile | None = None

    def key(self, place: str) -> str:
        lease = self.lease_key
        return artifact_key(
            lease.request_id,
            lease.attempt,
            self.media_type,
            self.token,
            location=place,
            access=self.access,
        )
