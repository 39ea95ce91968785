"""Things of a tenant, called by all keys that must not reach them: nothing shows, nothing changes.

The calls, their bodies and the ids come from ``tests/ingress/http/test_other_tenants.py``, which
tries them without a cluster.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

import httpx
import pytest

from serve_app.ingress.http.paths import MCP_PATH
from tests.attacks.attempts import Attempts
from tests.attacks.scene import VICTIM, Scene
from tests.cluster.darkroom import CALL_S
from tests.ingress.http import test_other_tenants as tables

pytestmark = [pytest.mark.cluster, pytest.mark.long]

Answer = tuple[int, str]

VOLATILE = {"/metrics", "/v1/status", "/healthz", "/readyz"}
FAILED_TOOL = '"isError":true'
TOOLS = ("get_result", "wait", "cancel")
OF_VICTIM = {"tenant": VICTIM}


@dataclass(frozen=True)
class Victim:
    """``before`` is what the owner read of each of its things when they were made."""

    things: tables.Things
    before: Mapping[str, Answer]


def client(scene: Scene, key: str) -> httpx.AsyncClient:
    headers = {"Authorization": f"Key {key}", "accept": "application/json, text/event-stream"}
    return httpx.AsyncClient(base_url=scene.darkroom.url, headers=headers, timeout=CALL_S)


@pytest.fixture(scope="module")
def victim(scene: Scene) -> Victim:
    async def made() -> Victim:
        async with client(scene, scene.victim["admin"]) as owner:
            things = await tables.made_by(owner)
            return Victim(things, await seen_by(owner, things))

    return asyncio.run(made())


async def seen_by(owner: httpx.AsyncClient, things: tables.Things) -> dict[str, Answer]:
    """What the owner reads of its things, without times that run on."""
    answers: dict[str, Answer] = {}
    for path in (
        f"/v1/requests/{things.request_id}",
        f"/v1/drafts/{things.draft}",
        f"/v1/workflows/{things.workflow}",
        f"/v1/shared/{things.token}",
        f"/files/{things.key}",
        f"/files/{things.made}",
        f"/files/{things.file_id}",
        "/v1/shares",
        "/v1/secrets",
        "/comfyui/settings/theme",
        "/comfyui/userdata/x.json",
    ):
        answer = await owner.get(path)
        answers[path] = answer.status_code, answer.text
    answer = await owner.get("/v1/keys")
    (key,) = [entry for entry in answer.json()["keys"] if entry["key_id"] == things.key_id]
    answers["/v1/keys"] = answer.status_code, json.dumps(key, sort_keys=True)
    return answers


def calls_of_all_surfaces() -> Iterator[tuple[str, str, Any]]:
    """Method, path with ids to fill in, and body."""
    for method, path in tables.calls():
        if path not in tables.BEARERS and path not in VOLATILE and path != MCP_PATH:
            yield method, path, tables.BODIES.get(path, {}) if method != "GET" else None
    for path in filter(None, tables.IN_ALL_METHODS.values()):
        for method, tail in tables.FALS:
            yield method, f"{path}{tail}", None
    for tool in TOOLS:
        call = {"name": tool, "arguments": {"request_id": "{request_id}"}}
        yield "POST", MCP_PATH, {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": call}
    for path, body in tables.INPUTS:
        if "{draft}" in str(body):
            yield "POST", path, body


@pytest.mark.parametrize(
    "kind",
    [
        *("admin", "limited", "limited-admin"),
        *(pytest.param(scope, marks=pytest.mark.long) for scope in ("submit", "read")),
    ],
)
async def test_ids_of_another_tenant_are_answered_like_invented_ones(
    scene: Scene, victim: Victim, attempts: Attempts, kind: str
) -> None:
    things = victim.things
    async with (
        client(scene, scene.victim["admin"]) as owner,
        client(scene, scene.attacker[kind]) as stranger,
    ):
        pairs = tables.Scene(owner, stranger, things)
        for method, path, body in calls_of_all_surfaces():
            if names_something(path, body):
                theirs, none = await pairs.pair(method, path, body)
                is_safe = tables.alike(theirs, none, things)
            elif method == "GET":
                theirs = await read(stranger, tables.url_of(path, things), OF_VICTIM)
                is_safe = not any(value in theirs.text for value in asdict(things).values())
            else:
                continue
            is_safe = is_safe and tables.SECRET not in theirs.text and theirs.status_code < 500
            attempts.note(f"{method} {path}: {describe_answer(theirs)}", held=is_safe)
        await note_changes(owner, victim, attempts)


async def test_a_key_for_another_endpoint_reaches_no_request_of_its_own_tenant(
    scene: Scene, victim: Victim, attempts: Attempts
) -> None:
    scopes = ["api", "tenant-admin"]
    grant = {"tenant": VICTIM, "scopes": scopes, "endpoints": ["test/probe"]}
    limited = scene.darkroom.http.post("/v1/keys", json=grant).json()["key"]
    things = victim.things
    of_request = [things.request_id, things.draft, things.share, things.made]
    async with client(scene, scene.victim["admin"]) as owner, client(scene, limited) as http:
        for method, path, body in calls_of_all_surfaces():
            url = tables.fill_placeholders(tables.url_of(path, things), things)
            sent = body and tables.body_of(body, things)
            if not any(value in f"{url} {sent}" for value in of_request):
                continue
            answer = await http.request(method, url, json=sent)
            refused = answer.status_code in (400, 401, 403, 404, 405, 422)
            is_safe = (refused or FAILED_TOOL in answer.text) and tables.SECRET not in answer.text
            attempts.note(f"{method} {path}: {describe_answer(answer)}", held=is_safe)
        for method, path, _ in calls_of_all_surfaces():
            if method == "GET" and not tables.names_something(path):
                answer = await read(http, tables.url_of(path, things), {"expand": "payloads"})
                is_safe = not any(value in answer.text for value in of_request)
                attempts.note(f"{method} {path}: {describe_answer(answer)}", held=is_safe)
        await note_changes(owner, victim, attempts)


async def read(http: httpx.AsyncClient, url: str, params: dict[str, str]) -> httpx.Response:
    """Answer to a GET; of a stream that does not end by itself, what comes within a second."""
    async with http.stream("GET", url, params=params) as answer:
        body = bytearray()
        with suppress(TimeoutError):
            endless = answer.headers.get("content-type", "").startswith("text/event-stream")
            async with asyncio.timeout(1.0 if endless else None):
                async for part in answer.aiter_bytes():
                    body += part
    return httpx.Response(answer.status_code, content=bytes(body), request=answer.request)


def names_something(path: str, body: Any) -> bool:
    filled = json.dumps(body or "")
    return tables.names_something(path) or filled != tables.fill_placeholders(
        filled, tables.INVENTED
    )


def describe_answer(answer: httpx.Response) -> str:
    return f"{answer.status_code} {answer.text[:300]}"


async def note_changes(owner: httpx.AsyncClient, victim: Victim, attempts: Attempts) -> None:
    """Count a try for each thing of the victim, which is as it was."""
    after = await seen_by(owner, victim.things)
    for path, before in victim.before.items():
        attempts.note(f"{path}: {after[path]}, before {before}", held=after[path] == before)
