"""Commands that sign and revoke URLs, with fakes behind real HTTP."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import httpx
import pytest
from click.testing import Result

from tests.wire.served import Address, serve

Run = Callable[..., Result]


@pytest.fixture(scope="module")
def address() -> Iterator[Address]:
    with serve(files="private") as address:
        yield address


@pytest.fixture
def file(address: Address) -> str:
    """URL of a private file, without a signature."""
    headers = {"authorization": f"Key {address.key}", "content-type": "image/png"}
    response = httpx.post(f"{address.url}/cdn/files/upload", content=b"x", headers=headers)
    return str(response.json()["access_url"]).partition("?")[0]


def test_a_url_is_signed_and_revoked(darkroom: Run, file: str) -> None:
    assert httpx.get(file).status_code == 403
    first = darkroom("files", "sign", file, "--expires-in", "2h").stdout.strip()
    second = darkroom("files", "sign", file).stdout.strip()
    assert ("expires=" in first, "expires=" in second) == (True, False)
    assert [httpx.get(url).status_code for url in (first, second)] == [200, 200]
    assert darkroom("files", "revoke", first).stdout == "The URL is revoked.\n"
    assert [httpx.get(url).status_code for url in (first, second)] == [403, 200]
    darkroom("files", "revoke", second, "--all")
    assert httpx.get(second).status_code == 403


def test_json_has_the_whole_answer(darkroom: Run, file: str) -> None:
    signed = json.loads(darkroom("files", "sign", file, "--json").stdout)
    assert signed["expires_at"] is None
    assert json.loads(darkroom("files", "revoke", signed["url"], "--json").stdout) == {
        "revoked": "one"
    }


def test_a_public_file_is_refused_in_a_sentence(darkroom: Run) -> None:
    result = darkroom("files", "sign", "/files/u/abc/a.png", fails=True)
    assert "is public" in result.output


def test_a_time_has_a_unit(darkroom: Run, file: str) -> None:
    for wrong in ("", "h", "90", "2x", "nand", f"1{'0' * 400}d"):
        refused = darkroom("files", "sign", file, "--expires-in", wrong, fails=True)
        assert "such as 30m" in refused.stderr
