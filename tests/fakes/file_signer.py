"""Signer of files in memory: the real signer, with leases that a test names."""

from __future__ import annotations

from datetime import UTC, datetime

from serve_app.domain.errors import DarkroomError
from serve_app.domain.lease import LeaseKey
from serve_app.provenance.certificates import SigningIdentity, local_identity
from serve_app.provenance.signer import ClaimSigner

SECRET = b"s" * 32


class FakeFileSigner:
    """Signs for every lease but those in ``lost``. ``fails``: what every call raises."""

    def __init__(self, identity: SigningIdentity | None = None) -> None:
        self.lost: set[LeaseKey] = set()
        self.counted: list[str] = []
        self.claims: list[bytes] = []
        self.unsigned: list[str] = []
        self.fails: DarkroomError | None = None
        self.now = datetime(2026, 11, 23, tzinfo=UTC)
        self._signer = ClaimSigner(
            identity or local_identity(SECRET), self._held, self.counted.append, lambda: self.now
        )

    @property
    def chain(self) -> str:
        return self._signer.chain

    async def sign_claim(self, lease_key: LeaseKey, claim: bytes) -> bytes:
        if self.fails is not None:
            raise self.fails
        self.claims.append(claim)
        return await self._signer.sign(lease_key, claim)

    async def report_unsigned(self, lease_key: LeaseKey, reason: str) -> None:
        self.unsigned.append(reason)
        self._signer.report_unsigned(lease_key, reason)

    async def _held(self, lease_key: LeaseKey) -> bool:
        return lease_key not in self.lost
