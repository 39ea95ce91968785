"""The memory of the device: how much is free, and what something took of it."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Protocol

import torch

RESERVE = 256 * 2**20  # bytes that are never planned with: workspaces of libraries


@dataclass(slots=True)
class Taken:
    """Bytes; filled in at the end of what is measured."""

    peak: int = 0  # at most, beside what was there at the beginning
    kept: int = 0  # at the end; negative where more was let go
    sure: bool = True  # False: weights came to the device meanwhile


class DeviceMemory(Protocol):
    """For the engine's thread. Measurements do not nest."""

    def free(self) -> int | None:
        """Bytes that can be allocated; None: nobody counts them, and nothing is limited."""
        ...

    def total(self) -> int | None: ...

    def measured(self) -> AbstractContextManager[Taken]:
        """Around what is to be measured. Others that allocate meanwhile count as well."""
        ...

    def release(self) -> None:
        """Give back what is kept for the next allocation, so that it can be of any size."""
        ...


class Unlimited:
    """Host memory: the system lends more than there is, and tells nobody in time."""

    def free(self) -> int | None:
        return None

    def total(self) -> int | None:
        return None

    @contextmanager
    def measured(self) -> Generator[Taken]:
        yield Taken()

    def release(self) -> None:
        """Nothing is kept."""


class CudaMemory:
    """Of a GPU, by torch's own accounts. Asking for them waits for nothing on the device."""

    def __init__(self, device: str) -> None:
        self._device = torch.device(device)

    def free(self) -> int | None:
        unused, _ = torch.cuda.mem_get_info(self._device)
        kept = self._account("reserved_bytes", "current") - self._now()
        return max(0, unused + kept - RESERVE)

    def total(self) -> int | None:
        return torch.cuda.mem_get_info(self._device)[1]

    @contextmanager
    def measured(self) -> Generator[Taken]:
        taken = Taken()
        torch.cuda.reset_peak_memory_stats(self._device)
        before = self._now()
        try:
            yield taken
        finally:
            taken.kept = self._now() - before
            taken.peak = self._account("allocated_bytes", "peak") - before

    def release(self) -> None:
        torch.cuda.empty_cache()

    def _now(self) -> int:
        return self._account("allocated_bytes", "current")

    def _account(self, what: str, which: str) -> int:
        # Unlike `memory_allocated()` and its kin, this builds no flat dictionary of everything.
        accounts = torch.cuda.memory_stats_as_nested_dict(self._device)
        return accounts[what]["all"][which] if accounts else 0


def memory_of(device: str) -> DeviceMemory:
    return CudaMemory(device) if device.startswith("cuda") else Unlimited()
