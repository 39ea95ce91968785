"""Merge history of calls: whether they may be merged, how many fit, and how many gain something.

A forward of eight calls may take eight times as long as one of a single call. Then merging ends all
eight generations when the last would have ended anyway, and one after the other they would be ready
in little more than half of the time on average. Therefore a forward gets no more calls than bring
at least ``MIN_GAIN`` more calls a second each, unless more are needed to keep up with the demand.
How high that is shows after a minute, or as soon as generations keep coming while others end.

No threads and no clock. The history is kept per module while that lives.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Generator, Hashable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import inf
from weakref import WeakKeyDictionary

import torch

from deployments.engine.accelerator.interface import DeviceMemory
from deployments.engine.memory.admission import BatchLimit, ForwardBytes
from deployments.engine.merging.plan import MergePlan
from deployments.engine.merging.trust import MergeTrust, PatternTrust, pattern_of

MIN_GAIN = 0.05
"""Least gain in calls a second for which a forward gets one more call."""
WINDOW_S = 60.0
"""Window of the demand. A shorter one, or the elapsed time at the start, takes a burst for it."""
MAX_LOAD = 0.8
"""Share of the device's time up to which limits stay at the knee.

A limit at the knee alone gives up to 8 % of the throughput away: at a load of 93 %, waits grow to
1.9 to 3.6 times (simulated, Poisson arrivals).
"""
SUSTAINED_ENDS = 16
"""Generations that have ended in a busy period, at least, before it counts as a lasting demand.

