"""The device under test, and pipelines on it."""

from __future__ import annotations

import os
from contextlib import contextmanager
from functools import cache

import pytest
import torch

from deployments.engine.accelerator.allocator import use_expandable_segments
from deployments.engine.accelerator.selection import accelerator_for
from deployments.engine.engine import Engine
from deployments.engine.loading.loader import load_pipeline
from serve_app.domain.endpoint import Weights
from tests.engine import gate
from tests.engine.demo_calls import DEMO

DEVICE = os.environ.get("DARKROOM_GPU_TESTS_DEVICE", "cuda")  # noqa: TID251 run without settings
ON_GPU = DEVICE.startswith("cuda")
use_expandable_segments()  # as replicas do, before torch uses the device

needs_device = pytest.mark.skipif(
    ON_GPU and not torch.cuda.is_available(),
    reason="torch sees no GPU (DARKROOM_GPU_TESTS_DEVICE=cpu tries the tests on a CPU)",
)
only_gpu = pytest.mark.skipif(not ON_GPU, reason="a CPU's memory is not limited or not copied")

MARKS = [
    pytest.mark.engine,
    needs_device,
    # torch, transformers and diffusers deprecate names of their own while they load.
    pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Should have t[ab]:UserWarning"),  # torchsde, of rounding
]
HALVES = ("bfloat16", "float16")
RESULT_S = 240  # for a result; kernels are chosen meanwhile


@cache
def demo(family, dtype):
    """A demo model on the device, loaded once."""
    return fresh_demo(family, dtype).to(DEVICE)


def fresh_demo(family, dtype):
    """A demo model of the caller's own, to be changed."""
    pipeline = load_pipeline(Weights(str(DEMO / family)), dtype=dtype)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def on_device(pipeline, dtype=torch.float32):
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(DEVICE, dtype)


@contextmanager
def engine_of(pipeline=None, **options):
    """Engine on the device that merges all it may, so that tests need no particular speed."""
    settings = {"max_batch": 8, "limit_rows": False, "verify_merges": True, **options}
    with Engine(pipeline, device=DEVICE, **settings) as engine:
        yield engine


def together(engine, calls):
    """Results of calls that are all there when the engine goes on."""
    return gate.together(engine, calls, RESULT_S)


def run_merged(engine, calls):
    """Results of calls that share their forwards. Fails if they do not."""
    results, _, _ = gate.run_merged(engine, calls, RESULT_S)
    return results


def relative(one, other):
    """Root mean square difference, relative to ``other``."""
    one, other = one.float().cpu(), other.float().cpu()
    return float((one - other).norm() / other.norm().clamp(min=1e-12))


def apart(some, others):
    """Root mean square of what two sets differ by; 1 is white against black."""
    pairs = zip(some, others, strict=True)
    parts = [(a.float().cpu() - b.float().cpu()).flatten() for a, b in pairs]
    return float(torch.cat(parts).square().mean().sqrt())


def used_bytes():
    """Bytes of tensors on the GPU."""
    torch.cuda.synchronize()
    return torch.cuda.memory_allocated()


def free_bytes():
    return accelerator_for(DEVICE).memory.free()
