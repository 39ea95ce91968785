"""Private files in tests: made by requests and uploads, and read by several readers."""

from __future__ import annotations

import json
from typing import Any

import httpx

from serve_app.tenants.scopes import READ
from tests.ingress.fal.test_submit import wait_until_completed
from tests.ingress.house import ORIGIN, House

ACL = "X-Fal-Object-Lifecycle-Preference"
CONTENT = bytes(range(200))


def lifecycle(default: str | None, /, **users: str) -> dict[str, str]:
    """Header with access rules."""
    rules = [{"user": user, "decision": decision} for user, decision in users.items()]
    return {ACL: json.dumps({"initial_acl": {"default": default, "rules": rules}})}


def without_key(house: House) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(house.app), base_url=ORIGIN)


async def upload_file(client: httpx.AsyncClient, headers: dict[str, str], **more: str) -> str:
    """URL of an uploaded file."""
    named = {"content-type": "image/png", "x-fal-file-name": "a.png"}
    answer = await client.post("/cdn/files/upload", content=CONTENT, headers=headers | named | more)
    assert answer.status_code == 200, answer.text
    return answer.json()["access_url"]


async def generate(
    client: httpx.AsyncClient, headers: dict[str, str] | None = None, **body: Any
) -> tuple[str, dict[str, Any]]:
    """Id and result of a request that has ended."""
    answer = await client.post("/queue/test/probe", json={"artifacts": 1} | body, headers=headers)
    assert answer.status_code == 200, answer.text
    submitted = answer.json()
    await wait_until_completed(client, submitted)
    result = await client.get(submitted["response_url"])
    assert result.status_code == 200, result.text
    return submitted["request_id"], result.json()


def bare(url: str) -> str:
    return url.partition("?")[0]


async def statuses(house: House, url: str) -> dict[str, int]:
    """Status that each reader gets."""
    weak = str(await house.keys.create("default", scopes=frozenset({READ})))
    stranger = str(await house.keys.create("stranger"))
    friend = str(await house.keys.create("friend"))
    keys = {"owner": house.weak_key, "reader": weak, "stranger": stranger, "friend": friend}
    codes: dict[str, int] = {}
    for name, key in keys.items():
        async with house.client(key) as client:
            codes[name] = (await client.get(url)).status_code
    async with without_key(house) as guest:
        codes["guest"] = (await guest.get(url)).status_code
    return codes
