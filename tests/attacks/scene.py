"""A Darkroom with two tenants, and keys of each kind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import httpx

from serve_app.tenants.scopes import READ, SUBMIT, TENANT_ADMIN
from tests.attacks.inside import Inside
from tests.cluster.darkroom import CALL_S, Darkroom

VICTIM, ATTACKER = "victim", "attacker"
ALLOWED = "fal-ai/flux/schnell"
"""The only endpoint of a limited key."""

Keys = Mapping[str, str]
"""Kind → ``id:secret``: admin, submit, read, limited (to one endpoint), limited-admin."""


@dataclass(frozen=True)
class Scene:
    """``inside`` is a server on loopback that nothing of Darkroom may call."""

    darkroom: Darkroom
    victim: Keys
    attacker: Keys
    inside: Inside

    def client(self, key: str | None = None) -> httpx.Client:
        headers = {} if key is None else {"Authorization": f"Key {key}"}
        return httpx.Client(base_url=self.darkroom.url, headers=headers, timeout=CALL_S)


def keys_of(darkroom: Darkroom, tenant: str) -> Keys:
    """Make the tenant and its keys."""
    made = darkroom.http.post("/v1/tenants", json={"tenant": tenant})
    assert made.is_success, made.text

    def key(**given: object) -> str:
        answer = darkroom.http.post("/v1/keys", json={"tenant": tenant, **given})
        assert answer.is_success, answer.text
        return str(answer.json()["key"])

    everything = [SUBMIT, READ, TENANT_ADMIN]
    return {
        "admin": key(scopes=everything),
        "submit": key(scopes=[SUBMIT]),
        "read": key(scopes=[READ]),
        "limited": key(scopes=[SUBMIT, READ], endpoints=[ALLOWED]),
        "limited-admin": key(scopes=everything, endpoints=[ALLOWED]),
    }
