"""Merge history of calls by signature: whether they may be merged, how many fit, and how long they
take. It is kept per module while that lives.
"""

from __future__ import annotations

from collections.abc import Generator, Hashable
from contextlib import contextmanager
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

import torch

from deployments.engine.accelerator.interface import DeviceMemory
from deployments.engine.loop.row_limits import ForwardTimes
from deployments.engine.memory.admission import BatchLimit, ForwardBytes
from deployments.engine.merging.plan import MergePlan


@dataclass(slots=True)
class MergeRecord:
    """Merge history of the calls of one signature to one module."""

    limit: BatchLimit
    forward_bytes: ForwardBytes = field(default_factory=ForwardBytes)
    times: ForwardTimes = field(default_factory=ForwardTimes)
    trusted: bool = False  # a merge has succeeded
    refusal: str = ""  # reason why they are no longer merged

    def max_calls(self, free: int | None) -> int:
        """Maximum number of calls in a forward when ``free`` bytes are free."""
        return self.forward_bytes.max_calls(free, self.limit.max_calls)

    @contextmanager
    def measured(self, calls: int, memory: DeviceMemory) -> Generator[None]:
        """Measure a forward of ``calls`` calls and record its memory, unless it raises."""
        free = memory.free()
        if free is None or not self.forward_bytes.needs_measurement(calls):
            yield
        else:
            with memory.measured() as taken:
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

    def __len__(self) -> int:
        """Number of modules with a history."""
        return len(self._records)

    def find(self, module: torch.nn.Module, plan: MergePlan, *, mixed: bool) -> MergeRecord:
        """Record of a signature, created if missing.

        ``mixed``: some of the merged calls have LoRAs. Such merges are verified separately.
        """
        records = self._records.setdefault(module, {})
        signature = (plan.signature, mixed)
        found = records.get(signature)
        if found is None:
            if len(records) >= _MAX_RECORDS:
                records.clear()
            found = records[signature] = MergeRecord(BatchLimit(self._max_batch))
        return found

    def times(self) -> list[tuple[str, ForwardTimes]]:
        """Times with the class of their module. May be called on any thread."""
        modules = [reference() for reference in self._records.keyrefs()]
        named = [(type(each).__name__, self._records.get(each, {})) for each in modules if each]
        return [(name, each.times) for name, those in named for each in list(those.values())]


_MAX_RECORDS = 4096  # per module
