"""What a request takes, learned from those that ended: seconds of a slot, by endpoint and pool.

Of one endpoint in one pool, ``seconds = fixed + rate × work``: the fixed part is the text encoder,
the decoding and the upload, the rest goes by steps and pixels. The fit is over decayed sums, so it
follows a change within some dozens of requests. All here is pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

KEEP = 0.98  # of what was known, at each new request: the last fifty count
PROPORTIONAL = 0.05  # how strongly the fit leans to `seconds ∝ work` while work hardly varies
HIGHEST = 4.0  # a request counts with at most so many times what was expected: it loaded weights
SURPRISE = 0.5  # below so much of what was expected, the past was wrong (it loaded weights) …
FORGET = 0.25  # … and counts so much less
START = ""
"""In place of an endpoint: the start of a replica, from its first word until it is ready."""

UNKNOWN_S = 1.0  # of an endpoint in a pool where nothing has ended yet
LEAST_S = 0.001


@dataclass(frozen=True, slots=True)
class Fit:
    """Decayed sums over requests that ended, and the line through them."""

    n: float = 0.0
    work: float = 0.0
    seconds: float = 0.0
    work_work: float = 0.0
    work_seconds: float = 0.0

    @property
    def mean_s(self) -> float:
        return self.seconds / self.n

    def expect(self, work: float) -> float:
        """Seconds that a request with so much work takes. At least one must have been learned."""
        fixed_s, rate_s = self.line()
        return max(LEAST_S, fixed_s + rate_s * work)

    def line(self) -> tuple[float, float]:
        """Seconds that are fixed, and seconds a unit of work; neither is negative."""
        mean_work = self.work / self.n
        covariance = self.work_seconds / self.n - mean_work * self.mean_s
        variance = max(0.0, self.work_work / self.n - mean_work**2)
        proportional = self.mean_s / mean_work
        lean = PROPORTIONAL * mean_work**2
        rate = (covariance + lean * proportional) / (variance + lean)
        rate = min(max(rate, 0.0), proportional)  # else nothing, or less than nothing, is fixed
        return self.mean_s - rate * mean_work, rate

    def learn(self, work: float, seconds: float) -> Fit:
        """With one more request. ``work`` is more than 0."""
        keep = KEEP
        if self.n:
            expected = self.expect(work)
            if seconds < SURPRISE * expected:
                keep *= FORGET
            seconds = min(seconds, HIGHEST * expected)
        return Fit(
            n=keep * self.n + 1,
            work=keep * self.work + work,
            seconds=keep * self.seconds + seconds,
            work_work=keep * self.work_work + work * work,
            work_seconds=keep * self.work_seconds + work * seconds,
        )


def expected_s(fits: Mapping[tuple[str, str], Fit], endpoint: str, pool: str, work: float) -> float:
    """By what is known of the endpoint, else as the pool's others take in the mean."""
    fit = fits.get((endpoint, pool))
    return mean_s(fits, pool) if fit is None else fit.expect(work)


def mean_s(fits: Mapping[tuple[str, str], Fit], pool: str) -> float:
    """Of all requests in the pool, each endpoint counting once."""
    known = [fit.mean_s for (each, where), fit in fits.items() if where == pool and each != START]
    return sum(known) / len(known) if known else UNKNOWN_S
