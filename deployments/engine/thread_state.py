"""What torch keeps per thread, and what therefore has to change hands with the generations.

Pipelines run under ``torch.no_grad()``, which restores on leaving what it found on entering. With
generations interleaved in one thread, one that ends would switch gradients on for the others.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

_DEVICE_TYPES = ("cpu", "cuda")


@dataclass(frozen=True, slots=True)
class ThreadState:
    """Gradient and autocast modes of the calling thread.

    Inference mode is not among them: Python can enter it, but not set it.
    """

    gradients: bool
    autocast: tuple[tuple[bool, torch.dtype], ...]  # per device type: on, to what
    autocast_cache: bool

    @classmethod
    def of_this_thread(cls) -> ThreadState:
        return cls(
            gradients=torch.is_grad_enabled(),
            autocast=tuple(
                (torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind))
                for kind in _DEVICE_TYPES
            ),
            autocast_cache=torch.is_autocast_cache_enabled(),
        )

    def apply(self) -> None:
        torch.set_grad_enabled(self.gradients)
        for kind, (enabled, dtype) in zip(_DEVICE_TYPES, self.autocast, strict=True):
            torch.set_autocast_enabled(kind, enabled)
            torch.set_autocast_dtype(kind, dtype)
        torch.set_autocast_cache_enabled(self.autocast_cache)
