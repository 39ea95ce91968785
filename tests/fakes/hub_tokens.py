"""Tokens of the hub that tenants set, in memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from serve_app.domain.audit.acts import Actor

Note = Callable[[Actor, str, str, Mapping[str, Any]], None]


class FakeHubTokens:
    def __init__(self, note: Note = lambda *_: None) -> None:
        self._tokens: dict[str, str] = {}
        self._note = note

    async def token(self, tenant: str) -> str | None:
        return self._tokens.get(tenant)

    async def put(self, tenant: str, token: str, actor: Actor) -> None:
        self._tokens[tenant] = token
        self._note(actor, "hub-token.set", tenant, {"tenant": tenant})

    async def remove(self, tenant: str, actor: Actor) -> bool:
        if self._tokens.pop(tenant, None) is None:
            return False
        self._note(actor, "hub-token.remove", tenant, {"tenant": tenant})
        return True
