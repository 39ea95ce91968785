"""Which leases are held: only their holders get signatures."""

from __future__ import annotations

from dataclasses import replace

from serve_app.postgres.database import Database
from serve_app.queue.transactions.lease import is_held
from tests.queue.requests import lease, new


async def test_only_the_current_lease_of_a_running_request_is_held(
    ingress, database: Database
) -> None:
    queue = await ingress()
    await queue.submit(new())
    lease_key = (await lease(queue)).key
    assert await is_held(database, lease_key)
    assert not await is_held(database, replace(lease_key, attempt=lease_key.attempt + 1))
    assert not await is_held(database, replace(lease_key, nonce=lease_key.nonce + 1))
    await queue.hand_back(lease_key, "r1", "draining")
    assert not await is_held(database, lease_key)
