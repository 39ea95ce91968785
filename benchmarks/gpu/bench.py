"""Device, clock and models for the sections."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from typing import Any

import torch


class Bench:
    """The device, and what the sections share."""

    def __init__(self, device: str, *, tiny: bool) -> None:
        self.device = device
        self.tiny = tiny
        self.on_gpu = device.startswith("cuda")
        self._flux: Any = None

    def synchronize(self) -> None:
        if self.on_gpu:
            torch.cuda.synchronize()

    def timed(self, work: Callable[[], object], times: int = 3) -> dict[str, float]:
        """Median seconds until the device has finished, and until the host has launched all."""
        whole, host = [], []
        for _ in range(times):
            self.synchronize()
            began = time.perf_counter()
            work()
            host.append(time.perf_counter() - began)
            self.synchronize()
            whole.append(time.perf_counter() - began)
        return {
            "s": round(statistics.median(whole), 6),
            "host_s": round(statistics.median(host), 6),
        }

    @contextmanager
    def made_here(self, dtype: torch.dtype = torch.bfloat16) -> Generator[None]:
        """Make modules on the device, in ``dtype``, with the same random weights each time."""
        before = torch.get_default_dtype()
        torch.set_default_dtype(dtype)
        try:
            with torch.device(self.device):
                torch.manual_seed(0)
                yield
        finally:
            torch.set_default_dtype(before)

    def flux(self) -> Any:
        """FLUX.1 [dev] without text encoders, made once."""
        if self._flux is None:
            from benchmarks.real_sizes import flux  # noqa: PLC0415

            with self.made_here():
                self._flux = flux(tiny=self.tiny, guidance=True)
            self._flux.set_progress_bar_config(disable=True)
        return self._flux

    def flux_call(self, side: int, steps: int, seed: int, tokens: int = 512) -> dict[str, Any]:
        """Arguments of a call of ``flux()`` that returns latents."""
        config = self.flux().transformer.config
        generator = torch.Generator("cpu").manual_seed(seed)

        def noise(*shape: int) -> torch.Tensor:
            made = torch.randn(*shape, generator=generator) * 0.1
            return made.to(self.device, torch.bfloat16)

        return {
            "prompt_embeds": noise(1, tokens, config.joint_attention_dim),
            "pooled_prompt_embeds": noise(1, config.pooled_projection_dim),
            "width": 32 if self.tiny else side,
            "height": 32 if self.tiny else side,
            "guidance_scale": 3.5,
            "num_inference_steps": steps,
            "generator": torch.Generator("cpu").manual_seed(seed),
            "output_type": "latent",
        }

    def drop_models(self) -> None:
        """Free the models that sections share."""
        self._flux = None
        self.free()

    def free(self) -> None:
        gc.collect()
        if self.on_gpu:
            torch.cuda.empty_cache()


def arguments_of(module: Any, work: Callable[[], object]) -> dict[str, Any]:
    """Keyword arguments of the last call of ``module`` in ``work()``."""
    seen: dict[str, Any] = {}
    hook = module.register_forward_pre_hook(
        lambda _module, _given, named: seen.update(named) or None, with_kwargs=True
    )
    try:
        work()
    finally:
        hook.remove()
    return seen


def repeated(named: Mapping[str, Any], rows: int, shared: tuple[str, ...] = ()) -> dict[str, Any]:
    """Arguments with ``rows`` times the rows. ``shared``: tensors without rows."""
    return {
        name: torch.cat([value] * rows)
        if isinstance(value, torch.Tensor) and name not in shared and value.ndim
        else value
        for name, value in named.items()
    }


def distance(a: torch.Tensor, b: torch.Tensor) -> float:
    """Root mean square of the difference, relative to ``b``."""
    return float((a.float() - b.float()).norm() / b.float().norm().clamp(min=1e-12))


def text_of(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:200]
