"""fal's own Python client limits the retries of its request by headers.

Over fakes: on a cluster, a retry needs a replica that dies.
"""

from __future__ import annotations

from collections.abc import Iterator

import fal_client
import fal_client.client
import httpx
import pytest

import fal_plain_http
from tests.wire.served import Address, serve
from tests.wire.test_fal_python_client import GLOBALS, PROBE

pytestmark = pytest.mark.wire

FULL = {"fail": "out_of_memory", "retryable": True}


@pytest.fixture(scope="module")
def address() -> Iterator[Address]:
    with serve() as address:
        yield address


@pytest.fixture
def client(address: Address, monkeypatch: pytest.MonkeyPatch) -> Iterator[fal_client.SyncClient]:
    for name in GLOBALS:  # so that they are restored afterwards
        monkeypatch.setattr(fal_client.client, name, getattr(fal_client.client, name))
    fal_plain_http.use(address.url)
    client = fal_client.SyncClient(key=address.key)
    yield client
    client._client.close()


@pytest.mark.parametrize(
    ("headers", "failures"),
    [
        ({}, 3),
        ({"X-Fal-No-Retry": "1"}, 1),
        ({"X-Fal-Retry-Config": '{"server_error": {"retries": 1}}'}, 2),
        ({"X-Fal-Retry-Config": '{"server_error": {"retries": 9}}'}, 10),
    ],
)
def test_a_request_is_tried_again_as_often_as_its_headers_say(
    client: fal_client.SyncClient, address: Address, headers: dict[str, str], failures: int
) -> None:
    handle = client.submit(PROBE, FULL, headers=headers)
    with pytest.raises(fal_client.FalClientHTTPError):
        handle.get()
    shown = httpx.get(
        f"{address.url}/v1/requests/{handle.request_id}",
        headers={"Authorization": f"Key {address.key}"},
    ).json()
    assert shown["failures"] == failures


def test_a_wrong_retry_config_names_its_header(client: fal_client.SyncClient) -> None:
    headers = {"X-Fal-Retry-Config": '{"server_error": 3}'}
    with pytest.raises(fal_client.FalClientHTTPError, match="X-Fal-Retry-Config") as caught:
        client.submit(PROBE, {}, headers=headers)
    assert caught.value.status_code == 422
