"""Reports of replicas."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from tests.fakes.terms import FakeTerms
from tests.queue.database import Ingress
from tests.queue.requests import lease, new, report


async def test_a_tenant_whose_storage_is_away_does_not_stop_the_reports_of_others(
    ingress: Ingress, terms: FakeTerms
) -> None:
    queue = await ingress()
    keys = []
    for tenant in ("acme", "other"):
        await queue.submit(new(tenant=tenant))
        keys.append((await lease(queue)).key)
    terms.without_storage.add("acme")
    asking = [replace(report(key), wants_tickets=(key,)) for key in keys]
    without, with_one = await asyncio.gather(*map(queue.report, asking))
    assert without.snapshot_tickets == ()
    ((key, _),) = with_one.snapshot_tickets
    assert key == keys[1]
