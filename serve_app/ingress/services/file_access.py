"""Access to private files in an ingress process: rules of new files, decisions about readers, and
signed URLs with their revocation.

Rules never change, so they are read once. Revocations are followed, and held while they are in
force.
"""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from urllib.parse import quote

from serve_app.domain.artifact import is_elsewhere
from serve_app.domain.audit.acts import Actor
from serve_app.domain.errors import DatabaseUnavailable, Forbidden, InvalidInput
from serve_app.domain.media.file_access import AccessDecision, FileAccess, FileAccessBook
from serve_app.domain.ports import Clock
from serve_app.domain.rest import Rest
from serve_app.ingress.services.followed import Followed
from serve_app.settings import NO_LIMITS, Config, TenantLimits
from serve_app.settings.live import LiveValues
from serve_app.storage.keys import PRIVATE, access_id, is_private, valid
from serve_app.storage.signed_urls import FileUrlSigner, SignedUrl
from serve_app.tenants.recent_keys import RecentKeys

STALE_S = 60.0
"""How long signed URLs are accepted while revocations cannot be read, as API keys are."""

STABLE_SHARE = 0.25
"""Share of the validity for which reads of a result get the same URL, so that pages that read it
again keep their images."""

MAX_URL_BYTES = 4096
"""Longest URL of a private file in a stored body."""

PRIVATE_URL = re.compile(
    rb'"(https?://[^/"\\\s]+)/files/(%b[\w./-]+)(?:\?[\w=&-]*)?"' % PRIVATE.encode()
)
"""URL that is a whole string of JSON."""

CACHED_RULES = 20_000
FOR_EVER_S = 10.0 * 366 * 86400
UNKNOWN_S = 1.0
STORED_S = 1.0
"""How long rules are known to be stored: the deletion of their tenant deletes them, and one of the
same name has rules of the same ids."""


@dataclass(frozen=True, slots=True)
class AccessRules:
    """Rules that a client asks for. ``default`` None: that of its tenant."""

    default: AccessDecision | None = None
    users: Mapping[str, AccessDecision] = field(default_factory=dict[str, AccessDecision])


@dataclass(slots=True)
class FileDefaults(LiveValues):
    """Settings of the same names; they may change while the ingress runs."""

    private: bool
    any_private: bool  # False: no tenant has private files by default
    url_valid_s: float
    tenants: Mapping[str, TenantLimits]

    @classmethod
    def of(cls, config: Config) -> FileDefaults:
        access, tenants = config.access, config.queue.tenant_limits
        private = access.files == "private"
        any_private = private or any(limits.files == "private" for limits in tenants.values())
        return cls(private, any_private, access.file_url_valid_s, tenants)

    def private_by_default(self, tenant: str) -> bool:
        own = self.tenants.get(tenant, NO_LIMITS).files
        return self.private if own is None else own == "private"

    def valid_s(self, tenant: str) -> float:
        return self.tenants.get(tenant, NO_LIMITS).file_url_valid_s or self.url_valid_s


