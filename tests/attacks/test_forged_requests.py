"""Addresses that clients name: Darkroom calls none that only its own network can reach."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import httpx
import pytest

from serve_app.ingress.http.paths import OPENAI_PREFIX, REPLICATE_PREFIX
from tests.attacks.attempts import Attempts
from tests.attacks.inside import SECRET
from tests.attacks.scene import ALLOWED, Scene, outcome
from tests.cluster.darkroom import eventually
from tests.ingress.api.files.private import lifecycle

pytestmark = [pytest.mark.cluster, pytest.mark.long]

METADATA = ("169.254.169.254", "[fd00:ec2::254]", "168.63.129.16", "192.0.0.192")
REDRAW, LORA = "fal-ai/fast-sdxl/image-to-image", "fal-ai/flux-lora"

PROMPT = {"prompt": "a red circle", "num_inference_steps": 1}
INPUTS = {
    "image": (REDRAW, lambda url: {"image_url": url, "strength": 1.0}),
    "embedding": (REDRAW, lambda url: {"image_url": PIXEL, "embeddings": [{"path": url}]}),
    "lora": (LORA, lambda url: {"loras": [{"path": url}]}),
}
"""Inputs with files that a replica fetches."""

PIXEL = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4z8AAAAMBAQDJ"
    "/pLvAAAAAElFTkSuQmCC"
)

SOURCES_OF_WEIGHTS = (
    *("owner/../../x", "..%2f..%2fx/y", "127.0.0.1:1/x", "owner/name@../../x", "owner/name@a b"),
    *("owner/name/../x.safetensors", "//127.0.0.1/x", "data:application/octet-stream;base64,AAAA"),
    *("file:///etc/passwd", "ftp://127.0.0.1/x", "owner\\name/x", "hub:owner/name", "/etc/passwd"),
)


def addresses(port: int) -> Iterator[str]:
    """Ways to write this machine and those of its network."""
    yield from (
        f"http://{host}:{port}/x"
        for host in ("127.0.0.1", "localhost", "[::1]", "0.0.0.0")  # noqa: S104
    )
    yield from (
        f"http://{host}:{port}/x" for host in ("2130706433", "0x7f.1", "0177.0.0.1", "127.1")
    )
    yield from (f"http://{host}:{port}/x" for host in ("[::ffff:127.0.0.1]", "[64:ff9b::7f00:1]"))
    yield f"http://example.com@127.0.0.1:{port}/x"
    yield from (f"http://{host}/latest/meta-data/" for host in METADATA)


def more_addresses(port: int) -> Iterator[str]:
    """What is no URL of the web, and what parsers of URLs read in different ways."""
    yield from ("file:///etc/passwd", "FILE://localhost/etc/passwd", "ftp://127.0.0.1/x", "/etc/x")
    yield from (f"gopher://127.0.0.1:{port}/_GET", f"//127.0.0.1:{port}/x", "javascript:alert(1)")
    yield from (f"http:127.0.0.1:{port}/x", f"http:///127.0.0.1:{port}/x", "data:", "data:,x")
    yield from (f"http://127.0.0.1:{port}\\@example.com/x", f"http://127.0.0.1:{port}#@example.com")
    yield from (f"http://example.com#@127.0.0.1:{port}/", f"http://[::1%25lo]:{port}/x")
    yield from (
        f"http://127\u30020\u30020\u30021:{port}/x",
        f"http://\u24db\u24de\u24dcalhost:{port}/",
    )
    yield from (
        f"http://localhost.:{port}/x",
        f"http://127.0.0.1.:{port}/x",
        f" http://[::]:{port}",
    )
    yield from (f"http://127.0.0.1:{port}/files/../x", f"http://127.0.0.1:{port}/files/u/%2e%2e/x")
    yield from (f"http://127.0.0.1:{port}/files/p/AAAA/u/BBBB/a.png", "http://x.internal/y")


def test_webhooks_reach_no_private_address(scene: Scene, attempts: Attempts) -> None:
    with scene.client(scene.attacker["submit"]) as http:
        for address in addresses(scene.inside.port):
            prediction = {"version": ALLOWED, "input": PROMPT, "webhook": address}
            for answer in (
                http.post("/queue/test/probe", params={"fal_webhook": address}, json={}),
                http.post(f"{REPLICATE_PREFIX}/predictions", json=prediction),
            ):
                what = f"{answer.request.url}: {answer.status_code} {answer.text[:80]}"
                attempts.note(what, held=400 <= answer.status_code < 500)
    with scene.client(scene.attacker["admin"]) as http:
        for address in (*addresses(scene.inside.port), *more_addresses(scene.inside.port)):
            answer = http.post("/v1/webhooks/test", json={"url": address})
            what = f"{address}: {answer.status_code} {answer.text[:200]}"
            is_safe = SECRET not in answer.content and not answer.json().get("delivered")
            attempts.note(what, held=is_safe and answer.status_code < 500)


def test_no_tenant_says_where_darkroom_itself_calls(scene: Scene, attempts: Attempts) -> None:
    """Providers of an entry, with the installation's keys, and the provider of the sign-in."""
    address = f"http://127.0.0.1:{scene.inside.port}"
    entry = {
        "family": "fal",
        "schema": "json",
        "category": "text-to-image",
        "options": {
            "secrets": ["FAL_KEY"],
            "hosted": {"endpoint": "a/b", "url": address, "history_url": address},
            "input_schema": {"type": "object"},
            "output_schema": {"type": "object"},
        },
    }
    provider = {"issuer": address, "jwks_uri": f"{address}/jwks", "code": "x", "state": "x"}
    for kind, key in scene.attacker.items():
        with scene.client(key) as http:
            for answer in (
                http.put("/v1/models/entries/hosted/forged", json=entry),
                http.put(f"/v1/models/entries/{ALLOWED}", json=entry),
                http.put("/v1/secrets/FAL_KEY?installation=true", json={"value": "x"}),
                http.post("/v1/apps/code", content=b"PK"),
            ):
                what = f"{kind} {answer.request.url}: {answer.status_code} {answer.text[:200]}"
                attempts.note(what, held=answer.status_code == 403)
            for path in ("/v1/sign-in", "/v1/sign-in/finish", "/v1/sign-in/device"):
                answer = http.post(path, json=provider)
                what = f"{kind} {path}: {answer.status_code} {answer.text[:200]}"
                attempts.note(what, held=400 <= answer.status_code < 500)


