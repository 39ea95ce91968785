"""Uploads by fal's own Python client, unmodified."""

from __future__ import annotations

import io
import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import fal_client
import fal_client.client
import httpx
import pytest
from PIL import Image

import fal_plain_http
from deployments.transfer.fetcher import Fetcher, OwnFiles, fetcher_client
from serve_app.domain.errors import InvalidInput
from serve_app.domain.name_resolution import NameResolver
from tests.wire.served import Address, serve

pytestmark = pytest.mark.wire

GLOBALS = ("RUN_URL_FORMAT", "QUEUE_URL_FORMAT", "REALTIME_URL_FORMAT", "REST_URL", "CDN_URL")
CONTENT = bytes(range(256)) * 400
MIB = 2**20


@pytest.fixture(scope="module")
def small() -> Iterator[Address]:
    """Darkroom that accepts at most 25 MiB."""
    with serve(max_upload_bytes=25 * MIB) as address:
        yield address


@pytest.fixture(autouse=True)
def own_globals(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in GLOBALS:
        monkeypatch.setattr(fal_client.client, name, getattr(fal_client.client, name))


@pytest.fixture(scope="module")
def fakes() -> Iterator[Address]:
    with serve() as address:
        yield address


@pytest.fixture
def client(fakes: Address) -> Iterator[fal_client.SyncClient]:
    yield from sync_client(fakes)


@pytest.fixture
def any_client(darkroom_address: Address) -> Iterator[fal_client.SyncClient]:
    """Addresses of the fakes, and of a real cluster."""
    yield from sync_client(darkroom_address)


@pytest.fixture
def small_client(small: Address) -> Iterator[fal_client.SyncClient]:
    yield from sync_client(small)


class Closing(fal_client.SyncClient):
    """Close the HTTP clients that fal's client creates for each upload and forgets to close."""

    def _get_cdn_client(self) -> httpx.Client:
        cdn_client = super()._get_cdn_client()
        self.__dict__.setdefault("made", []).append(cdn_client)
        return cdn_client


def sync_client(address: Address) -> Iterator[fal_client.SyncClient]:
    fal_plain_http.use(address.url)
    client = Closing(key=address.key)
    yield client
    for http_client in (client._client, *client.__dict__.get("made", ())):
        http_client.close()


@pytest.fixture
async def async_client(fakes: Address) -> AsyncIterator[fal_client.AsyncClient]:
    fal_plain_http.use(fakes.url)
    client = fal_client.AsyncClient(key=fakes.key)
    yield client
    await (await client._client).aclose()


def parts_of_5_mib(monkeypatch: pytest.MonkeyPatch, threshold: int = MIB) -> None:
    """Use the smallest parts that S3 accepts, so that tests need not send hundreds of megabytes."""
    monkeypatch.setattr(fal_client.client, "MULTIPART_THRESHOLD", threshold)
    monkeypatch.setattr(fal_client.client, "MULTIPART_CHUNK_SIZE", 5 * MIB)


def read(url: str) -> httpx.Response:
    return httpx.get(url).raise_for_status()


@pytest.mark.parametrize("repository", [None, "fal_v3", "fal"])
def test_upload(any_client: fal_client.SyncClient, repository: Any) -> None:
    url = any_client.upload(CONTENT, "image/png", file_name="a cat.png", repository=repository)
    answer = read(url)
    assert answer.content == CONTENT
    assert answer.headers["content-type"] == "image/png"
    assert answer.headers["etag"]
    part = httpx.get(url, headers={"range": "bytes=256-511"})
    assert (part.status_code, part.content) == (206, CONTENT[256:512])
    assert re.search(r"/files/u/[A-Za-z0-9_-]{22}/a_cat\.png$", url)


async def test_upload_async(async_client: fal_client.AsyncClient) -> None:
    for repository in (None, "fal"):
        url = await async_client.upload(CONTENT, "video/mp4", repository=repository)
        assert read(url).content == CONTENT
        assert read(url).headers["content-type"] == "video/mp4"


def test_upload_file(client: fal_client.SyncClient, tmp_path: Path) -> None:
    path = tmp_path / "notes.json"
    path.write_bytes(b"{}")
    url = client.upload_file(path)
    assert url.endswith("/notes.json")
    assert read(url).headers["content-type"] == "application/json"


async def test_upload_file_async(async_client: fal_client.AsyncClient, tmp_path: Path) -> None:
    path = tmp_path / "audio.wav"
    path.write_bytes(CONTENT)
    assert read(await async_client.upload_file(path)).content == CONTENT


def test_upload_image(client: fal_client.SyncClient) -> None:
    url = client.upload_image(Image.new("RGB", (40, 30), "red"))
    image = Image.open(io.BytesIO(read(url).content))
    assert (image.size, image.format) == ((40, 30), "JPEG")


async def test_upload_image_async(async_client: fal_client.AsyncClient) -> None:
    url = await async_client.upload_image(Image.new("RGB", (40, 30), "red"), format="png")
    assert Image.open(io.BytesIO(read(url).content)).format == "PNG"


def test_the_second_way_is_taken_when_the_first_is_not_there(
    client: fal_client.SyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fal_client.client, "CDN_URL", fal_client.client.CDN_URL + "/nowhere")
    url = client.upload(CONTENT, "image/png", fallback_repository=["fal"])
    assert read(url).content == CONTENT


def test_a_large_upload_goes_in_parts(
    any_client: fal_client.SyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts_of_5_mib(monkeypatch)
    content = CONTENT * 120  # 11.7 MiB
    assert read(any_client.upload(content, "video/mp4", file_name="x.mp4")).content == content


@pytest.mark.long
async def test_a_large_upload_goes_in_parts_async(
    async_client: fal_client.AsyncClient, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    parts_of_5_mib(monkeypatch)
    content = CONTENT * 120
    assert read(await async_client.upload(content, "video/mp4")).content == content
    path = tmp_path / "video.webm"
    path.write_bytes(content)
    url = await async_client.upload_file(path)
    assert read(url).content == content
    assert url.endswith("/video.webm")


def test_a_large_file_goes_in_parts(
    client: fal_client.SyncClient, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    parts_of_5_mib(monkeypatch)
    path = tmp_path / "weights.safetensors"
    path.write_bytes(CONTENT * 120)
    assert read(client.upload_file(path)).content == CONTENT * 120


def test_one_that_is_too_large_is_refused_in_a_sentence(
    small_client: fal_client.SyncClient,
) -> None:
    for repository in ("fal_v3", "fal"):
        with pytest.raises(Exception, match="DARKROOM_MAX_UPLOAD_BYTES") as caught:
            small_client.upload(
                bytes(26 * MIB), "image/png", repository=repository, fallback_repository=[]
            )
        assert getattr(caught.value, "status_code", None) == 413


def test_one_in_parts_that_is_too_large_is_refused_in_a_sentence(
    small_client: fal_client.SyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts_of_5_mib(monkeypatch)
    with pytest.raises(fal_client.FalClientHTTPError, match="DARKROOM_MAX_UPLOAD_BYTES") as caught:
        small_client.upload(bytes(26 * MIB), "image/png")
    assert caught.value.status_code == 413


def test_how_long_it_is_kept_can_be_said(client: fal_client.SyncClient) -> None:
    lifecycle = fal_client.StorageSettings(expires_in="1h")
    assert read(client.upload(CONTENT, "image/png", lifecycle=lifecycle)).content == CONTENT


@pytest.mark.parametrize("multipart", [False, True])
def test_a_private_file_is_read_by_its_tenant_and_by_a_signed_url(
    client: fal_client.SyncClient, fakes: Address, monkeypatch: pytest.MonkeyPatch, multipart: bool
) -> None:
    rules = fal_client.StorageACL(
        default="forbid", rules=[fal_client.StorageACLRule(user="studio-b", decision="allow")]
    )
    lifecycle = fal_client.StorageSettings(expires_in="7d", initial_acl=rules)
    content = CONTENT
    if multipart:
        parts_of_5_mib(monkeypatch)
        content = bytes(11 * MIB)
    url = client.upload(content, "image/png", lifecycle=lifecycle)
    bare = url.partition("?")[0]
    assert httpx.get(bare).status_code == 403
    key = {"authorization": f"Key {fakes.key}"}
    assert httpx.get(bare, headers=key).content == content
    body = {"path": url, "expires_in": 60}
    signed = httpx.post(f"{fakes.url}/v1/files/sign", json=body, headers=key).json()["url"]
    assert httpx.get(signed).content == content
    used = client.run("test/probe", {"echo": url})
    assert used["echo"] == url


def test_without_a_good_key_nothing_is_taken(fakes: Address) -> None:
    fal_plain_http.use(fakes.url)
    client = fal_client.SyncClient(key="nobody:" + "0" * 64)
    with pytest.raises(httpx.HTTPStatusError, match="401"):
        client.upload(CONTENT, "image/png")


async def test_what_was_uploaded_is_an_input_by_whatever_name_the_client_knows_us(
    fakes: Address, async_client: fal_client.AsyncClient
) -> None:
    """Fetch a file as a replica does: from the ingress, which may have a private address."""
    url = httpx.URL(await async_client.upload(CONTENT, "image/png", file_name="cat.png"))
    fetcher = Fetcher(
        fetcher_client(), NameResolver(), max_bytes=MIB, timeout_s=10.0, allow_private=False
    )
    for name in ("127.0.0.1", "darkroom.invalid", "v3.fal.media"):
        named = str(url.copy_with(host=name))
        assert await fetcher.fetch(named, "image_url", OwnFiles(fakes.url)) == CONTENT
    with pytest.raises(InvalidInput, match="our storage has no such file"):
        await fetcher.fetch(f"{url}x", "image_url", OwnFiles(fakes.url))
    await fetcher.aclose()
