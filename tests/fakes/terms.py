"""What the catalogue and storage would add to a lease."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import count
from typing import Any

from serve_app.domain.artifact import UploadTicket
from serve_app.domain.endpoint import Endpoint, Weights
from serve_app.domain.errors import StorageUnavailable
from serve_app.domain.executors.fallback import rename_fields
from serve_app.domain.lease import LeaseKey
from serve_app.domain.media.marking import MarkPolicy
from serve_app.domain.media.upload_policy import UploadPolicy


class FakeTerms:
    """Knows every endpoint but those in ``gone``; one ticket for an attempt. Those in ``new`` are
    known after the next ``refresh``. Those in ``least_bytes`` need a device of that size."""

    files_url = "memory://files"
    describe_files = True
    certificates = ""

    def __init__(self) -> None:
        self.gone: set[str] = set()
        self.new: set[str] = set()
        self.least_bytes: dict[str, int] = {}
        self.thumbnails = False
        self.markings: dict[str, MarkPolicy] = {}
        self.rules: dict[str, tuple[Mapping[str, Any], ...]] = {}  # by tenant
        self.without_storage: set[str] = set()  # tenants whose storage location is closed
        self._numbers = count()

    def marking(self, tenant: str) -> MarkPolicy:
        return self.markings.get(tenant, MarkPolicy.ON)

    def safety(self, tenant: str, endpoint_id: str) -> tuple[Mapping[str, Any], ...]:
        return self.rules.get(tenant, ())

    def endpoint(self, endpoint_id: str) -> Endpoint | None:
        if endpoint_id in self.gone | self.new:
            return None
        return Endpoint(
            id=endpoint_id, family="fake", weights=Weights(source="/nowhere"), schema="fake"
        )

    def fallback_input(
        self, endpoint_id: str, fields: Mapping[str, str | None], input: Mapping[str, Any]
    ) -> Mapping[str, Any]:
        del endpoint_id
        return rename_fields(input, fields)

    def unfit(self, named: frozenset[str], device_bytes: int) -> frozenset[str]:
        too_large = {id_ for id_, least in self.least_bytes.items() if 0 < device_bytes < least}
        others = set(self.least_bytes) - named if named else set[str]()
        return frozenset(too_large | others)

    async def refresh(self) -> None:
        self.new.clear()

    def tickets(
        self,
        lease_key: LeaseKey,
        tenant: str,
        endpoint: Endpoint,
        input: Mapping[str, Any],
        file_access: str = "",
        upload_policy: UploadPolicy | None = None,
    ) -> tuple[UploadTicket, ...]:
        del tenant, endpoint, input
        if upload_policy is not None:
            return (_post_ticket(lease_key, 0, "image/png", upload_policy),)
        key = f"{lease_key.request_id}/{lease_key.attempt}/{lease_key.nonce}/0.png"
        if file_access:
            key = f"p/{file_access}/{key}"
        return (self._ticket(key, "image/png"),)

    def file_ticket(
        self,
        lease_key: LeaseKey,
        tenant: str,
        number: int,
        media_type: str,
        file_access: str = "",
        upload_policy: UploadPolicy | None = None,
    ) -> UploadTicket:
        del tenant
        if upload_policy is not None:
            return _post_ticket(lease_key, number, media_type, upload_policy)
        key = f"r/{lease_key.request_id}/{lease_key.attempt}/{number}.bin"
        if file_access:
            key = f"p/{file_access}/{key}"
        return self._ticket(key, media_type)

    def _ticket(self, key: str, media_type: str) -> UploadTicket:
        ticket = UploadTicket(key, f"memory://{key}", media_type, max_bytes=2**20)
        if self.thumbnails:
            small = f"{key}.webp"
            thumbnail = UploadTicket(small, f"memory://{small}", "image/webp", max_bytes=2**18)
            ticket = replace(ticket, thumbnail=thumbnail)
        return ticket

    def leftovers(
        self,
        lease_key: LeaseKey,
        endpoint: Endpoint,
        input: Mapping[str, Any],
        file_access: str = "",
    ) -> Sequence[str]:
        tickets = self.tickets(lease_key, "", endpoint, input, file_access)
        return [
            part.key
            for ticket in tickets
            for part in (ticket, ticket.thumbnail)
            if part is not None
        ]

    def files_token(self, tenant: str) -> str:
        return f"reader of {tenant}"

    def snapshot_ticket(self, lease_key: LeaseKey, tenant: str) -> UploadTicket:
        if tenant in self.without_storage:
            raise StorageUnavailable("The storage location of the tenant cannot be used.")
        key = f"s/{lease_key.request_id}/{lease_key.attempt}/{next(self._numbers)}.bin"
        return UploadTicket(key, f"memory://{key}", "application/octet-stream", max_bytes=2**20)

    def state_url(self, key: str) -> str:
        return f"{self.files_url}/{key}"


def _post_ticket(
    lease_key: LeaseKey, number: int, media_type: str, policy: UploadPolicy
) -> UploadTicket:
    name = f"{lease_key.request_id}-{number}.bin"
    form = policy.form(name, media_type)
    return UploadTicket(policy.file_url(name), policy.url, media_type, 2**20, form=form)
