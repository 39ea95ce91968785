"""What was found out about calls of one signature: whether they may be merged, and how many fit."""

from __future__ import annotations

from collections.abc import Generator, Hashable
from contextlib import contextmanager
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

import torch

from deployments.engine.device_memory import DeviceMemory
from deployments.engine.memory import BatchLimit, ForwardBytes
from deployments.engine.merge_plan import MergePlan
from deployments.engine.pending_call import PendingCall


@dataclass(slots=True)
class Finding:
    """About calls of one signature to one denoiser."""

    limit: BatchLimit
    takes: ForwardBytes = field(default_factory=ForwardBytes)
    trusted: bool = False  # a merge has gone well
    refused: str = ""  # why they are not merged any more

    def most(self, free: int | None) -> int:
        """Calls that may share a forward where so many bytes are free."""
        return self.takes.fitting(free, self.limit.most)

    @contextmanager
    def forward(self, calls: int, memory: DeviceMemory) -> Generator[None]:
        """Around a forward of ``calls``: learns from it what it takes, unless it raises."""
        free = memory.free()
        if free is None or not self.takes.wants(calls):
            yield
        else:
            with memory.measured() as taken:
                yield
            if taken.sure:
                self.takes.saw(calls, taken.peak)
        self.limit.went_well(calls, free)


class Findings:
    """By module, as long as it lives, and signature. For the engine's thread alone."""

    def __init__(self, max_batch: int) -> None:
        self._max_batch = max_batch
        self._findings: WeakKeyDictionary[torch.nn.Module, dict[Hashable, Finding]] = (
            WeakKeyDictionary()
        )

    def __len__(self) -> int:
        """Modules about which something is known."""
        return len(self._findings)

    def of(self, module: torch.nn.Module, plan: MergePlan, *, mixed: bool) -> Finding:
        """``mixed``: some of the calls that are merged have adapters, which is to be tried of its
        own."""
        findings = self._findings.setdefault(module, {})
        about = (plan.signature, mixed)
        found = findings.get(about)
        if found is None:
            if len(findings) >= _MOST_FINDINGS:
                findings.clear()
            found = findings[about] = Finding(BatchLimit(self._max_batch))
        return found

    def of_call(self, pending: PendingCall) -> Finding | None:
        """None of one that runs alone."""
        if pending.plan is None:
            return None
        return self.of(pending.call.module, pending.plan, mixed=bool(pending.mix))

    def takes(self, pending: PendingCall) -> int:
        """Bytes of a forward of it alone, as far as that is known."""
        finding = self.of_call(pending)
        return (finding.takes.expected(1) if finding else None) or 0


_MOST_FINDINGS = 4096  # per module
