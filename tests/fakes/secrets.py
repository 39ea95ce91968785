"""Secrets by name, in memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from serve_app.domain.audit.acts import Actor
from serve_app.domain.executors.secrets import INSTALLATION, Secret
from serve_app.tenants.secrets import MAX_SECRETS, KeptSecret

Note = Callable[[Actor, str, str, Mapping[str, Any]], None]


class FakeSecrets:
    def __init__(self, note: Note = lambda *_: None) -> None:
        self._values: dict[tuple[str, str], tuple[str, KeptSecret]] = {}
        self._note = note

    async def list(self, owner: str) -> Sequence[KeptSecret]:
        return [kept for (of, _), (_, kept) in sorted(self._values.items()) if of == owner]

    async def read(self, tenant: str, names: Sequence[str]) -> Sequence[Secret]:
        return [
            Secret(name, owner, self._values[owner, name][0])
            for name in sorted(set(names))
            for owner in dict.fromkeys((tenant, INSTALLATION))
            if (owner, name) in self._values
        ]

    async def put(self, owner: str, name: str, value: str, actor: Actor) -> bool:
        others = sum(of == owner and other != name for of, other in self._values)
        if others >= MAX_SECRETS:
            return False
        kept = KeptSecret(name, datetime.now(UTC), actor.key_id)
        self._values[owner, name] = value, kept
        self._note(actor, "secret.set", name, {"tenant": owner})
        return True

    async def remove(self, owner: str, name: str, actor: Actor) -> bool:
        if self._values.pop((owner, name), None) is None:
            return False
        self._note(actor, "secret.remove", name, {"tenant": owner})
        return True
