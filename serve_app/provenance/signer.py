"""Signatures for replicas: the key stays in the ingress, and only who holds a lease gets one."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from datetime import datetime

from serve_app.domain.errors import Fenced, Misconfigured, Unsupported
from serve_app.domain.lease import LeaseKey
from serve_app.provenance.certificates import SigningIdentity, problems

log = logging.getLogger(__name__)

MAX_CLAIM_BYTES = 1 << 16
"""What is signed is a list of digests, about 1.5 kB, and never a file."""


class ClaimSigner:
    """Signs the claims of files that replicas make."""

    def __init__(
        self,
        identity: SigningIdentity | None,
        is_held: Callable[[LeaseKey], Awaitable[bool]],
        count: Callable[[str], None],
        now: Callable[[], datetime],
    ) -> None:
        """``identity`` None: files are not signed. ``count`` takes ``signed``, ``refused`` or
        ``unsigned``."""
        self._identity = identity
        self._is_held = is_held
        self._count = count
        self._now = now

    @property
    def chain(self) -> str:
        """Certificates as PEM; empty: files are not signed."""
        return "" if self._identity is None else self._identity.chain

    async def sign(self, lease_key: LeaseKey, claim: bytes) -> bytes:
        """ES256 signature of a claim, 64 bytes.

        Raises ``Fenced`` if the lease is not held, and ``Unsupported`` or ``Misconfigured`` if
        nothing can be signed.
        """
        try:
            return await self._sign(lease_key, claim)
        except Exception:
            self._count("refused")
            raise

    def report_unsigned(self, lease_key: LeaseKey, reason: str) -> None:
        """Count and log a file that is delivered without a signature, although files are signed."""
        self._count("unsigned")
        log.warning("A file of request %s is not signed: %s", lease_key.request_id, reason)

    async def _sign(self, lease_key: LeaseKey, claim: bytes) -> bytes:
        if self._identity is None or len(claim) > MAX_CLAIM_BYTES:
            raise Unsupported("This installation does not sign that.")
        signer = self._identity.certificates[0]
        if not signer.not_valid_before_utc <= self._now() <= signer.not_valid_after_utc:
            raise Misconfigured(" ".join(problems(self._identity, self._now())))
        if not await self._is_held(lease_key):
            raise Fenced("Only the holder of a lease gets a signature.")
        signature = self._identity.sign(claim)
        self._count("signed")
        return signature
