"""Calls of executors' endpoints by other protocols, and of an endpoint that is passed through to
fal, on a real cluster."""

from __future__ import annotations

import asyncio
import base64
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import httpx

from tests.cluster.darkroom import CALL_S, Darkroom
from tests.fakes.fal_server import FalServer
from tests.fakes.provider_server import KEY
from tests.fakes.provider_server import PNG as PROVIDERS_PNG

PASSED = "fal-ai/veo3.1/fast"


@contextmanager
def running(server: FalServer) -> Iterator[str]:
    """Run a server in a thread. Its origin."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="fal-for-tests")
    thread.start()
    try:
        yield asyncio.run_coroutine_threadsafe(server.start(), loop).result()
        asyncio.run_coroutine_threadsafe(server.aclose(), loop).result()
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def passes_an_endpoint_through_to_fal(darkroom: Darkroom) -> None:
    server = FalServer()
    with running(server) as origin:
        schema = {"type": "object", "additionalProperties": True}
        hosted = {"endpoint": "*", "url": origin, "history_url": origin}
        entry = {
            "family": "fal",
            "schema": "json",
            "options": {
                "secrets": ["FAL_KEY"],
                "hosted": hosted,
                "input_schema": schema,
                "output_schema": {"type": "object"},
            },
        }
        stored = darkroom.http.put("/v1/models/entries/fal-ai/*", json=entry)
        assert stored.status_code == 200, stored.text
        refused = darkroom.http.post(f"/queue/{PASSED}", json={"prompt": "a film"})
        assert refused.status_code == 400
        assert f"{PASSED} needs the secret FAL_KEY" in refused.text
        secret = "/v1/secrets/FAL_KEY?installation=true"
        assert darkroom.http.put(secret, json={"value": KEY}).status_code == 200
        server.faults = ["lost"]  # and it is found
        response = darkroom.http.post(f"/run/{PASSED}", json={"prompt": "a film"}, timeout=120)
        assert response.status_code == 200, response.text
        (image,) = response.json()["images"]
        assert image["url"].startswith(darkroom.url)
        assert httpx.get(image["url"], trust_env=False, timeout=CALL_S).content == PROVIDERS_PNG
        (job,) = server.jobs
        assert (job.endpoint, job.input) == (PASSED, {"prompt": "a film"})


def answers_openai_and_mcp(darkroom: Darkroom, endpoint: str, content: bytes) -> None:
    body = {"model": endpoint, "prompt": "a house", "response_format": "b64_json"}
    response = darkroom.http.post("/openai/v1/images/generations", json=body)
    assert response.status_code == 200, response.text
    assert base64.b64decode(response.json()["data"][0]["b64_json"]) == content
    call = {"name": "generate", "arguments": {"model": endpoint, "input": {"prompt": "x"}}}
    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": call}
    accept = {"Accept": "application/json, text/event-stream"}
    answer = darkroom.http.post("/mcp", json=body, headers=accept)
    assert answer.status_code == 200, answer.text
    assert '"isError":false' in answer.text.replace(" ", "") or "isError" not in answer.text
    assert f"{darkroom.url}/files/" in answer.text
