"""Share links: a request and its files, read without a key until the link ends."""

from __future__ import annotations

from serve_app.domain.request import RequestShare
from serve_app.resources.declaration import Resource
from serve_app.tenants.scopes import FILES

SHARES = Resource(
    name="share",
    path="/v1/shares",
    model=RequestShare,
    key="share_id",
    key_description="Id of the link.",
    scope=FILES,
    about="links with which anyone can read a request",
    deletion="The link answers 404 from then on.",
    other_tables=("share_links",),
    columns=("share_id", "request_id", "created_at", "expires_at", "created_by"),
)
