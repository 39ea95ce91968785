"""Cost model: seconds of a slot that a request takes, learned from finished requests by endpoint
and by the pool of the replica that ran them.

For one endpoint in one pool, ``seconds = fixed + rate × work``. The fixed part is the text encoder,
the decoding and the upload; the rest scales with steps and pixels. The fit uses decayed sums, so it
follows a change within a few dozen requests. Pools that share a queue may have other classes of
GPU, so each learns its own fit; until it has one, that of the first pool in its chain counts.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from serve_app.postgres.database import Database
from serve_app.queue.store import messages
from serve_app.queue.store.config import QueueLimits

DECAY = 0.98  # decay of the past at each new request: about the last fifty count
PROPORTIONAL_PRIOR_WEIGHT = 0.05  # weight of the prior `seconds ∝ work` while work hardly varies
MAX_RATIO = (
    4.0  # a request counts with at most this multiple of its expected time: it loaded weights
)
OUTLIER_RATIO = (
    0.5  # below this share of the expected time, the past was wrong (it loaded weights) …
)
OUTLIER_DECAY = 0.25  # … and its weight is multiplied by this
START_KEY = ""
"""Key in place of an endpoint: the start of a replica, from its first announcement until it is
ready.
"""

DEFAULT_S = 1.0  # expected time in a pool where no request has ended yet
MIN_S = 0.001


@dataclass(frozen=True, slots=True)
class Fit:
    """Decayed sums over finished requests, and the line fitted to them."""

    n: float = 0.0
    work: float = 0.0
    seconds: float = 0.0
    work_work: float = 0.0
    work_seconds: float = 0.0

    @property
    def mean_s(self) -> float:
        """Mean time of a request, in seconds."""
        return self.seconds / self.n

    def expect(self, work: float) -> float:
        """Expected seconds of a request with this much work. Needs at least one learned request."""
        fixed_s, rate_s = self.line()
        return max(MIN_S, fixed_s + rate_s * work)

    def line(self) -> tuple[float, float]:
        """Fixed seconds, and seconds per unit of work. Neither is negative."""
        mean_work = self.work / self.n
        covariance = self.work_seconds / self.n - mean_work * self.mean_s
        variance = max(0.0, self.work_work / self.n - mean_work**2)
        proportional = self.mean_s / mean_work
        lean = PROPORTIONAL_PRIOR_WEIGHT * mean_work**2
        rate = (covariance + lean * proportional) / (variance + lean)
        # otherwise the fixed part would be zero or negative
        rate = min(max(rate, 0.0), proportional)
        return self.mean_s - rate * mean_work, rate

    def learn(self, work: float, seconds: float) -> Fit:
        """Return the fit with one more request. ``work`` must be positive."""
        keep = DECAY
        if self.n:
            expected = self.expect(work)
            if seconds < OUTLIER_RATIO * expected:
                keep *= OUTLIER_DECAY
            seconds = min(seconds, MAX_RATIO * expected)
        return Fit(
            n=keep * self.n + 1,
            work=keep * self.work + work,
            seconds=keep * self.seconds + seconds,
            work_work=keep * self.work_work + work * work,
            work_seconds=keep * self.work_seconds + work * seconds,
        )


def expected_s(fits: Mapping[tuple[str, str], Fit], endpoint: str, pool: str, work: float) -> float:
    """Expected seconds by the endpoint's fit, or else the mean of the pool's other endpoints."""
    fit = fits.get((endpoint, pool))
    return mean_s(fits, pool) if fit is None else fit.expect(work)


def mean_s(fits: Mapping[tuple[str, str], Fit], pool: str) -> float:
    """Mean seconds of a pool's requests; each endpoint counts once."""
    known = [
        fit.mean_s for (each, where), fit in fits.items() if where == pool and each != START_KEY
    ]
    return sum(known) / len(known) if known else DEFAULT_S


# The shared cost model: learned in each process, stored in a small table, read by all ingress
# processes. It is written once a second for all requests that ended since, so no finish waits for
# a row that every other finish writes. Two processes that write the same row lose some of each
# other's requests. The fit is a running estimate, and both processes read it again in the next
# second.

SELECT = "SELECT endpoint, pool, n, work, seconds, work_work, work_seconds FROM costs"
UPSERT = """
-- name: write_costs
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
MAX_SAMPLES_PER_SECOND = 2000  # more samples a second do not improve the fit


class CostModel:
    """Cost model of this process, synchronised with the table."""

    def __init__(self, database: Database, limits: QueueLimits | None = None) -> None:
        """``limits`` say which pools share a queue; None: none do."""
        self._database = database
        self._limits = limits or QueueLimits()
        self._fits: dict[tuple[str, str], Fit] = {}
        self._ended: deque[tuple[tuple[str, str], float, float]] = deque(
            maxlen=MAX_SAMPLES_PER_SECOND
        )

    def expected_s(self, endpoint: str, pool: str, work: float) -> float:
        """Expected seconds of a slot; never 0."""
        return expected_s(self._fits, endpoint, self._learned_in(endpoint, pool), work)

    def knows(self, endpoint: str, pool: str) -> bool:
        """True if a request of this endpoint has ended in this pool or one that shares its
        queue."""
        return (endpoint, self._learned_in(endpoint, pool)) in self._fits

    def knows_pool(self, pool: str) -> bool:
        """True if any request of the queue has ended."""
        queue = self._limits.overflow.chain(pool)
        return any(where in queue and endpoint != START_KEY for endpoint, where in self._fits)

    def typical_s(self, endpoint: str, pool: str, unknown_s: float) -> float:
        """Mean seconds of an endpoint's requests; ``unknown_s`` if none has ended yet."""
        fit = self._fits.get((endpoint, self._learned_in(endpoint, pool)))
        return unknown_s if fit is None else fit.mean_s

    def mean_s(self, pool: str) -> float:
        """Mean cost of the pool's requests, in seconds of a slot."""
        return mean_s(self._fits, pool)

    def as_rows(self) -> list[dict[str, str | float]]:
        """All fits, as parameters of a statement: seconds = ``fixed_s`` + ``rate_s`` × work. Those
        of a queue count for all pools that share it."""
        queue_of = self._limits.overflow.queue_of
        named = {(endpoint, queue_of(pool)) for endpoint, pool in self._fits}
        lines = {key: self._fits[key[0], self._learned_in(*key)].line() for key in named}
        return [
            {"pool": pool, "endpoint": endpoint, "fixed_s": fixed_s, "rate_s": rate_s}
            for (endpoint, pool), (fixed_s, rate_s) in lines.items()
        ]

    def _learned_in(self, endpoint: str, pool: str) -> str:
        """Pool whose fit counts: this one, or else the first in its chain that has one."""
        overflow = self._limits.overflow
        if not overflow.before or (endpoint, pool) in self._fits:
            return pool
        chain = overflow.chain(overflow.queue_of(pool))
        return next((name for name in chain if (endpoint, name) in self._fits), pool)

    def observe(self, endpoint: str, pool: str, work: float, seconds: float) -> None:
        """Learn that a request succeeded after ``seconds``."""
        if work > 0 and seconds > 0:
            self._ended.append(((endpoint, pool), work, seconds))

    async def refresh(self) -> None:
        """Read the shared model, and write what this process has learned."""
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
            await self._database.rows(UPSERT, {"fits": messages.compact(named)})
