"""The cost model, shared: learned here, kept in a small table, read by every ingress process.

Written once a second for all that ended meanwhile, so no finish waits for a row that all others
write. Two processes that write the same row lose some of each other's requests; the fit is a
running estimate and both look at it again in the next second.
"""

from __future__ import annotations

from collections import deque
from dataclasses import asdict

from serve_app.queue import wording
from serve_app.queue.cost import START, Fit, expected_s, mean_s
from serve_app.queue.database import Database

SELECT = "SELECT endpoint, pool, n, work, seconds, work_work, work_seconds FROM costs"
UPSERT = """
INSERT INTO costs (endpoint, pool, n, work, seconds, work_work, work_seconds)
SELECT endpoint, pool, n, work, seconds, work_work, work_seconds
FROM json_to_recordset(%(fits)s::json) AS x(
    endpoint text, pool text, n double precision, work double precision,
    seconds double precision, work_work double precision, work_seconds double precision)
ORDER BY 1, 2
ON CONFLICT (endpoint, pool) DO UPDATE SET
    n = excluded.n, work = excluded.work, seconds = excluded.seconds,
    work_work = excluded.work_work, work_seconds = excluded.work_seconds
"""
MOST_IN_A_SECOND = 2000  # more than that teach nothing new


__all__ = ["START", "Costs"]


class Costs:
    def __init__(self, database: Database) -> None:
        self._database = database
        self._fits: dict[tuple[str, str], Fit] = {}
        self._ended: deque[tuple[tuple[str, str], float, float]] = deque(maxlen=MOST_IN_A_SECOND)

    def expected_s(self, endpoint: str, pool: str, work: float) -> float:
        """Seconds of a slot; never 0."""
        return expected_s(self._fits, endpoint, pool, work)

    def knows(self, endpoint: str, pool: str) -> bool:
        return (endpoint, pool) in self._fits

    def knows_pool(self, pool: str) -> bool:
        """Whether any request of it has ended."""
        return any(where == pool and endpoint != START for endpoint, where in self._fits)

    def mean_s(self, pool: str) -> float:
        """Of the pool's requests."""
        return mean_s(self._fits, pool)

    def lines(self) -> list[dict[str, str | float]]:
        """What is known, for a statement: seconds = ``fixed_s`` + ``rate_s`` × work."""
        return [
            {"pool": pool, "endpoint": endpoint, "fixed_s": fit.line()[0], "rate_s": fit.line()[1]}
            for (endpoint, pool), fit in self._fits.items()
        ]

    def ended(self, endpoint: str, pool: str, work: float, seconds: float) -> None:
        """A request succeeded after so long."""
        if work > 0 and seconds > 0:
            self._ended.append(((endpoint, pool), work, seconds))

    async def refresh(self) -> None:
        """Read what all have learned, and write what this process has."""
        rows = await self._database.rows(SELECT)
        fits = {(endpoint, pool): Fit(*sums) for endpoint, pool, *sums in rows}
        learned: dict[tuple[str, str], Fit] = {}
        while self._ended:
            key, work, seconds = self._ended.popleft()
            learned[key] = fits[key] = fits.get(key, Fit()).learn(work, seconds)
        self._fits = fits
        if learned:
            named = [
                {"endpoint": endpoint, "pool": pool, **asdict(fit)}
                for (endpoint, pool), fit in learned.items()
            ]
            await self._database.rows(UPSERT, {"fits": wording.compact(named)})
