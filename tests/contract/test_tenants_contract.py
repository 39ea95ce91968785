"""Contract of ``Tenants``: run over the fake and over PostgreSQL."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest

from serve_app.domain.audit.acts import Actor
from serve_app.tenants.key_ring import KeyRing
from serve_app.tenants.tenants import PostgresTenants, TenantChange, Tenants
from tests.fakes.clock import FakeClock
from tests.fakes.keyring import FakeKeyRing
from tests.fakes.tenants import FakeTenants
from tests.queue.connections import LastingDatabase

BOSS = Actor("boss", "10.0.0.7")
Acts = list[tuple[str, str, str, Any]]


@dataclass
class Register:
    tenants: Tenants
    keys: KeyRing | FakeKeyRing
    clock: FakeClock
    acts: Callable[[], Awaitable[Acts]]


@pytest.fixture(params=["fake", "postgres"])
def at(request: pytest.FixtureRequest) -> str | None:
    """Connection string of the database; None for the fake."""
    return request.getfixturevalue("conninfo") if request.param == "postgres" else None


@pytest.fixture
async def register(at: str | None) -> AsyncIterator[Register]:
    clock = FakeClock()
    if at is None:
        noted: Acts = []

        def note(actor: Actor, action: str, subject: str, detail: Any) -> None:
            noted.append((actor.key_id, action, subject, detail))

        async def fake_acts() -> Acts:
            return noted

        keys = FakeKeyRing(clock)
        yield Register(FakeTenants(clock, keys, note), keys, clock, fake_acts)
        return
    database = LastingDatabase(at, connections=2)
    await database.start()

    async def acts() -> Acts:
        return await database.rows("SELECT actor, action, subject, detail FROM audit ORDER BY id")

    yield Register(PostgresTenants(database, clock), KeyRing(database, clock), clock, acts)
    await database.aclose()


async def test_a_tenant_exists_once_it_has_had_a_key(register: Register) -> None:
    assert await register.tenants.list() == []
    gone = await register.keys.create("studio")
    await register.keys.create("studio", name="laptop")
    await register.keys.create("lab", expires_at=register.clock.now() - timedelta(seconds=60))
    await register.keys.revoke(gone.id)
    valid_keys = [(tenant.id, tenant.valid_keys) for tenant in await register.tenants.list()]
    assert valid_keys == [("lab", 0), ("studio", 1)]


async def test_a_tenant_is_created_once(register: Register) -> None:
    tenants = register.tenants
    assert await tenants.create("studio", "Studio A", {"max_running": 4}, BOSS)
    assert not await tenants.create("studio", "Another", {}, BOSS)
    tenant = await tenants.find("studio")
    assert tenant is not None
    assert (tenant.name, dict(tenant.limits), tenant.valid_keys) == (
        "Studio A",
        {"max_running": 4},
        0,
    )
    assert tenant.disabled_at is None
    detail = {"name": "Studio A", "limits": {"max_running": 4}}
    assert await register.acts() == [("boss", "tenant.create", "studio", detail)]


async def test_without_a_name_a_tenant_has_its_id(register: Register) -> None:
    await register.tenants.create("studio", "", {}, BOSS)
    await register.keys.create("studio")  # it stays as it is
    tenant = await register.tenants.find("studio")
    assert tenant is not None
    assert (tenant.name, tenant.valid_keys) == ("studio", 1)


async def test_a_change_leaves_the_rest_and_null_removes_a_limit(register: Register) -> None:
    tenants = register.tenants
    await tenants.create("studio", "Studio A", {"max_running": 4, "weight": 2.5}, BOSS)
    await tenants.change(
        "studio", TenantChange(limits={"max_running": None, "max_waiting": 9}), BOSS
    )
    tenant = await tenants.change("studio", TenantChange(name="B"), BOSS)
    assert tenant is not None
    assert (tenant.name, dict(tenant.limits)) == ("B", {"weight": 2.5, "max_waiting": 9})
    assert (await register.acts())[1:] == [
        ("boss", "tenant.change", "studio", {"limits": {"max_running": None, "max_waiting": 9}}),
        ("boss", "tenant.change", "studio", {"name": "B"}),
    ]


async def test_a_tenant_is_disabled_and_enabled(register: Register) -> None:
    await register.keys.create("studio")
    since = register.clock.now()
    for _ in range(2):
        changed = await register.tenants.change("studio", TenantChange(disabled=True), BOSS)
        assert changed is not None
        assert changed.disabled_at == since
        register.clock.advance(60)
    assert [tenant.id for tenant in await register.tenants.special()] == ["studio"]
    changed = await register.tenants.change("studio", TenantChange(disabled=False), BOSS)
    assert changed is not None
    assert changed.disabled_at is None
    assert await register.tenants.special() == []
    actions = [action for _, action, *_ in await register.acts()]
    assert actions == ["tenant.disable", "tenant.disable", "tenant.enable"]


async def test_what_does_not_exist_is_not_changed(register: Register) -> None:
    assert await register.tenants.change("nobody", TenantChange(disabled=True), BOSS) is None
    assert await register.tenants.find("nobody") is None
    assert await register.acts() == []


async def test_the_audit_log_has_of_a_budgets_webhook_only_the_host(register: Register) -> None:
    budget = {"amount": "5", "webhook": "https://u:p@example.com/hook?key=k"}
    noted = {"limits": {"budget": {"amount": "5", "webhook": "example.com"}}}
    await register.tenants.create("studio", "", {"budget": budget}, BOSS)
    tenant = await register.tenants.change("studio", TenantChange(limits={"budget": budget}), BOSS)
    assert tenant is not None
    assert tenant.limits == {"budget": budget}
    acts = await register.acts()
    assert acts == [
        ("boss", "tenant.create", "studio", {"name": "studio", **noted}),
        ("boss", "tenant.change", "studio", noted),
    ]


async def test_the_version_follows_changes_of_limits_and_states(register: Register) -> None:
    tenants = register.tenants
    await register.keys.create("studio")
    seen = [await tenants.version()]
    for change in (
        TenantChange(limits={"weight": 2}),
        TenantChange(limits={"weight": 3}),
        TenantChange(disabled=True),
        TenantChange(disabled=False),
        TenantChange(limits={"weight": None}),
    ):
        await tenants.change("studio", change, BOSS)
        seen.append(await tenants.version())
    assert all(earlier != other for earlier, other in itertools.pairwise(seen))
