"""Contract of the tokens of the hub that tenants set: over the fake and over PostgreSQL."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from serve_app.domain.audit.acts import Actor
from serve_app.domain.errors import Unavailable
from serve_app.domain.ports import Queue
from serve_app.postgres.database import Database
from serve_app.tenants.hub_tokens import PURPOSE, HubTokens, PostgresHubTokens
from serve_app.tenants.seal import Seal
from tests.fakes.hub_tokens import FakeHubTokens
from tests.fakes.queue import FakeQueue

ME = Actor("key-1", "192.0.2.1")


@pytest.fixture
async def tokens(at: str | None, queue: Queue) -> AsyncIterator[HubTokens]:
    if isinstance(queue, FakeQueue):
        yield FakeHubTokens(queue.operations.note)
        return
    assert at is not None
    database = Database(at)
    await database.start()
    yield PostgresHubTokens(database, b"s" * 32)
    await database.aclose()


async def test_a_token_is_read_replaced_and_removed(tokens: HubTokens) -> None:
    assert await tokens.token("house") is None
    await tokens.put("house", "hf_one", ME)
    await tokens.put("other", "hf_other", ME)
    await tokens.put("house", "hf_two", ME)
    assert (await tokens.token("house"), await tokens.token("other")) == ("hf_two", "hf_other")
    assert await tokens.remove("house", ME)
    assert not await tokens.remove("house", ME)
    assert (await tokens.token("house"), await tokens.token("other")) == (None, "hf_other")


async def test_changes_are_in_the_audit_log_without_the_token(
    tokens: HubTokens, queue: Queue
) -> None:
    await tokens.put("house", "hf_one", ME)
    await tokens.remove("house", ME)
    acts = await queue.operations.audit()
    assert [(each.action, each.subject) for each in acts] == [
        ("hub-token.remove", "house"),
        ("hub-token.set", "house"),
    ]
    assert "hf_one" not in repr(acts)
    await queue.operations.seal_audit()
    own = await queue.operations.audit(None, 10, "house")  # as an administrator of it sees them
    assert [each.id for each in own] == [each.id for each in acts]


def test_a_sealed_token_opens_for_its_tenant_and_secret_only() -> None:
    seal = Seal(b"s" * 32, PURPOSE)
    sealed = seal.seal("house", "hf_one", b"n" * 12)
    assert b"hf_one" not in sealed
    assert seal.open("house", sealed, "The token") == "hf_one"
    others = (Seal(b"t" * 32, PURPOSE), Seal(b"s" * 32, b"another purpose"))
    for wrong, tenant in ((others[0], "house"), (others[1], "house"), (seal, "other")):
        with pytest.raises(Unavailable, match="Set it again"):
            wrong.open(tenant, sealed, "The token")
