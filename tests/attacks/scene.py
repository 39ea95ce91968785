"""A Darkroom with two tenants, and keys of each kind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import httpx

from serve_app.tenants.scopes import API, READ, SUBMIT, TENANT_ADMIN
from tests.attacks.inside import Inside
from tests.cluster.darkroom import CALL_S, ENDED, Darkroom, eventually

VICTIM, ATTACKER = "victim", "attacker"
SIGN_IN_SECRET = "a-secret-that-the-sign-in-provider-knows"
POOLS = {
    "studio": {"families": ["probe", "flux", "sdxl"], "slots": 2, "num_cpus": 0.1},
    "apps": {"families": ["python"], "min_replicas": 0, "slots": 8},
}
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


def outcome(http: httpx.Client, request_id: str) -> dict[str, Any]:
    """The request as ``GET /v1/requests/{id}`` shows it once it has ended."""
    path = f"/v1/requests/{request_id}"

    def look() -> dict[str, Any] | None:
        request = http.get(path, params={"wait": 10}).json()
        return request if request["state"] in ENDED else None

    return eventually(look, f"{path} has ended")


def keys_of(darkroom: Darkroom, tenant: str) -> Keys:
    """Make the tenant and its keys."""
    response = darkroom.http.post("/v1/tenants", json={"tenant": tenant})
    assert response.is_success, response.text

    def key(**fields: object) -> str:
        answer = darkroom.http.post("/v1/keys", json={"tenant": tenant, **fields})
        assert answer.is_success, answer.text
        return str(answer.json()["key"])

    everything = [API, TENANT_ADMIN]
    return {
        "admin": key(scopes=everything),
        "submit": key(scopes=[SUBMIT]),
        "read": key(scopes=[READ]),
        "limited": key(scopes=[API], endpoints=[ALLOWED]),
        "limited-admin": key(scopes=everything, endpoints=[ALLOWED]),
    }
