"""Realtime with fal's own Python client, unmodified."""

from __future__ import annotations

from collections.abc import Iterator

import fal_client
import fal_client.client
import pytest

import fal_plain_http
from tests.wire.served import serve

pytestmark = pytest.mark.wire

GLOBALS = ("RUN_URL_FORMAT", "QUEUE_URL_FORMAT", "REALTIME_URL_FORMAT", "REST_URL", "CDN_URL")
PROBE = "test/probe"


@pytest.fixture(autouse=True)
def pointed_here(darkroom_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in GLOBALS:  # so that they are restored afterwards
        monkeypatch.setattr(fal_client.client, name, getattr(fal_client.client, name))
    fal_plain_http.use(darkroom_url)


@pytest.fixture
def client(darkroom_key: str) -> Iterator[fal_client.SyncClient]:
    client = fal_client.SyncClient(key=darkroom_key)
    yield client
    client._client.close()


@pytest.mark.parametrize("use_jwt", [True, False])
def test_frames_are_answered_in_their_order(client: fal_client.SyncClient, use_jwt: bool) -> None:
    with client.realtime(PROBE, use_jwt=use_jwt) as session:
        for number in range(3):
            session.send({"echo": number, "request_id": f"r-{number}"})
        for number in range(3):
            answer = session.recv()
            assert answer is not None
            assert (answer["echo"], answer["request_id"]) == (number, f"r-{number}")


async def test_images_come_as_bytes(darkroom_key: str) -> None:
    client = fal_client.AsyncClient(key=darkroom_key)
    async with client.realtime(PROBE, max_buffering=2) as session:
        await session.send({"artifacts": 1, "content": "abc"})
        answer = await session.recv()
    assert answer is not None
    assert answer["images"][0]["content"] == b"abc"
    await (await client._client).aclose()


def test_a_wrong_frame_raises_and_the_session_goes_on(client: fal_client.SyncClient) -> None:
    with client.realtime(PROBE) as session:
        session.send({"artifacts": -1})
        with pytest.raises(fal_client.client.RealtimeError, match="artifacts"):
            session.recv()
        session.send({"echo": 1})
        assert (session.recv() or {})["echo"] == 1


def test_a_key_that_is_not_valid_raises() -> None:
    stranger = fal_client.SyncClient(key="dk_no:0123456789abcdef")
    with stranger.realtime(PROBE, use_jwt=False) as session:
        with pytest.raises(fal_client.client.RealtimeError, match="Unauthorized: The API key"):
            session.recv()
    with pytest.raises(fal_client.FalClientHTTPError, match="not valid"):
        with stranger.realtime(PROBE):
            pass
    stranger._client.close()


def test_one_session_more_than_a_tenant_may_have_raises() -> None:
    with serve(max_sessions_per_tenant=1) as address:
        fal_plain_http.use(address.url)
        limited = fal_client.SyncClient(key=address.key)
        with limited.realtime(PROBE, use_jwt=False) as first:
            first.send({"echo": 1})
            assert (first.recv() or {})["echo"] == 1
            with limited.realtime(PROBE, use_jwt=False) as second:
                with pytest.raises(
                    fal_client.client.RealtimeError, match="CONCURRENT_REQUESTS_LIMIT: You have 1"
                ):
                    second.recv()
            first.send({"echo": 2})
            assert (first.recv() or {})["echo"] == 2
        limited._client.close()
