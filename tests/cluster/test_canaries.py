"""Secrets that a client sends in the wrong place are kept nowhere."""

from __future__ import annotations

import base64
import json
import re
import secrets
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from serve_app.cli.connection.installation import Installation
from serve_app.tenants.credentials import short_hash
from tests.cluster.darkroom import Darkroom, eventually

pytestmark = pytest.mark.cluster

RUN = "/run/test/probe"


def canary(where: str, sent: dict[str, str]) -> str:
    """A secret of a key, as long as a real one, and remembered by where it is sent."""
    sent[where] = secrets.token_hex(32)
    return sent[where]


def send_all(http: httpx.Client, key_id: str) -> dict[str, str]:
    """Send secrets in wrong places. Returns them by place. None of them lets the caller in."""
    sent: dict[str, str] = {}

    def call(method: str, path: str, **arguments: object) -> None:
        answer = http.request(method, path, **arguments)  # type: ignore[arg-type]
        assert 400 <= answer.status_code < 500, (path, answer.status_code, answer.text)
        assert not [sent_secret for sent_secret in sent.values() if sent_secret in answer.text], (
            answer.text
        )

    def refused(where: str, header: str, value: str) -> None:
        call("GET", "/v1/requests", headers={header: value})
        call("POST", RUN, headers={header: value}, json={"steps": 1})

    refused("swapped", "Authorization", f"Key {canary('swapped', sent)}:{key_id}xxxxxxxx")
    refused("alone", "Authorization", f"Key {canary('alone', sent)}")
    refused("bearer", "Authorization", f"Bearer {canary('bearer', sent)}")
    refused("truncated", "Authorization", f"Key {key_id}:{canary('truncated', sent)[:40]}")
    refused("no scheme", "Authorization", f"{key_id}:{canary('no scheme', sent)}")
    basic = base64.b64encode(f"{canary('basic', sent)}:{key_id}".encode()).decode()
    refused("basic", "Authorization", f"Basic {basic}")
    for header in ("X-Api-Key", "X-Fal-Key", "Api-Key", "Cookie"):
        refused(header, header, canary(header, sent))
    for name in ("key", "token", "fal_jwt_token", "api_key"):
        secret = canary(f"query {name}", sent)
        call("GET", "/v1/requests", params={name: f"{key_id}:{secret}"})
        call("POST", "/test/probe/stream", params={name: secret}, json={})
        call("GET", "/comfyui/queue", params={name: f"{secret}:{key_id}xxxxxxxx"})
    call("GET", f"/queue/{canary('path', sent)}/requests/x/status")
    call("GET", f"/v1/shared/{canary('share', sent)}")
    call("POST", "/v1/sign-in/links/take", json={"token": canary("link", sent)})
    call("PUT", f"/files/u/x/a.png/upload/{canary('upload', sent)}", content=b"x")
    call("POST", RUN, content=f'{{"key": "{canary("broken body", sent)}"')
    call("POST", "/mcp", json={"key": canary("mcp", sent)})
    return sent


def files_of(*folders: Path) -> Iterator[tuple[Path, bytes]]:
    for folder in folders:
        for path in folder.rglob("*"):
            if path.is_file() and not path.is_symlink():
                yield path, path.read_bytes()


@pytest.mark.long
def test_secrets_in_the_wrong_place_are_found_nowhere(darkroom: Darkroom, tmp_path: Path) -> None:
    darkroom.all_ready()
    key_id = darkroom.key.partition(":")[0]
    with httpx.Client(base_url=darkroom.url, timeout=60) as http:
        sent = send_all(http, key_id)
        assert http.get("/v1/requests", headers={"Authorization": f"Key {darkroom.key}"}).is_success
    # Failed logins are written once a minute.
    swapped = json.dumps(short_hash(sent["swapped"]))
    logins = "SELECT 1 FROM audit WHERE action = 'login.fail' AND detail::text LIKE %s"
    eventually(lambda: darkroom.sql(logins, f"%{swapped}%"), "the failed logins are written")
    backup = darkroom.command("backup", str(tmp_path / "backup"))
    assert backup.returncode == 0, backup.stderr
    export = darkroom.http.get("/v1/tenants/default/export").content
    (tmp_path / "export.zip").write_bytes(export)
    log = (darkroom.data_dir / "logs" / "darkroom.log").read_text()
    address = re.findall(r"metrics are at (http://127\.0\.0\.1:\d+/metrics)", log)[-1]
    (tmp_path / "metrics").write_text(httpx.get(address).text)
    with darkroom.database() as connection:
        connection.execute("CHECKPOINT")  # what is in PostgreSQL's memory goes to its files

    installation = Installation(darkroom.data_dir)
    leaks = {
        (where, path.name)
        for path, content in files_of(darkroom.data_dir, installation.run_dir, tmp_path)
        for where, secret in sent.items()
        if secret[:32].encode() in content
    }
    output = darkroom.output.read_text(errors="replace")
    leaks |= {(where, "output") for where, secret in sent.items() if secret[:32] in output}
    tables = json.dumps(darkroom.sql("SELECT row_to_json(a) FROM audit a"), default=str)
    leaks |= {(where, "audit") for where, secret in sent.items() if secret[:32] in tables}
    assert not leaks