class FileAccessControl(Followed):
    """Decides who reads private files. Public files need none of it."""

    def __init__(
        self, book: FileAccessBook, signer: FileUrlSigner, defaults: FileDefaults, clock: Clock
    ) -> None:
        super().__init__("revoked URLs")
        self.signer = signer
        self.defaults = defaults
        self._book = book
        self._clock = clock
        self._rules: RecentKeys[FileAccess] = RecentKeys(CACHED_RULES, FOR_EVER_S)
        # Separate, so that a flood of invented ids cannot evict the valid ones.
        self._unknown: RecentKeys[bool] = RecentKeys(CACHED_RULES, UNKNOWN_S)
        self._stored: RecentKeys[bool] = RecentKeys(CACHED_RULES, STORED_S)
        self._generations: dict[str, int] = {}  # by key
        self._revoked: dict[tuple[str, str], datetime | None] = {}  # until when it matters
        self._last = 0  # number of the last revocation that is known here
        self._seen_at = -math.inf
        self._looking = asyncio.Lock()

    async def start(self, rest: Rest | None = None) -> None:
        """Read all revocations, and follow those of other processes."""
        await self.refresh()
        self.follow(rest)

    async def refresh(self) -> None:
        """Put new revocations in force."""
        async with self._looking:
            now = self._clock.monotonic()
            while revocations := await self._book.revocations(self._last):
                for revocation in revocations:
                    if revocation.signature:
                        self._revoked[revocation.key, revocation.signature] = revocation.expires_at
                    else:
                        self._generations[revocation.key] = revocation.generation
                self._last = revocations[-1].number
                self._drop_expired()
            self._seen_at = now

    # Rules of new files.

    def of_new(
        self, tenant: str, rules: AccessRules | None, *, outputs: bool = False
    ) -> FileAccess | None:
        """Rules of a new file of ``tenant``; None: it is public. ``rules``: by its client.
        ``outputs``: of the files that a request makes."""
        rules = rules or AccessRules()
        private = self.defaults.private_by_default(tenant)
        usual = AccessDecision.FORBID if private else AccessDecision.ALLOW
        access = FileAccess(tenant, rules.default or usual, rules.users)
        return self.signer.with_keyed_id(access, outputs=outputs) if access.private else None

    async def page(self, tenant: str, after: str, limit: int) -> Sequence[FileAccess]:
        """Rules that files of a tenant have had, as ``FileAccessBook.page``."""
        return await self._book.page(tenant, after, limit)

    async def store_rules(self, access: FileAccess) -> str:
        """Id of rules, which are stored. ``InvalidInput``: the tenant has used too many different
        ones."""
        now, id_ = self._clock.monotonic(), access.id
        if not self._stored.get(id_, now):
            if not await self._book.keep(access):
                raise InvalidInput(
                    "Your files have too many different access rules. Use the rules of earlier "
                    "files, or put fewer users into them."
                )
            self._stored.put(id_, True, now)  # noqa: FBT003
            self._rules.put(id_, access, now)
        return id_

    # Decisions.

    async def rules_of(self, key: str) -> FileAccess | None:
        """Rules of a private file; None: nothing is known of it, so there is no such file."""
        id_, now = access_id(key), self._clock.monotonic()
        rules = self._rules.get(id_, now)
        if rules is None and not self._unknown.get(id_, now):
            rules = await self._book.find(id_)
            if rules is None:
                self._unknown.put(id_, True, now)  # noqa: FBT003
            else:
                self._rules.put(id_, rules, now)
        return rules

    def check(self, key: str, params: Mapping[str, str]) -> SignedUrl:
        """The signature in ``params``, with which anyone reads the file.

        ``Forbidden``: it is not valid, has expired or is revoked. ``DatabaseUnavailable``: it is
        unknown which URLs are revoked.
        """
        if self._clock.monotonic() - self._seen_at > STALE_S:
            raise DatabaseUnavailable(
                "The signed URL cannot be checked, because the database is not available."
            )
        url = self._verify_url(key, params)
        if (key, url.signature) in self._revoked:
            raise Forbidden("This URL was revoked. Ask the file's owner for a new one.")
        return url

    def _verify_url(self, key: str, params: Mapping[str, str]) -> SignedUrl:
        return self.signer.check(key, params, self._generations.get(key, 0))

    # Signed URLs.

    def url(self, origin: str, key: str, tenant: str, *, until: datetime | None = None) -> str:
        """URL of a file in a result that its ``tenant`` reads, or that it shows others ``until`` a
        time. Signed if the file is private."""
        if is_elsewhere(key):
            return key
        if not is_private(key):
            return f"{origin}/files/{quote(key)}"
        valid_s = self.defaults.valid_s(tenant)
        step = valid_s * STABLE_SHARE
        valid_until = self._clock.now().timestamp() + valid_s
        expires_at = int(math.ceil(valid_until / step) * step)
        if until is not None:
            expires_at = min(expires_at, int(until.timestamp()))
        return self._sign_url(origin, key, expires_at)

    async def signed_again(self, body: bytes, tenant: str) -> bytes:
        """A stored body in JSON as its ``tenant`` reads it now: URLs of the tenant's private files
        are signed again. A text that only contains such a URL stays."""
        keys = {match[2].decode() for match in PRIVATE_URL.finditer(body)}
        own: set[str] = set()
        for key in filter(valid, keys):
            rules = await self.rules_of(key)
            if rules is not None and rules.tenant == tenant:
                own.add(key)

        def renew(url: re.Match[bytes]) -> bytes:
            origin, key = url[1].decode("latin-1"), url[2].decode()
            if key not in own:
                return url[0]
            return b'"%b"' % self.url(origin, key, tenant).encode("latin-1")

        return PRIVATE_URL.sub(renew, body) if own else body

    def sign(self, origin: str, key: str, expires_at: datetime | None) -> str:
        """New URL of a private file, which differs from all others. None: it does not expire."""
        at = None if expires_at is None else int(expires_at.timestamp())
        return self._sign_url(origin, key, at, unique=True)

    def _sign_url(
        self, origin: str, key: str, expires_at: int | None, *, unique: bool = False
    ) -> str:
        generation = self._generations.get(key, 0)
        signed_url = self.signer.sign(key, expires_at, generation, unique=unique)
        if (key, signed_url.signature) in self._revoked:
            signed_url = self.signer.sign(key, expires_at, generation, unique=True)
        return f"{origin}/files/{quote(key)}?{signed_url.query}"

    async def revoke(
        self, tenant: str, key: str, params: Mapping[str, str] | None, actor: Actor
    ) -> None:
        """Revoke the URL of the file with these ``params``, or with None all of the file.
        ``Forbidden``: the URL is not valid."""
        signature, expires_at = "", None
        if params is not None:
            url = self._verify_url(key, params)
            signature = url.signature
            if url.expires_at is not None:
                expires_at = datetime.fromtimestamp(url.expires_at, self._clock.now().tzinfo)
        if not await self._book.revoke(tenant, key, signature, expires_at, actor):
            raise InvalidInput.of_field(
                "url",
                "You have revoked too many single URLs that have not expired. Revoke all URLs of "
                "the file instead (without `url`), or delete the file",
            )
        await self.put_in_force()

    def _drop_expired(self) -> None:
        limit = self._clock.now() - timedelta(hours=1)
        gone = [place for place, until in self._revoked.items() if until and until < limit]
        for place in gone:
            del self._revoked[place]
