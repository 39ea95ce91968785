"""Which replicas are there: the status page, the counts of stages and the bill say the same."""

from serve_app.postgres.database import Database
from serve_app.queue.state.replicas import roster
from tests.queue.database import LONG_LEASES, Ingress
from tests.queue.test_replica_hours import REPLICAS


async def test_a_replica_that_starts_is_there_while_its_imports_block_it_and_a_silent_one_is_not(
    ingress: Ingress, database: Database
) -> None:
    queue = await ingress(LONG_LEASES)
    await database.rows(REPLICAS)  # r3 starts, and has been silent for as long as r4
    shown = {row["replica_id"] for row in await roster(database)}
    assert shown == {"r1", "r2", "r3"}
    stats = queue.parts.state.stats
    await stats.refresh_replicas()
    assert stats.stages() == {("studio", "ready"): 2, ("studio", "starting"): 1}
