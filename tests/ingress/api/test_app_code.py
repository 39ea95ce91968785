"""``POST /v1/apps/code``: the code of apps, as operators store it."""

from __future__ import annotations

import hashlib
import io
import zipfile

import httpx
import pytest

from serve_app.ingress.api.model_entries import MAX_CODE_BYTES
from tests.ingress.house import House

CODE = "/v1/apps/code"


def zip_app(text: str = "x = 1\n") -> bytes:
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w") as archive:
        archive.writestr("app.py", text)
    return written.getvalue()


async def upload_code(client: httpx.AsyncClient, content: bytes) -> httpx.Response:
    return await client.post(CODE, content=content, headers={"content-type": "application/zip"})


async def test_code_is_stored_under_its_digest(house: House, client: httpx.AsyncClient) -> None:
    content = zip_app()
    digest = hashlib.sha256(content).hexdigest()
    answer = await upload_code(client, content)
    assert (answer.status_code, answer.json()) == (200, {"digest": digest, "bytes": len(content)})
    assert await house.services.bundles.read(digest) == content


async def test_equal_code_is_stored_once_however_often_it_is_sent(
    client: httpx.AsyncClient,
) -> None:
    answers = [(await upload_code(client, zip_app())).json() for _ in range(3)]
    assert answers == [answers[0]] * 3
    assert (await upload_code(client, zip_app("x = 2\n"))).json() != answers[0]


async def test_only_operators_store_code(house: House) -> None:
    async with house.client(house.weak_key) as weak:
        answer = await upload_code(weak, zip_app())
    assert answer.status_code == 403
    assert "operator" in answer.text
    async with house.client("wrong") as unknown:
        assert (await upload_code(unknown, zip_app())).status_code == 401


async def test_code_that_is_too_large_is_refused_before_it_is_read(
    client: httpx.AsyncClient,
) -> None:
    headers = {"content-length": str(MAX_CODE_BYTES + 1)}
    answer = await client.post(CODE, content=b"PK", headers=headers)
    assert answer.status_code == 413
    assert f"the limit of {MAX_CODE_BYTES} bytes" in answer.text


@pytest.mark.parametrize(
    "content", [b"", b"x = 1\n", b"PK", b"PK\x03\x04" + b"x" * 100, zip_app()[:-9]]
)
async def test_what_is_no_zip_file_is_refused(client: httpx.AsyncClient, content: bytes) -> None:
    answer = await upload_code(client, content)
    assert answer.status_code == 422
    assert "must be a zip file with the code of an app" in answer.text
