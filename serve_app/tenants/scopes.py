"""Rights of callers: scopes, the bundles of them, and the endpoints that a key is limited to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from serve_app.domain.errors import Forbidden

SUBMIT, READ, CANCEL, FILES, USAGE = "submit", "read", "cancel", "files", "usage"
PRIORITY, TENANT_ADMIN, OPERATOR = "priority", "tenant-admin", "operator"
API, ADMIN = "api", "admin"

SINGLE = (SUBMIT, READ, CANCEL, FILES, USAGE, PRIORITY, TENANT_ADMIN, OPERATOR)
"""Scopes that are no bundle.

``submit``: submit and estimate requests, and get the answer of the same call. ``read``: read
requests, their results and drafts. ``cancel``: cancel and delete them. ``files``: upload and delete
files, and share results. ``usage``: read what was used. ``priority``: submit with high priority.
``tenant-admin``: manage the keys of the own tenant. ``operator``: operate the installation, and
manage all tenants and keys.
"""

BUNDLES: Mapping[str, frozenset[str]] = {
    API: frozenset({SUBMIT, READ, CANCEL, FILES, USAGE}),
    OPERATOR: frozenset({OPERATOR, TENANT_ADMIN}),
    ADMIN: frozenset(SINGLE),
}
"""Scopes that stand for several."""

SCOPES = (API, *SINGLE, ADMIN)
"""Every scope that a key may be created with."""


@lru_cache(maxsize=1024)
def expand_scopes(scopes: frozenset[str]) -> frozenset[str]:
    """``scopes`` and everything that their bundles include."""
    return scopes.union(*(BUNDLES.get(scope, frozenset()) for scope in scopes))


def _matches(pattern: str, endpoint: str) -> bool:
    """Return whether ``endpoint`` is as ``pattern`` says, in which ``*`` stands for any characters.

    No regular expression: both texts come from clients, and one with many ``*`` would be tried in
    every way.
    """
    begin, *middle = pattern.split("*")
    if not middle:
        return endpoint == pattern
    end = middle.pop()
    at, stop = len(begin), len(endpoint) - len(end)
    if at > stop or not endpoint.startswith(begin) or not endpoint.endswith(end):
        return False
    for part in middle:  # each as early as possible, which leaves the most for the others
        index = endpoint.find(part, at, stop)
        if index < 0:
            return False
        at = index + len(part)
    return True


@dataclass(frozen=True, slots=True)
class Caller:
    """Authenticated caller."""

    key_id: str
    tenant: str
    scopes: frozenset[str]  # as they were given; ``may`` knows what they include
    replay_undelivered: bool = False
    endpoints: tuple[str, ...] = ()  # patterns of the only endpoints; empty: all

    def may(self, scope: str) -> bool:
        """Return whether the caller has the scope, alone or in a bundle."""
        return scope in self.scopes or scope in expand_scopes(self.scopes)

    def require(self, scope: str) -> None:
        """``Forbidden``: the caller lacks the scope."""
        if not self.may(scope):
            within = [bundle for bundle in (API, ADMIN) if scope in BUNDLES[bundle]]
            included = " or ".join(f"`{bundle}`" for bundle in within)
            raise Forbidden(
                f"The API key {self.key_id} lacks the scope `{scope}`. Use a key that has this "
                f"scope, or {included}, which includes it."
            )

    def require_tenant(self, tenant: str, what: str) -> None:
        """``Forbidden``: it is another tenant, and the caller is no operator. ``what``: a plural
        noun, such as "Requests"."""
        if tenant != self.tenant and not self.may(OPERATOR):
            raise Forbidden(f"{what} of another tenant need a key with the scope `operator`.")

    def allows(self, endpoint: str) -> bool:
        """Return whether the caller may use the endpoint. In its patterns, ``*`` stands for any
        characters."""
        return not self.endpoints or any(_matches(pattern, endpoint) for pattern in self.endpoints)

    def within(self, endpoints: Sequence[str]) -> bool:
        """Return whether patterns of endpoints, none of them for all, match only what the caller
        may use. A pattern that matches another as text, its `*` included, matches all that the
        other does."""
        if not self.endpoints:
            return True
        return bool(endpoints) and all(self.allows(pattern) for pattern in endpoints)

    def require_endpoint(self, endpoint: str) -> None:
        """``Forbidden``: the caller is limited to other endpoints."""
        if not self.allows(endpoint):
            raise Forbidden(
                f"The API key {self.key_id} does not allow {endpoint[:200]}, only "
                f"{', '.join(self.endpoints)}. Use another key for this endpoint."
            )

    @property
    def batches_of(self) -> str | None:
        """Key of the only batches that the caller sees: its own, if it is limited to some
        endpoints, because the results of others may be of any endpoint. None: it sees all."""
        return self.key_id if self.endpoints else None

    def endpoints_among(self, known: Iterable[str]) -> Sequence[str] | None:
        """Ids that the caller may use: those of ``known``, and its patterns without ``*``. None: it
        may use all."""
        if not self.endpoints:
            return None
        exact = (pattern for pattern in self.endpoints if "*" not in pattern)
        return sorted({*filter(self.allows, known), *exact})

    def require_authority(self, scopes: Iterable[str], endpoints: Sequence[str]) -> None:
        """``Forbidden``: a key with these scopes and endpoints could do what the caller cannot, so
        it may not create, rotate or revoke one. Operators may."""
        if self.may(OPERATOR):
            return
        beyond = sorted(expand_scopes(frozenset(scopes)) - expand_scopes(self.scopes))
        if beyond:
            raise Forbidden(
                f"The API key {self.key_id} manages only keys with scopes that it has itself; it "
                f"lacks {', '.join(f'`{scope}`' for scope in beyond)}."
            )
        if not self.within(endpoints):
            raise Forbidden(
                f"The API key {self.key_id} manages only keys that are limited to its own "
                f"endpoints: {', '.join(self.endpoints)}."
            )
