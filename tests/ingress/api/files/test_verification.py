"""``/v1/verify``: files of anyone, checked over HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from serve_app.ingress.api.files import verification
from serve_app.provenance.certificates import CERTIFICATES_FILE
from tests.cli.verification.test_verify import SIGNER, png, sign_file
from tests.ingress.house import House, build_house

pytestmark = pytest.mark.engine
PNG = {"content-type": "image/png"}


@pytest.fixture(scope="module")
def signed_png() -> bytes:
    return sign_file(png())


async def test_a_file_of_this_installation_is_trusted_until_it_is_changed(
    tmp_path: Path, signed_png: bytes
) -> None:
    (tmp_path / CERTIFICATES_FILE).write_text(SIGNER.chain)
    body = signed_png
    place = body.index(b"IDAT") + 8
    changed = body[:place] + bytes([body[place] ^ 1]) + body[place + 1 :]
    async with build_house(replica=False, data_dir=tmp_path) as house, house.client() as client:
        whole = await client.post("/v1/verify", content=body, headers=PNG)
        other = await client.post("/v1/verify", content=changed, headers=PNG)
        plain = await client.post("/v1/verify", content=png(), headers=PNG)
    assert whole.status_code == 200, whole.text
    assert (whole.json()["verdict"], whole.json()["marked"]) == ("trusted", True)
    assert whole.json()["generation"]["endpoint"] == "fal-ai/flux/schnell"
    assert (other.json()["verdict"], other.json()["problems"]) == (
        "invalid",
        ["assertion.dataHash.mismatch"],
    )
    assert (plain.json()["verdict"], plain.json()["signer"]) == ("unsigned", "")


@pytest.mark.parametrize(
    ("content", "media_type", "status", "message"),
    [
        (b"x", "text/plain", 400, "with its media type as `Content-Type`"),
        (b"x", "", 400, "image/png"),
        (b"", "image/png", 422, "The body is empty"),
        (b"12345678", "image/png", 413, "larger than"),
    ],
)
async def test_what_cannot_be_checked_is_refused_before_a_process_starts(
    house: House,
    monkeypatch: pytest.MonkeyPatch,
    content: bytes,
    media_type: str,
    status: int,
    message: str,
) -> None:
    monkeypatch.setattr(verification, "MAX_FILE_BYTES", 7)
    monkeypatch.delattr(verification, "check_apart")
    async with house.client() as client:
        headers = {"content-type": media_type}
        answer = await client.post("/v1/verify", content=content, headers=headers)
    assert answer.status_code == status, answer.text
    assert message in answer.text


@pytest.mark.long
async def test_a_tenant_checks_one_file_at_once_and_a_slow_sender_delays_no_other(
    house: House,
) -> None:
    begun, go = asyncio.Event(), asyncio.Event()

    async def slowly() -> AsyncIterator[bytes]:
        begun.set()
        yield png()[:9]
        await go.wait()
        yield png()[9:]

    async with house.client() as client, house.client(house.other_key) as other:
        slow = asyncio.create_task(client.post("/v1/verify", content=slowly(), headers=PNG))
        async with asyncio.timeout(120):
            await begun.wait()
        refused = await client.post("/v1/verify", content=png(), headers=PNG)
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "2")
        assert (await other.post("/v1/verify", content=png(), headers=PNG)).status_code == 200
        go.set()
        assert (await slow).status_code == 200
        assert (await client.post("/v1/verify", content=png(), headers=PNG)).status_code == 200
        house.services.checking |= {str(number) for number in range(verification.MAX_TENANTS)}
        assert (await client.post("/v1/verify", content=png(), headers=PNG)).status_code == 429


async def test_a_check_needs_a_key(house: House) -> None:
    async with house.client("no:key") as client:
        assert (await client.post("/v1/verify", content=png(), headers=PNG)).status_code == 401
