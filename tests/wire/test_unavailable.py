"""fal's own clients repeat calls that Darkroom refuses for a moment, such as while its database is
away."""

from __future__ import annotations

import subprocess
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import fal_client
import fal_client.client
import httpx
import pytest

import fal_plain_http
from serve_app.domain.errors import DarkroomError, DatabaseUnavailable, EndpointDraining
from serve_app.tenants.scopes import Caller
from tests.ingress.house import House
from tests.node import node, packages
from tests.wire.served import Address, serve
from tests.wire.test_fal_javascript_client import HERE, TIMEOUT_S, documented_program
from tests.wire.test_fal_python_client import GLOBALS, PROBE

pytestmark = pytest.mark.wire

AWAY = DatabaseUnavailable("PostgreSQL does not answer.")


class Refusals:
    """Errors in place of the answers to the next calls."""

    def __init__(self) -> None:
        self.next: list[DarkroomError] = []

    @asynccontextmanager
    async def beside(self, house: House) -> AsyncGenerator[None]:
        authenticate = house.keys.authenticate

        async def refuse(header: str | None) -> Caller:
            if self.next:
                raise self.next.pop()
            return await authenticate(header)

        house.keys.authenticate = refuse
        yield


@pytest.fixture(scope="module")
def refusing() -> Iterator[tuple[Refusals, Address]]:
    refusals = Refusals()
    with serve(beside=refusals.beside) as address:
        yield refusals, address


@pytest.fixture
def client(
    refusing: tuple[Refusals, Address], monkeypatch: pytest.MonkeyPatch
) -> Iterator[fal_client.SyncClient]:
    _, address = refusing
    for name in GLOBALS:  # so that they are restored afterwards
        monkeypatch.setattr(fal_client.client, name, getattr(fal_client.client, name))
    fal_plain_http.use(address.url)
    client = fal_client.SyncClient(key=address.key)
    yield client
    client._client.close()


def test_python_repeats_a_call_while_the_database_is_away(
    client: fal_client.SyncClient, refusing: tuple[Refusals, Address]
) -> None:
    refusals, _ = refusing
    refusals.next = [AWAY, AWAY]
    handle = client.submit(PROBE, {"echo": 1})
    refusals.next = [AWAY]
    handle.status()
    assert not refusals.next
    refusals.next = [AWAY]
    assert handle.get()["echo"] == 1
    refusals.next = [AWAY]
    assert client.run(PROBE, {"echo": 2})["echo"] == 2
    assert not refusals.next


def test_python_shows_at_once_what_lasts_longer(
    client: fal_client.SyncClient, refusing: tuple[Refusals, Address]
) -> None:
    refusals, _ = refusing
    refusals.next = [EndpointDraining("An operator drains the endpoint.")]
    with pytest.raises(fal_client.FalClientHTTPError, match="An operator drains"):
        client.submit(PROBE, {})


def test_a_refusal_that_is_repeated_has_an_id_for_the_log(
    refusing: tuple[Refusals, Address],
) -> None:
    refusals, address = refusing
    refusals.next = [AWAY]
    headers = {"Authorization": f"Key {address.key}"}
    answer = httpx.post(f"{address.url}/queue/{PROBE}", json={}, headers=headers)
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "5"
    assert len(answer.headers["x-request-id"]) == 36
    assert answer.json()["detail"] == AWAY.message


def test_javascript_repeats_a_call_while_the_database_is_away(
    refusing: tuple[Refusals, Address], tmp_path: Path
) -> None:
    refusals, address = refusing
    (tmp_path / "node_modules").symlink_to(packages(HERE))
    setup = tmp_path / "setup.mjs"
    setup.write_text(documented_program(address))
    refusals.next = [AWAY]
    done = subprocess.run(
        [node(), HERE / "submit.mjs", setup, "a dog"],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert not refusals.next
