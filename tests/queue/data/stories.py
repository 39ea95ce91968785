"""Requests, keys and files in ``baseline.sql``, by name."""

from __future__ import annotations

from typing import Any

from serve_app.domain.request import NewRequest
from serve_app.domain.webhook import Webhook
from serve_app.tenants.credentials import Credential
from tests.queue.requests import new

OTHER_TENANT, DISABLED_TENANT = "bob", "carl"
SESSION_POOL, OTHER_POOL = "live", "other"
PAUSED, DRAINING = "fal-ai/paused", "fal-ai/draining"
ORIGIN = "https://darkroom.example.com"
LOST_BODY = b"l" * 32
"""Digest of the body of the submit whose response was lost."""

ENDED = (
    "succeeded",
    "many attempts",
    "reused",
    "leader",
    "follower",
    "failed",
    "failed by hand",
    "cancelled",
    "cancelled while it ran",
    "expired",
    "expired while it ran",
    "input forgotten",
    "all forgotten",
    "session",
    "of another tenant",
)
RUNNING = ("running", "unconfirmed", "cancel requested", "running leader")
QUEUED = (
    "queued",
    "with deadlines",
    "with a large input",
    "to be forgotten",
    "suspect",
    "handed back",
    "requeued by hand",
    "queued leader",
    "queued of another tenant",
    "in another pool",
    "paused",
)
FOLLOWING = ("following a running request", "following a queued request")
DELETED = ("deleted",)
NAMES = (*ENDED, *RUNNING, *QUEUED, *FOLLOWING, *DELETED)

KEY = Credential("dk_valid", "s" * 32)
REPLAYING_KEY = Credential("dk_replaying", "s" * 32)
EXPIRED_KEY = Credential("dk_expired", "s" * 32)
REVOKED_KEY = Credential("dk_revoked", "s" * 32)
DISABLED_KEY = Credential("dk_of_a_disabled_tenant", "s" * 32)


def id_of(name: str) -> str:
    """UUIDv7 of a request, in the order of the names."""
    return f"019b0000-0000-7000-8000-{NAMES.index(name):012x}"


def story(name: str, **changes: Any) -> NewRequest:
    """The submit of a request."""
    return new(**{"id": id_of(name), "input": {"prompt": name}, **changes})


def webhook(name: str) -> Webhook:
    """A webhook to a host of its own, so that each is a channel."""
    return Webhook(f"https://{host(name)}/hook", ORIGIN)


def host(name: str) -> str:
    return name.replace(" ", "-") + ".example.com"


def reuse_digest(name: str) -> bytes:
    """Digest of the endpoint and input of a request whose outcome may be shared."""
    return name.encode().ljust(32, b".")[:32]


def upload_key(name: str) -> str:
    return f"u/{name}.png"