At a load of 60 %, few busy periods get so far (simulated).
"""
DUE_AFTER_S = 5.0
DUE_FACTOR = 4.0
"""A generation is due after ``DUE_AFTER_S``, or this many times the time that it takes alone."""


class ForwardTimes:
    """Seconds of forwards of one signature, by calls in the forward."""

    def __init__(self) -> None:
        self._last: dict[int, deque[float]] = {}
        self._forwards = 0
        self._measured_at: dict[int, int] = {}
        self._points: Sequence[tuple[int, float]] = ()
        self._knees: dict[int, int] = {}  # by the most calls, as long as the points stay

    def record(self, calls: int, seconds: float) -> None:
        """Record a forward of ``calls`` calls that took ``seconds`` of the device.

        The lower quartile of the last ones counts: what else a machine does only adds to it.
        """
        self._forwards += 1
        self._last.setdefault(calls, deque(maxlen=_LAST)).append(seconds)
        self._measured_at[calls] = self._forwards
        points = [
            (size, sorted(last)[(len(last) - 1) // 4])
            for size, last in sorted(self._last.items())
            if len(last) >= _ENOUGH
        ]
        if points != self._points:
            self._points, self._knees = points, {}

    def seconds_by_calls(self) -> Mapping[int, float]:
        """Seconds by calls, as far as measured."""
        return dict(self._points)

    def seconds(self, calls: int) -> float | None:
        """Expected seconds of a forward; None if unknown. Between measurements, linear."""
        points = self._points
        if not points:
            return None
        if len(points) == 1 or calls <= points[0][0]:
            size, seconds = points[0]
            return seconds * calls / size if calls > size else seconds
        after = next((n for n, (size, _) in enumerate(points) if size >= calls), len(points) - 1)
        (low, low_s), (high, high_s) = points[max(after, 1) - 1], points[max(after, 1)]
        slope = max(0.0, high_s - low_s) / (high - low)
        return low_s + slope * (calls - low)

    def unknown(self, most: int) -> int | None:
        """Number of calls up to ``most`` whose seconds should be measured now; None if none.

        1, 2, 4, 8, … are enough. Before that, some forwards run with as many as there are.
        """
        if self._forwards < _BEFORE_MEASURING:
            return None
        size = 1
        while size <= most:
            stale = self._forwards - self._measured_at.get(size, 0) > _STALE
            if stale or len(self._last.get(size, ())) < _ENOUGH:
                return size
            size *= 2
        return None

    def knee(self, most: int) -> int:
        """Least number up to ``most`` above which no further call gains ``MIN_GAIN``.

        Gains of several calls count together, so that one noisy measurement does not end the
        search. ``most`` as long as nothing is known.
        """
        knees = self._knees  # every turn asks for each signature, more than once
        if most not in knees:
            knees[most] = self._found_knee(most)
        return knees[most]

    def _found_knee(self, most: int) -> int:
        for calls in range(1, most):
            rate = self.rate(calls)
            more = range(calls + 1, most + 1)
            if all(self.rate(count) < (1 + MIN_GAIN) ** (count - calls) * rate for count in more):
                return calls
        return most

    def limit(self, most: int, load: float) -> int:
        """Fewest calls from the knee on that carry ``load``, or those with the best throughput.

        ``load``: demand as a share of what forwards at the knee carry; infinite: as much as there
        can be. Without measurements, ``most``.
        """
        if len(self._points) < _ENOUGH:
            return most
        knee = self.knee(most)
        needed = load * self.rate(knee)
        enough = [calls for calls in range(knee, most + 1) if self.rate(calls) >= needed]
        return enough[0] if enough else max(range(1, most + 1), key=self.rate)

    def rate(self, calls: int) -> float:
        """Calls a second; 0 if unknown."""
        seconds = self.seconds(calls)
        return calls / seconds if seconds else 0.0


@dataclass(frozen=True, slots=True)
class MeasuredForwards:
    """Measurements of the forwards of one signature."""

    module: str  # its class
    seconds: Mapping[int, float]  # by calls in a forward
    knee: int  # calls, above which no further one gains enough


class StepDemand:
    """Denoiser calls that were submitted in the last ``WINDOW_S``, by signature."""

    def __init__(self) -> None:
        self._submitted: deque[tuple[float, ForwardTimes, int]] = deque()
        self._calls: Counter[ForwardTimes] = Counter()

    def add(self, times: ForwardTimes, calls: int, now: float) -> None:
        """Add ``calls`` of one signature. ``now``: seconds on a monotonic clock."""
        if calls:
            self._submitted.append((now, times, calls))
            self._calls[times] += calls

    def load(self, now: float, most: int) -> float:
        """Demand, over ``MAX_LOAD``, as a share of what the device carries at the knees.

        It counts all signatures, because they share the device. ``most``: the greatest batch.
        """
        while self._submitted and self._submitted[0][0] <= now - WINDOW_S:
            _, times, calls = self._submitted.popleft()
            self._calls[times] -= calls
            if not self._calls[times]:
                del self._calls[times]
        busy_s = 0.0
        for times, calls in self._calls.items():
            if rate := times.rate(times.knee(most)):
                busy_s += calls / rate
        return busy_s / WINDOW_S / MAX_LOAD


class BusyPeriod:
    """Time in which the engine was hardly idle, and whether more is asked for than one burst.

    In a burst, everything is there at the beginning, so no more generations end than were there at
    once. Where more and more end and the engine is hardly ever idle, new ones come as fast as it
    computes them. That shows after seconds with a small model, where ``StepDemand`` would need most
    of a minute: it depends on the generations, not on their seconds.
    """

    def __init__(self) -> None:
        self._began = 0.0
        self._busy_since = 0.0
        self._idle_since: float | None = -inf  # None: not idle
        self._idle_s = 0.0  # less what busy times make up for
        self._most = 0  # generations at once
        self._ended = 0

    def has(self, generations: int, now: float) -> None:
        """Note that there are ``generations``, running and waiting; called every turn.

        ``now``: seconds on a monotonic clock.
        """
        if not generations:
            return
        if self._idle_since is not None:
            self._idle_s += now - self._idle_since
            self._idle_since, self._busy_since = None, now
            if self._idle_s > _IDLE_SHARE * min(now - self._began, WINDOW_S):
                self._began, self._idle_s, self._most, self._ended = now, 0.0, 0, 0
        self._most = max(self._most, generations)

    def count_generation(self) -> None:
        """Count a generation that has ended well."""
        self._ended += 1

    def idle(self, now: float) -> None:
        """Note that there is nothing to do. Where it is for moments only, the period goes on."""
        if self._idle_since is None:
            self._idle_since = now
            made_up_for = _IDLE_SHARE * (now - self._busy_since)
            self._idle_s = max(0.0, self._idle_s - made_up_for)

    @property
    def is_sustained(self) -> bool:
        """Return whether generations keep coming."""
        return self._ended >= SUSTAINED_ENDS and self._ended > self._most


def due_at(arrived: float, seconds_alone: float) -> float:
    """Time from which a generation is due. ``seconds_alone``: what its steps take; 0: unknown."""
    return arrived + max(DUE_AFTER_S, DUE_FACTOR * seconds_alone)


_IDLE_SHARE = 1 - MAX_LOAD  # of a busy period, at most
_LAST = 8  # forwards that count
_ENOUGH = 2  # forwards of a size, and sizes, without which nothing is concluded
_BEFORE_MEASURING = 8  # forwards
_STALE = 512  # forwards after which a size is measured again


# By module and signature.


@dataclass(slots=True)
class MergeRecord:
    """Merge history of the calls of one signature to one module."""

    limit: BatchLimit
    forward_bytes: ForwardBytes = field(default_factory=ForwardBytes)
    times: ForwardTimes = field(default_factory=ForwardTimes)
    trust: MergeTrust = field(default_factory=MergeTrust)
    refusal: str = ""  # reason why they are no longer merged

    def max_calls(self, free: int | None) -> int:
        """Maximum number of calls in a forward when ``free`` bytes are free."""
        return self.forward_bytes.max_calls(free, self.limit.max_calls)

    @contextmanager
    def measure_forward(
        self, calls: int, memory: DeviceMemory, *, with_weights: bool = False
    ) -> Generator[None]:
        """Measure a forward of ``calls`` calls and record its memory, unless it raises.

        ``with_weights``: weights come to the device for it, which are not part of what it takes.
        """
        free = memory.free()
        if free is None or with_weights or not self.forward_bytes.needs_measurement(calls):
            yield
        else:
            with memory.measure() as taken:
                yield
            if taken.reliable:
                self.forward_bytes.record(calls, taken.peak)
        self.limit.record_success(calls, free)


class MergeHistory:
    """Merge records by module, while it lives, and signature. Engine's thread only."""

    def __init__(self, max_batch: int) -> None:
        self._max_batch = max_batch
        self._records: WeakKeyDictionary[torch.nn.Module, dict[Hashable, MergeRecord]] = (
            WeakKeyDictionary()
        )
        self._trust: WeakKeyDictionary[torch.nn.Module, dict[Hashable, PatternTrust]] = (
            WeakKeyDictionary()
        )

    def __len__(self) -> int:
        """Number of modules with a history."""
        return len(self._records)

    def find(self, module: torch.nn.Module, plan: MergePlan, *, mixed: bool) -> MergeRecord:
        """Record of a signature, created if missing.

        ``mixed``: some of the merged calls have LoRAs. Such merges are verified separately.
        """
        records = self._records.setdefault(module, {})
        signature = (plan.signature, mixed)
        record = records.get(signature)
        if record is None:
            if len(records) >= _MAX_RECORDS:
                records.clear()
            trust = self._trust.setdefault(module, {})
            pattern = trust.setdefault((pattern_of(plan), mixed), PatternTrust())
            record = records[signature] = MergeRecord(
                BatchLimit(self._max_batch), trust=MergeTrust(pattern)
            )
        return record

    def times(self) -> list[tuple[str, ForwardTimes]]:
        """Times with the class of their module. May be called on any thread."""
        modules = [reference() for reference in self._records.keyrefs()]
        named = [
            (type(module).__name__, self._records.get(module, {})) for module in modules if module
        ]
        return [(name, record.times) for name, those in named for record in list(those.values())]


_MAX_RECORDS = 4096  # per module
