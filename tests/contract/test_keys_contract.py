"""Contract of ``Keys``: run over the fake and over PostgreSQL."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import pytest

from serve_app.domain.audit.acts import Actor
from serve_app.domain.errors import Unauthenticated
from serve_app.tenants.credentials import Credential, short_hash
from serve_app.tenants.key_ring import KeyRing
from serve_app.tenants.scopes import ADMIN, API, CANCEL, READ
from serve_app.tenants.sign_in import Person, Rights
from tests.fakes.clock import FakeClock
from tests.fakes.keyring import FakeKeyRing
from tests.queue.connections import LastingDatabase

Acts = list[tuple[Actor, str, str, dict[str, Any]]]

ADA = Person("7f3a", "ada@example.org", ())


@dataclass
class Ring:
    keys: KeyRing | FakeKeyRing
    clock: FakeClock
    acts: Callable[[], Awaitable[Acts]]  # from the audit log


@pytest.fixture(params=["fake", "postgres"])
def at(request: pytest.FixtureRequest) -> str | None:
    """Connection string of the database; None for the fake."""
    return request.getfixturevalue("conninfo") if request.param == "postgres" else None


@pytest.fixture
async def ring(at: str | None) -> AsyncIterator[Ring]:
    clock = FakeClock()
    if at is None:
        noted: Acts = []

        async def fake_acts() -> Acts:
            return noted

        yield Ring(FakeKeyRing(clock, lambda *act: noted.append(act)), clock, fake_acts)
        return
    database = LastingDatabase(at, connections=2)
    await database.start()

    async def acts() -> Acts:
        rows = await database.rows(
            "SELECT actor, address, action, subject, detail FROM audit ORDER BY id"
        )
        return [(Actor(key_id, address), *act) for key_id, address, *act in rows]

    yield Ring(KeyRing(database, clock), clock, acts)
    await database.aclose()


async def test_a_key_lets_its_tenant_in(ring: Ring) -> None:
    key = await ring.keys.create("studio", name="laptop", scopes=frozenset({API, ADMIN}))
    for scheme in ("Key", "key", "Bearer"):
        who = await ring.keys.authenticate(f"{scheme} {key}")
        assert (who.tenant, who.key_id) == ("studio", key.id)
        assert who.scopes == {API, ADMIN}


async def test_what_stands_in_place_of_an_id_is_named_if_it_is_one(ring: Ring) -> None:
    key = await ring.keys.create("studio")
    assert await ring.keys.key_id_of(f"Key {key}") == key.id
    assert await ring.keys.key_id_of(f"Key {key.id}:{'0' * 64}") == key.id
    swapped = await ring.keys.key_id_of(f"Key {key.secret}:{key.id}")
    assert swapped == short_hash(key.secret)
    assert key.secret[:8] not in swapped
    for nothing in (None, "", "Key", "Key x", f"Key {key.secret}", "Basic eDp5"):
        assert await ring.keys.key_id_of(nothing) == ""


async def test_a_plain_key_may_only_call(ring: Ring) -> None:
    key = await ring.keys.create("studio")
    assert (await ring.keys.authenticate(f"Key {key}")).scopes == {API}


async def test_a_wrong_secret_and_an_unknown_id_are_refused_in_the_same_words(ring: Ring) -> None:
    key = await ring.keys.create("studio")
    messages: list[str] = []
    for wrong in (f"{key.id}:{'0' * 64}", f"nobody:{key.secret}"):
        for _ in range(2):  # looked up, then from the cache
            with pytest.raises(Unauthenticated) as caught:
                await ring.keys.authenticate(f"Key {wrong}")
            messages.append(caught.value.message)
    assert len(set(messages)) == 1


@pytest.mark.parametrize("wish", [True, False])
async def test_a_key_decides_whether_lost_answers_are_given_again(ring: Ring, wish: bool) -> None:
    key = await ring.keys.create("studio", replay_undelivered=wish)
    assert (await ring.keys.authenticate(f"Key {key}")).replay_undelivered is wish
    (info,) = await ring.keys.list("studio")
    assert info.replay_undelivered is wish


@pytest.mark.parametrize(
    "header",
    [None, "", "Key", "Key x", "Basic a:b", "Key :x", "Key a:short", "Key a b:" + "c" * 64],
)
async def test_what_is_no_key_is_refused(ring: Ring, header: str | None) -> None:
    with pytest.raises(Unauthenticated):
        await ring.keys.authenticate(header)


async def test_a_key_ends_when_it_was_to_end(ring: Ring) -> None:
    until = ring.clock.now() + timedelta(seconds=60)
    key = await ring.keys.create("studio", expires_at=until)
    await ring.keys.authenticate(f"Key {key}")
    ring.clock.advance(61)
    with pytest.raises(Unauthenticated, match="expired"):
        await ring.keys.authenticate(f"Key {key}")


async def test_a_revoked_key_is_shut_out(ring: Ring) -> None:
    key = await ring.keys.create("studio")
    await ring.keys.authenticate(f"Key {key}")
    assert await ring.keys.revoke(key.id)
    assert await ring.keys.revoke(key.id)
    with pytest.raises(Unauthenticated):
        await ring.keys.authenticate(f"Key {key}")
    assert not await ring.keys.revoke("nobody")


async def test_a_key_that_was_unknown_is_known_once_it_is_made(ring: Ring) -> None:
    credential = Credential("chosen", "s" * 64)
    with pytest.raises(Unauthenticated):
        await ring.keys.authenticate(f"Key {credential}")
    await ring.keys.create("studio", credential=credential)
    assert (await ring.keys.authenticate(f"Key {credential}")).key_id == "chosen"


async def test_a_tenants_keys_are_listed_without_their_secrets(ring: Ring) -> None:
    assert not await ring.keys.any()
    key = await ring.keys.create("studio", name="laptop")
    await ring.keys.create("other")
    await ring.keys.revoke(key.id)
    (info,) = await ring.keys.list("studio")
    assert (info.key_id, info.alias, info.tenant) == (key.id, "laptop", "studio")
    assert info.revoked_at is not None
    assert key.secret not in repr(info)
    assert await ring.keys.any()


async def test_who_made_and_revoked_a_key_is_in_the_audit_without_its_secret(ring: Ring) -> None:
    await ring.keys.create("studio")  # without an actor
    key = await ring.keys.create(
        "studio", name="laptop", scopes=frozenset({API, ADMIN}), actor=Actor("boss", "10.0.0.7")
    )
    for key_id in (key.id, key.id, "nobody"):
        await ring.keys.revoke(key_id, Actor("other-boss"))
    acts = await ring.acts()
    wish = {"tenant": "studio", "alias": "laptop", "scopes": ["admin", "api"]}
    assert acts == [
        (Actor("boss", "10.0.0.7"), "key.create", key.id, wish),
        (Actor("other-boss"), "key.revoke", key.id, {"tenant": "studio"}),
    ]
    assert key.secret not in repr(acts)


async def test_a_successor_has_the_same_rights_and_both_keys_work_during_the_overlap(
    ring: Ring,
) -> None:
    old = await ring.keys.create(
        "studio",
        name="the web app",
        scopes=frozenset({READ, CANCEL}),
        endpoints=["fal-ai/flux/*"],
        expires_at=ring.clock.now() + timedelta(days=10),
        replay_undelivered=True,
    )
    ring.clock.advance(86_400)
    new = await ring.keys.rotate(old.id, 60, Actor("boss"))
    assert new is not None
    before = await ring.keys.authenticate(f"Key {old}")
    after = await ring.keys.authenticate(f"Key {new}")
    assert replace(after, key_id=old.id) == before
    ring.clock.advance(61)
    with pytest.raises(Unauthenticated, match="expired"):
        await ring.keys.authenticate(f"Key {old}")
    await ring.keys.authenticate(f"Key {new}")
    shown = {entry.key_id: entry for entry in await ring.keys.list("studio")}
    assert (shown[old.id].successor, shown[new.id].successor) == (new.id, None)
    assert shown[new.id].alias == "the web app"
    assert shown[new.id].expires_at == shown[new.id].created_at + timedelta(days=10)
    assert await ring.acts() == [
        (Actor("boss"), "key.rotate", old.id, {"tenant": "studio", "successor": new.id})
    ]


async def test_an_overlap_does_not_prolong_a_key(ring: Ring) -> None:
    until = ring.clock.now() + timedelta(seconds=30)
    key = await ring.keys.create("studio", expires_at=until)
    await ring.keys.rotate(key.id, 3600)
    details = await ring.keys.find(key.id)
    assert details is not None
    assert details.expires_at == until


async def test_what_has_ended_or_was_rotated_is_not_rotated(ring: Ring) -> None:
    ended = await ring.keys.create("studio", expires_at=ring.clock.now() - timedelta(seconds=1))
    revoked, rotated = await ring.keys.create("studio"), await ring.keys.create("studio")
    await ring.keys.revoke(revoked.id)
    await ring.keys.rotate(rotated.id, 60)
    for key_id in (ended.id, revoked.id, rotated.id, "nobody"):
        assert await ring.keys.rotate(key_id, 60, Actor("boss")) is None
    assert await ring.acts() == []


async def test_a_key_is_limited_to_its_endpoints(ring: Ring) -> None:
    key = await ring.keys.create("studio", endpoints=["fal-ai/flux/*", "fal-ai/wan"])
    who = await ring.keys.authenticate(f"Key {key}")
    assert who.endpoints == ("fal-ai/flux/*", "fal-ai/wan")
    details = await ring.keys.find(key.id)
    assert details is not None
    assert details.endpoints == who.endpoints


async def test_the_last_use_of_a_key_is_written_now_and_then(ring: Ring) -> None:
    key, idle = await ring.keys.create("studio"), await ring.keys.create("studio")
    await ring.keys.authenticate(f"Key {key}")
    with pytest.raises(Unauthenticated):
        await ring.keys.authenticate(f"Key {idle.id}:{'0' * 64}")
    await ring.keys.write_uses()
    shown = {entry.key_id: entry.last_used_at for entry in await ring.keys.list("studio")}
    assert shown == {key.id: ring.clock.now(), idle.id: None}


async def test_a_sign_in_makes_a_key_of_the_person_that_ends(ring: Ring) -> None:
    rights = Rights("studio", frozenset({READ}), ("test/*",))
    until = ring.clock.now() + timedelta(hours=8)
    key = await ring.keys.sign_in(ADA, rights, until, "10.0.0.7")
    who = await ring.keys.authenticate(f"Key {key}")
    assert (who.tenant, who.scopes, who.endpoints) == ("studio", {READ}, ("test/*",))
    (info,) = await ring.keys.list("studio")
    assert (info.person, info.expires_at) == ("ada@example.org", until)
    named = {"person": "ada@example.org", "sub": "7f3a"}
    detail = {"tenant": "studio"} | named | {"scopes": ["read"]}
    assert await ring.acts() == [(Actor(key.id, "10.0.0.7"), "sign-in", info.person, detail)]
    ring.clock.advance(8 * 3600)
    with pytest.raises(Unauthenticated, match="expired"):
        await ring.keys.authenticate(f"Key {key}")


async def test_ended_sign_ins_of_a_person_are_forgotten_at_a_later_one(ring: Ring) -> None:
    rights = Rights("studio", frozenset({READ}))
    kept = await ring.keys.create("studio", expires_at=ring.clock.now() + timedelta(hours=1))
    until = ring.clock.now() + timedelta(hours=8)
    elsewhere = replace(rights, tenant="another")
    await ring.keys.sign_in(Person("ada", "ada", ()), elsewhere, until, "10.0.0.7")
    for person in ("ada", "bob", "ada"):
        until = ring.clock.now() + timedelta(hours=8)
        last = await ring.keys.sign_in(Person(person, person, ()), rights, until, "10.0.0.7")
        ring.clock.advance(9 * 86_400)
    keys = await ring.keys.list("studio")
    assert [entry.person for entry in keys] == [None, "bob", "ada"]
    assert {kept.id, last.id} <= {entry.key_id for entry in keys}
    assert len(await ring.keys.list("another")) == 1


async def test_a_link_gives_one_browser_a_key_with_the_same_rights(ring: Ring) -> None:
    until = ring.clock.now() + timedelta(days=30)
    scopes = frozenset({READ, CANCEL})
    first = await ring.keys.create(
        "studio", name="ci", scopes=scopes, expires_at=until, endpoints=("test/*",)
    )
    token = await ring.keys.offer_link(
        Actor(first.id, "10.0.0.5"), ring.clock.now() + timedelta(hours=12)
    )
    assert token not in repr(await ring.acts())
    key = await ring.keys.take_link(token, "10.0.0.7")
    who = await ring.keys.authenticate(f"Key {key}")
    assert (who.tenant, who.scopes, who.endpoints) == ("studio", scopes, ("test/*",))
    info = await ring.keys.find(key.id)
    assert info is not None
    assert (info.alias, info.expires_at) == ("sign-in link", until)
    detail = {"tenant": "studio", "alias": "sign-in link", "scopes": ["cancel", "read"]}
    (offer, *acts) = await ring.acts()
    assert offer[:3] == (Actor(first.id, "10.0.0.5"), "key.link", first.id)
    assert offer[3]["tenant"] == "studio"
    assert acts == [(Actor(first.id, "10.0.0.7"), "key.create", key.id, detail)]
    for used in (token, "never-offered"):
        with pytest.raises(Unauthenticated, match="used already, or has expired"):
            await ring.keys.take_link(used, "10.0.0.7")
    assert len(await ring.keys.list("studio")) == 2


async def test_of_two_browsers_that_open_a_link_at_once_one_gets_a_key(ring: Ring) -> None:
    first = await ring.keys.create("studio")
    token = await ring.keys.offer_link(
        Actor(first.id, "10.0.0.5"), ring.clock.now() + timedelta(hours=12)
    )
    taken = await asyncio.gather(
        *(ring.keys.take_link(token, f"10.0.0.{number}") for number in range(5)),
        return_exceptions=True,
    )
    assert [type(outcome) for outcome in taken].count(Credential) == 1
    assert len(await ring.keys.list("studio")) == 2


async def test_a_link_ends_by_its_time_and_with_its_key(ring: Ring) -> None:
    ends, gone, short = [await ring.keys.create("studio") for _ in range(3)]
    now = ring.clock.now()
    revoked = await ring.keys.offer_link(Actor(gone.id, "10.0.0.5"), now + timedelta(hours=12))
    late = await ring.keys.offer_link(Actor(short.id, "10.0.0.5"), now + timedelta(minutes=1))
    rotated = await ring.keys.offer_link(Actor(ends.id, "10.0.0.5"), now + timedelta(hours=12))
    await ring.keys.revoke(gone.id)
    await ring.keys.rotate(ends.id, overlap_s=0)
    ring.clock.advance(60)
    for token in (revoked, late, rotated):
        with pytest.raises(Unauthenticated, match="used already, or has expired"):
            await ring.keys.take_link(token, "10.0.0.7")
    assert len(await ring.keys.list("studio")) == 4