def test_files_of_inputs_reach_no_private_address(scene: Scene, attempts: Attempts) -> None:
    port = scene.inside.port
    with scene.client(scene.attacker["admin"]) as http:
        sent: dict[str, httpx.Response] = {}
        for address in (*addresses(port), *more_addresses(port)):
            for kind, (endpoint, with_url) in INPUTS.items():
                body = PROMPT | with_url(address)
                sent[f"{kind} {address}"] = http.post(f"/queue/{endpoint}", json=body)
        for address in addresses(port):
            body = {"version": REDRAW, "input": PROMPT | {"image": address, "prompt_strength": 1}}
            answer = http.post(f"{REPLICATE_PREFIX}/predictions", json=body)
            sent[f"replicate {address}"] = answer
            edit = {"model": REDRAW, "prompt": "x", "images": [{"image_url": address}]}
            answer = http.post(f"{OPENAI_PREFIX}/images/edits", json=edit)
            is_safe = 400 <= answer.status_code < 500
            attempts.note(f"openai {address}: {answer.status_code} {answer.text}", held=is_safe)
        for what, answer in sent.items():
            attempts.note(what, held=is_refused(http, answer))


def is_refused(http: httpx.Client, answer: httpx.Response) -> bool:
    """Return whether a submit was refused, or its request has failed for its input."""
    if answer.is_success:
        id_ = answer.json().get("request_id") or answer.json()["id"]
        ended = outcome(http, id_)
        wrong = ended["state"] == "failed" and ended["error"]["code"] == "invalid_input"
        return wrong and SECRET.decode() not in json.dumps(ended)
    return 400 <= answer.status_code < 500


def test_private_files_of_others_are_no_input(scene: Scene, attempts: Attempts) -> None:
    """By whatever host the URL names."""
    with (
        scene.client(scene.victim["admin"]) as victim,
        scene.client(scene.attacker["admin"]) as http,
    ):
        headers = lifecycle("hide") | {"content-type": "image/png", "x-fal-file-name": "a.png"}
        answer = victim.post("/cdn/files/upload", content=b"x", headers=headers)
        url = httpx.URL(answer.json()["access_url"])
        for origin in ("http://example.com", f"http://127.0.0.1:{url.port}", "https://[::1]"):
            for path in (url.path, f"{url.path}?expires=9999999999&signature=AAAA", f"{url.path}?"):
                for kind, (endpoint, with_url) in INPUTS.items():
                    body = PROMPT | with_url(f"{origin}{path}")
                    answer = http.post(f"/queue/{endpoint}", json=body)
                    attempts.note(f"{kind} {origin}{path}", held=is_refused(http, answer))


def state_of(http: httpx.Client, name: str) -> Mapping[str, Any]:
    """Registered weights once they are ready or refused."""

    def look() -> Mapping[str, Any] | None:
        state = http.get(f"/v1/weights/{name}").json()
        return state if state["state"] in ("ready", "refused") else None

    return eventually(look, f"the weights {name} are checked")


def test_sources_of_weights_reach_no_private_address(scene: Scene, attempts: Attempts) -> None:
    """Each that is not refused at once costs a process, so only some are tried."""
    port = scene.inside.port
    of_web = [*addresses(port)][::5]
    with scene.client(scene.attacker["admin"]) as http:
        waiting: list[str] = []
        for number, source in enumerate((*SOURCES_OF_WEIGHTS, *of_web)):
            named = {"name": f"forged-{number}", "base": ALLOWED, "source": source}
            answer = http.post("/v1/weights", json=named)
            if answer.is_success and source in of_web:
                waiting.append(named["name"])
            else:
                what = f"{source}: {answer.status_code} {answer.text}"
                attempts.note(what, held=400 <= answer.status_code < 500)
        for name in waiting:
            state = state_of(http, name)
            is_safe = state["state"] == "refused" and SECRET.decode() not in json.dumps(state)
            attempts.note(f"{name}: {state}", held=is_safe)
