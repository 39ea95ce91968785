"""A real OpenID Connect provider on this machine, and a person who signs in at it."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx

from serve_app.free_ports import free_port

CLIENT_ID = "darkroom"
PEOPLE: Mapping[str, Mapping[str, Any]] = {
    "ada": {"email": "ada@example.org", "groups": ["artists", "everyone"]},
    "bob": {"email": "bob@example.org", "groups": ["operators"]},
    "eve": {"email": "eve@example.org", "groups": ["strangers"]},
    "zoe": {"email": "zoe@example.org"},
}


START_S = 60.0


@contextmanager
def provider() -> Iterator[str]:
    """Run the provider in a process of its own. Yields its issuer."""
    issuer = f"http://127.0.0.1:{free_port()}"
    words = [sys.executable, "-W", "ignore", "-m", "oidc_provider_mock"]
    words += ["--port", issuer.rpartition(":")[2]]
    for sub, claims in PEOPLE.items():
        words += ["--user-claims", json.dumps({"sub": sub, **claims})]
    quiet = subprocess.DEVNULL
    with subprocess.Popen(words, stdout=quiet, stderr=quiet) as process:
        try:
            _wait_until_ready(issuer, process)
            yield issuer
        finally:
            process.terminate()


def _wait_until_ready(issuer: str, process: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + START_S
    while True:
        try:
            httpx.get(f"{issuer}/jwks", trust_env=False).raise_for_status()
        except httpx.HTTPError:
            assert process.poll() is None, "the provider has ended"
            assert time.monotonic() < until, "the provider did not start"
            time.sleep(0.05)
        else:
            return


async def agree(url: str, person: str) -> dict[str, str]:
    """Sign in as ``person`` at ``url``. Returns what the browser brings back."""
    async with httpx.AsyncClient(trust_env=False) as browser:
        answer = await browser.post(url, data={"sub": person})
    assert answer.status_code == 302, answer.text
    back = parse_qs(urlsplit(answer.headers["location"]).query)
    return {name: values[0] for name, values in back.items()}


async def signed_token(issuer: str, person: str, client_id: str = CLIENT_ID) -> str:
    """Identity token of ``person`` for a client of the provider."""
    redirect = "http://testserver/"
    query = {
        "client_id": client_id,
        "response_type": "code",
        "redirect_uri": redirect,
        "scope": "openid profile email",
        "state": "s",
        "nonce": f"{person}-{client_id}",
    }
    url = str(httpx.URL(f"{issuer}/oauth2/authorize", params=query))
    code = (await agree(url, person))["code"]
    async with httpx.AsyncClient(trust_env=False) as client:
        answer = await client.post(
            f"{issuer}/oauth2/token",
            data={
                "grant_type": "authorization_code",
                "code": code,
                "redirect_uri": redirect,
                "client_id": client_id,
                "client_secret": "any",
            },
        )
    return str(answer.json()["id_token"])
