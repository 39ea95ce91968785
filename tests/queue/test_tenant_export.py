"""Export of a tenant with many requests, from PostgreSQL."""

from __future__ import annotations

import io
import tracemalloc
import zipfile

import pytest

from serve_app.ingress.api.administration.tenant_export import TenantArchive
from serve_app.postgres.database import Database
from serve_app.queue.queue import PostgresQueue
from tests.contract.test_deletion_contract import run_request
from tests.ingress.house import House, build_house
from tests.queue.database import Ingress
from tests.queue.test_tenant_deletion import TABLES

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


EXPORTED = {
    "requests": "requests",
    "favourites": "requests",
    "artifacts": "requests",
    "usage": "usage",
    "usage_days": "usage",
    "uploads": "uploads",
    "drafts": "drafts",
    "share_links": "shares",
    "api_keys": "keys",
    "webhook_deliveries": "webhooks",
    "tenant_weights": "weights",
    "tenant_weight_files": "weights",
    "workflows": "workflows",
    "batches": "batches",
    "batch_files": "batch_files",
    "file_access": "access_rules",
    "secrets": "secrets",
    "comfyui_files": "comfyui_files",
    "audit": "audit",
}
"""Table with tenants → part of the archive."""
LEFT_OUT = {
    "fair_lanes": "a counter",
    "jobs": "work that is left to do",
    "tenant_quotas": "a counter",
    "upload_totals": "a sum of the uploads",
    "request_words": "the words of the requests, for the search",
    "idempotency_keys": "an id that the client chose, and of what it sent a digest",
    "budget_warnings": "sums of the usage",
    "workflow_runs": "the steps are requests",
    "hosted_calls": "the calls of the requests",
    "shadows": "copies of the requests, which are the operator's",
    "file_url_revocations": "signatures",
    "tenant_deletions": "of a tenant that is gone",
}
"""Table → reason."""


async def test_every_table_with_tenants_is_exported_or_left_out_for_a_reason(
    database: Database,
) -> None:
    tables = {name for name, _ in await database.rows(TABLES)}
    assert tables == EXPORTED.keys() | LEFT_OUT.keys()
    async with build_house(replica=False) as house:
        services = house.services
        archive = TenantArchive(services, "default", services.clock.now(), files=False)
        content = b"".join([chunk async for chunk in archive.chunks()])
    with zipfile.ZipFile(io.BytesIO(content)) as opened:
        parts = {name.removesuffix(".jsonl") for name in opened.namelist()}
    assert parts == {*EXPORTED.values(), "tenant", "export.json"}


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


@pytest.mark.long
async def test_ten_thousand_requests_take_the_memory_of_a_few_hundred(
    ingress: Ingress, database: Database
) -> None:
    queue = await ingress()
    await run_request(queue, tenant="few", input={"prompt": "x" * 1000})
    for tenant, first, last in (("many", 1, 10_000), ("some", 10_001, 10_300)):
        await database.rows(COPY.format(tenant=tenant, first=first, last=last))
    async with build_house(replica=False) as house:
        before, small = await peak_bytes(house, queue, "some")
        most, large = await peak_bytes(house, queue, "many")
    assert large > 10_000 * 1000 > 10 * small
    assert most < before + 2**20, (most, before)
