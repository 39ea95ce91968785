"""The audit log: over HTTP through HAProxy, with keys and queue in PostgreSQL."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn

from serve_app.cli.serve import haproxy
from serve_app.domain.audit.acts import Actor
from serve_app.domain.errors import DatabaseUnavailable
from serve_app.free_ports import free_port
from serve_app.ingress.services.audit import MAX_ADDRESSES, MAX_KEY_IDS, AuditTrail, source_of
from serve_app.ingress.services.files import UploadLimits, Uploads
from serve_app.postgres.database import Database
from serve_app.queue.queue import PostgresQueue, assemble
from serve_app.queue.store.config import Retention
from serve_app.queue.transactions.uploads import PostgresUploads
from serve_app.telemetry.clock import SystemClock
from serve_app.tenants.credentials import short_hash
from serve_app.tenants.key_ring import KeyRing
from serve_app.tenants.scopes import ADMIN, API
from tests.fakes.clock import FakeClock
from tests.fakes.liveness import FakeLiveness
from tests.fakes.terms import FakeTerms
from tests.ingress.house import PROXY_SECRET, build_house
from tests.queue.database import LONG_LEASES, conninfo, server
from tests.queue.requests import lease, make_finish

__all__ = ["conninfo", "server"]

ENDPOINT = "test/probe"
HERE = "127.0.0.1"
NOBODY = "/v1/requests/0190a0f0-0000-7000-8000-000000000000"
Row = tuple[str, str, str, str, dict[str, Any]]
PROXIED = """
defaults
    mode http
    timeout connect 5s
    timeout client 60s
    timeout server 60s
frontend http_frontend
    bind 127.0.0.1:{port}
    default_backend darkroom
backend darkroom
    server darkroom 127.0.0.1:{backend}
