"""Export of a tenant with many requests, from PostgreSQL."""

from __future__ import annotations

import tracemalloc

from serve_app.ingress.api.administration.tenant_export import TenantArchive
from serve_app.postgres.database import Database
from serve_app.queue.queue import PostgresQueue
from tests.contract.test_deletion_contract import ended
from tests.ingress.house import House, built
from tests.queue.database import Ingress

COPY = """
DO $$
DECLARE names text := (
    SELECT string_agg(quote_ident(column_name), ', ') FROM information_schema.columns
    WHERE table_schema = current_schema() AND table_name = 'requests'
      AND column_name NOT IN ('id', 'place', 'tenant'));
BEGIN
    EXECUTE format(
        'INSERT INTO requests (id, tenant, %1$s) SELECT '
        'overlay(id::text PLACING lpad(to_hex(n), 8, ''0'') FROM 29)::uuid, ''{tenant}'', %1$s '
        'FROM requests, generate_series({first}, {last}) n WHERE tenant = ''few''', names);
END
$$
"""


async def peak_bytes(house: House, queue: PostgresQueue, tenant: str) -> tuple[int, int]:
    """Memory that an export takes at most, and its size."""
    house.services.queue = queue
    archive = TenantArchive(house.services, tenant, house.services.clock.now(), files=False)
    size = 0
    tracemalloc.start()
    try:
        async for chunk in archive.chunks():
            size += len(chunk)
        return tracemalloc.get_traced_memory()[1], size
    finally:
        tracemalloc.stop()


async def test_ten_thousand_requests_take_the_memory_of_a_few_hundred(
    ingress: Ingress, database: Database
) -> None:
    queue = await ingress()
    await ended(queue, tenant="few", input={"prompt": "x" * 1000})
    for tenant, first, last in (("many", 1, 10_000), ("some", 10_001, 10_300)):
        await database.rows(COPY.format(tenant=tenant, first=first, last=last))
    async with built(replica=False) as house:
        before, small = await peak_bytes(house, queue, "some")
        most, large = await peak_bytes(house, queue, "many")
    assert large > 10_000 * 1000 > 10 * small
    assert most < before + 2**20, (most, before)
