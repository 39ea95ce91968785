"""Device, clock and models for the sections."""

from __future__ import annotations

import gc
import os
import platform
import statistics
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from deployments.engine.accelerator.selection import accelerator_for
from deployments.engine.engine import Engine
from tests.engine.gate import run_merged

RESULT_S = 90.0
"""For a result; kernels are chosen meanwhile."""


class Bench:
    """The device, and what the sections share."""

    def __init__(self, device: str, *, tiny: bool) -> None:
        self.device = device
        self.tiny = tiny
        self.on_gpu = device.startswith("cuda")
        self._flux: Any = None

    def machine(self) -> dict[str, Any]:
        """Card and versions."""
        import diffusers  # noqa: PLC0415

        accelerator = accelerator_for(self.device)
        return {
            "card": accelerator.model_name(),
            "total_gb": torch.cuda.mem_get_info()[1] / 1e9 if self.on_gpu else None,
            "driver": accelerator.driver(),
            "torch": torch.__version__,
            "cuda": torch.version.cuda,
            "diffusers": diffusers.__version__,
            "python": platform.python_version(),
            "cpus": os.cpu_count(),
            "tiny": self.tiny,
        }

    def synchronize(self) -> None:
        if self.on_gpu:
            torch.cuda.synchronize()

    def measure_time(self, work: Callable[[], object], times: int = 3) -> dict[str, float]:
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

    def measure_merged(
        self, engine: Engine, calls: Callable[[], Sequence[Mapping[str, Any]]], times: int = 2
    ) -> tuple[list[Any], dict[str, Any]]:
        """Run calls that share their forwards; return the last results, and seconds.

        ``calls``: makes them anew, with generators of their own. Raises ``NotMerged``.
        """
        run_merged(engine, calls(), RESULT_S)  # brings kernels and memory
        runs = [run_merged(engine, calls(), RESULT_S, first=False) for _ in range(times)]
        results, _, sizes = runs[-1]
        took_s = statistics.median(seconds for _, seconds, _ in runs)
        return results, {"s": round(took_s, 6), "batch_sizes": sizes}

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
            values = torch.randn(*shape, generator=generator) * 0.1
            return values.to(self.device, torch.bfloat16)

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

    def flux_calls(self, count: int, side: int, steps: int) -> list[dict[str, Any]]:
        """Calls of ``flux()`` with seeds from 0."""
        return [self.flux_call(side, steps, seed) for seed in range(count)]

    def sdxl(self) -> Any:
        """SDXL without text encoders."""
        from benchmarks.real_sizes import sdxl  # noqa: PLC0415

        with self.made_here():
            pipeline = sdxl(tiny=self.tiny)
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    def sdxl_call(self, pipeline: Any, side: int, steps: int, seed: int) -> dict[str, Any]:
        """Arguments of a call of ``sdxl()`` that returns an image."""
        from benchmarks.real_sizes import sdxl_call  # noqa: PLC0415

        with self.made_here():
            torch.manual_seed(seed)
            call = dict(sdxl_call(pipeline, 32 if self.tiny else side))
        generator = torch.Generator("cpu").manual_seed(seed)
        return {
            **call,
            "num_inference_steps": steps,
            "generator": generator,
            "output_type": "pt",
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
        lambda _module, _positional, named: seen.update(named) or None, with_kwargs=True
    )
    try:
        work()
    finally:
        hook.remove()
    return seen


def repeat_rows(
    named: Mapping[str, Any], rows: int, shared: tuple[str, ...] = ()
) -> dict[str, Any]:
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