"""


@dataclass
class Place:
    """A Darkroom with its tables in PostgreSQL, behind an HTTP server."""

    url: str
    database: Database
    queue: PostgresQueue
    audit: AuditTrail
    admin: str  # key of the tenant `default`, like `user`
    user: str
    other: str  # key of the tenant `other`

    def client(self, key: str | None, url: str = "", **headers: str) -> httpx.AsyncClient:
        known = {} if key is None else {"Authorization": f"Key {key}"}
        return httpx.AsyncClient(base_url=url or self.url, headers=known | headers, timeout=60)

    async def rows(self) -> Sequence[Row]:
        records = await self.database.rows(
            "SELECT actor, address, action, subject, detail FROM audit ORDER BY id"
        )
        return [(*row,) for row in records]


@asynccontextmanager
async def run_place(conninfo: str, **settings: Any) -> AsyncGenerator[Place]:
    port, clock = free_port(), SystemClock()
    database = Database(conninfo)
    await database.start()
    queue = assemble(database, clock, FakeTerms(), LONG_LEASES, FakeLiveness(), "one")
    await queue.start()
    keys = KeyRing(database, clock)
    audit = AuditTrail(queue.operations, clock)
    async with build_house(replica=False, port=port, trusted_hosts=(HERE,), **settings) as house:
        services = house.services
        book = PostgresUploads(database, Retention())
        uploads = Uploads(
            book, house.storage, UploadLimits.of(services.config), services.files.access
        )
        house.app.state.services = replace(
            services,
            queue=queue,
            audit=audit,
            identity=replace(services.identity, keys=keys),
            files=replace(services.files, uploads=uploads),
        )
        serving = uvicorn.Server(
            uvicorn.Config(
                house.app,
                host=HERE,
                port=port,
                log_config=None,
                lifespan="off",
                forwarded_allow_ips="",  # as `darkroom serve` sets it
            )
        )
        running = asyncio.create_task(serving.serve())
        while not serving.started:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        yield Place(
            *(f"http://{HERE}:{port}", database, queue, audit),
            str(await keys.create("default", scopes=frozenset({API, ADMIN}))),
            str(await keys.create("default")),
            str(await keys.create("other")),
        )
        serving.should_exit = True
        await running
    await queue.aclose()
    await database.aclose()


@pytest.fixture
async def place(conninfo: str) -> AsyncIterator[Place]:
    async with run_place(conninfo) as instance:
        yield instance


@asynccontextmanager
async def behind_haproxy(
    backend: str, folder: Path, *trusted: IPv4Network | IPv6Network
) -> AsyncGenerator[str]:
    """URL of HAProxy before ``backend``, started by the script of `darkroom serve`."""
    if not haproxy.available():
        pytest.skip("no HAProxy for this machine")
    port, config = free_port(), folder / "haproxy.cfg"
    config.write_text(PROXIED.format(port=port, backend=backend.rpartition(":")[2]))
    # In a thread: in the product it runs before there is an event loop.
    script = await asyncio.to_thread(haproxy.write_script, folder, trusted, secret=PROXY_SECRET)
    process = await asyncio.create_subprocess_exec(script, "-db", "-f", config)
    try:
        yield f"http://{HERE}:{port}"
    finally:
        process.terminate()
        await process.wait()


async def paused_by(client: httpx.AsyncClient, **headers: str) -> None:
    """Pause the endpoint, as soon as the server listens."""
    async with asyncio.timeout(60):
        while True:
            try:
                answer = await client.put(f"/v1/endpoints/{ENDPOINT}/pause", headers=headers)
                break
            except httpx.ConnectError:
                await asyncio.sleep(0.05)
    assert answer.status_code == 200, answer.text


def key_id(key: str) -> str:
    return key.partition(":")[0]


# The address


async def test_a_client_cannot_choose_the_address_that_is_recorded(
    place: Place, tmp_path: Path
) -> None:
    forged = {
        "X-Darkroom-Client": "6.6.6.6",
        "X-Darkroom-Proxy-Secret": "a guess",
        "X-Forwarded-For": "6.6.6.6",
    }
    async with (
        behind_haproxy(place.url, tmp_path) as url,
        place.client(place.admin, url, **forged) as client,
    ):
        await paused_by(client)
    async with place.client(place.admin, **forged) as client:  # past HAProxy
        await paused_by(client)
    acted = (key_id(place.admin), HERE, "endpoint.pause", ENDPOINT)
    assert [row[:4] for row in await place.rows()] == [acted, acted]


async def test_what_the_tls_port_says_of_its_client_is_recorded(
    place: Place, tmp_path: Path
) -> None:
    headers = {"X-Darkroom-Client": "198.51.100.4", "X-Darkroom-Proxy-Secret": PROXY_SECRET}
    async with (
        behind_haproxy(place.url, tmp_path) as url,
        place.client(place.admin, url, **headers) as client,
    ):
        await paused_by(client)
    assert [row[1] for row in await place.rows()] == ["198.51.100.4"]


async def test_the_client_of_a_trusted_proxy_is_recorded(conninfo: str, tmp_path: Path) -> None:
    networks = ["127.0.0.0/8", "10.0.0.0/8"]
    async with run_place(conninfo, trusted_proxies=networks) as place:
        async with behind_haproxy(place.url, tmp_path, *map(ip_network, networks)) as url:
            async with place.client(place.admin, url) as client:
                for forwarded in (
                    "6.6.6.6, 203.0.113.7",
                    "203.0.113.7, 10.1.2.3",
                    "::ffff:203.0.113.7",
                    "6.6.6.6, nonsense",
                ):
                    await paused_by(client, **{"X-Forwarded-For": forwarded})
        seen = [row[1] for row in await place.rows()]
    assert seen == ["203.0.113.7", "203.0.113.7", "203.0.113.7", HERE]


# Cancels and deletions


async def submit_request(client: httpx.AsyncClient) -> str:
    return str((await client.post(f"/queue/{ENDPOINT}", json={})).json()["request_id"])


async def test_cancels_and_deletions_are_recorded_with_their_caller(place: Place) -> None:
    async with place.client(place.user) as client:
        by_fal, ours, by_replicate = [await submit_request(client) for _ in range(3)]
        await client.put(f"/queue/{ENDPOINT}/requests/{by_fal}/cancel")
        await client.put(f"/v1/requests/{ours}/cancel")
        await client.put(f"/v1/requests/{ours}/cancel")  # it changes nothing
        await client.post(f"/replicate/v1/predictions/{by_replicate}/cancel")
        assert (await client.delete(f"/v1/requests/{ours}")).status_code == 200
        assert (await client.delete(f"/v1/requests/{ours}")).status_code == 404
        url = (await client.post("/cdn/files/upload", content=b"cat")).json()["access_url"]
        key = url.partition("/files/")[2]
        assert (await client.delete(f"/v1/uploads/{key}")).status_code == 200
    caller, tenant = (key_id(place.user), HERE), {"tenant": "default"}
    assert await place.rows() == [
        (*caller, "request.cancel", by_fal, tenant),
        (*caller, "request.cancel", ours, tenant),
        (*caller, "request.cancel", by_replicate, tenant),
        (*caller, "request.delete", ours, tenant),
        (*caller, "upload.delete", key, tenant),
    ]
    async with place.client(place.admin) as client:
        newest, *_ = (await client.get("/v1/audit")).json()["acts"]
    assert (newest["actor"], newest["address"]) == caller


async def test_a_cancel_that_nobody_asked_for_is_not_recorded(place: Place) -> None:
    async with place.client(place.user) as client:
        request_id = await submit_request(client)
    await place.queue.cancel("default", request_id)
    assert await place.rows() == []


async def test_the_cancel_of_a_running_request_is_recorded_once(place: Place) -> None:
    async with place.client(place.user) as client:
        request_id = await submit_request(client)
        granted = await lease(place.queue)
        for _ in range(2):
            await client.put(f"/v1/requests/{request_id}/cancel")
        await place.queue.finish(make_finish(granted.key))
    assert [row[2:4] for row in await place.rows()] == [("request.cancel", request_id)]


# Reads of other tenants


async def test_what_an_admin_reads_of_another_tenant_is_recorded_once_a_minute(
    place: Place,
) -> None:
    async with place.client(place.other) as other:
        request_id = await submit_request(other)
    async with place.client(place.admin) as admin:
        for _ in range(2):
            await admin.get("/v1/requests", params={"tenant": "other"})
            await admin.get(f"/v1/requests/{request_id}", params={"tenant": "other"})
            await admin.get("/v1/keys", params={"tenant": "other"})
            await admin.get("/v1/requests", params={"tenant": "*"})
        await admin.get("/v1/requests")
        await admin.get("/v1/requests", params={"tenant": "default"})
    async with place.client(place.user) as user:
        refused = await user.get("/v1/requests", params={"tenant": "other"})
        assert refused.status_code == 403
    reader = (key_id(place.admin), HERE, "tenant.read")
    assert await place.rows() == [
        (*reader, "other", {"call": "v1.requests"}),
        (*reader, "other", {"call": "v1.request", "request_id": request_id}),
        (*reader, "other", {"call": "v1.keys.listKeys"}),
        (*reader, "*", {"call": "v1.requests"}),
    ]


# Failed logins


async def test_failed_logins_are_one_row_for_each_address(place: Place) -> None:
    wrong = f"{key_id(place.admin)}:{'x' * 32}"
    async with (
        place.client(None) as nobody,
        place.client(wrong) as guessing,
        place.client("malformed") as malformed,
        place.client("", Authorization=f"Bearer dk_other:{'y' * 32}") as unknown,
    ):
        for client in (nobody, guessing, guessing, malformed, unknown):
            assert (await client.get("/v1/requests")).status_code == 401
        token = {"fal_jwt_token": "forged"}
        assert (await nobody.post(f"/{ENDPOINT}/stream", params=token)).status_code == 401
        from_afar = {"X-Darkroom-Client": "2001:db8::7", "X-Darkroom-Proxy-Secret": PROXY_SECRET}
        await guessing.get("/v1/requests", headers=from_afar)
        await guessing.get("/v1/requests", headers=from_afar | {"X-Darkroom-Client": "2001:db8::8"})
    assert await place.rows() == []
    await place.audit.write()
    await place.audit.write()
    here, afar = await place.rows()
    assert here[:4] == ("", HERE, "login.fail", "")
    assert here[4]["number"] == 5
    assert here[4]["key_ids"] == [key_id(place.admin), short_hash("dk_other")]
    guessed = {"number": 2, "key_ids": [key_id(place.admin)]}
    assert afar == ("", "2001:db8::/64", "login.fail", "", guessed)


async def test_an_attack_from_many_addresses_takes_few_rows_and_little_memory(
    place: Place,
) -> None:
    for n in range(5000):
        place.audit.login_failed(f"10.0.{n // 250}.{n % 250}", f"key_{n}")
    assert len(place.audit._failed) == MAX_ADDRESSES + 1
    await place.audit.aclose()
    rows = await place.rows()
    assert len(rows) == MAX_ADDRESSES + 1
    assert sum(row[4]["number"] for row in rows) == 5000
    others = rows[-1]
    assert (others[1], others[4]["addresses"]) == ("", "others")
    assert len(others[4]["key_ids"]) == MAX_KEY_IDS


async def test_failed_logins_are_kept_while_the_database_is_away(place: Place) -> None:
    audit = AuditTrail(place.queue.operations, FakeClock())
    audit.login_failed("10.0.0.7", "dk_a")
    await place.database.aclose()
    with pytest.raises(DatabaseUnavailable):
        await audit.write()
    audit.login_failed("10.0.0.7", "dk_b")
    with pytest.raises(DatabaseUnavailable):  # a read that cannot be recorded is refused
        await audit.tenant_read(Actor("dk_a"), "other", "v1.requests", "")
    await place.database.start()
    await audit.write()
    ((*_, detail),) = await place.rows()
    assert detail == {"number": 2, "key_ids": ["dk_a", "dk_b"]}


def test_a_client_has_all_addresses_of_its_ipv6_network() -> None:
    assert source_of("2001:db8:1:2:3:4:5:6") == source_of("2001:db8:1:2::") == "2001:db8:1:2::/64"
    assert source_of("::1") == "::1"
    assert source_of("10.0.0.7") == "10.0.0.7"
    assert source_of("") == ""
