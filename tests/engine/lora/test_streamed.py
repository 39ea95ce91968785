"""LoRAs on a denoiser whose blocks pass through the device by diffusers' group offloading.

On a CPU there is neither a stream nor page-locked memory; both are stood in for, and the
bookkeeping is diffusers' own.
"""

from contextlib import nullcontext

import pytest
import torch
from diffusers.hooks import group_offloading

from deployments.engine.engine import Engine
from deployments.engine.lora.format import Lora
from tests.engine.calls import call
from tests.engine.loras import save_lora
from tests.engine.tiny import tiny_flux

pytestmark = pytest.mark.engine


class Stream:
    def synchronize(self):
        pass


class Backend:
    Stream = Stream

    def __init__(self, device):
        pass

    def stream(self, stream):
        return nullcontext()

    def current_stream(self):
        return Stream()


@pytest.fixture
def by_blocks(monkeypatch):
    monkeypatch.setattr(group_offloading, "TorchDeviceBackend", Backend)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self, *_: self.clone())
    monkeypatch.setattr(torch.Tensor, "is_pinned", lambda *_: True)

    def stream(module):
        config = group_offloading.GroupOffloadingConfig(
            onload_device=torch.device("cpu"),
            offload_device=torch.device("cpu"),
            offload_type=group_offloading.GroupOffloadingType.BLOCK_LEVEL,
            non_blocking=True,
            record_stream=False,
            low_cpu_mem_usage=False,
            num_blocks_per_group=1,
            stream=Stream(),
        )
        group_offloading._apply_group_offloading(module, config)

    return stream


def images(pipeline, loras):
    """Two generations with the LoRAs, alone and merged with one without, and one after them."""
    results = []
    with Engine(pipeline, threads=1, max_batch=4) as engine:
        results.append(engine.submit(**call(seed=1)).result(60).images)
        running = [
            engine.submit(loras=lora_list, **call(seed=seed))
            for seed, lora_list in ((1, loras), (2, loras[:1]), (3, ()))
        ]
        results += [generation.result(60).images for generation in running]
        results.append(engine.submit(**call(seed=1)).result(60).images)
    return results


def test_they_change_their_own_requests_and_break_nobody_elses(by_blocks, tmp_path):
    # The embedders are in a group with the rest of the model, the attention in those of its blocks.
    layers = ["transformer_blocks.0.attn.to_q", "single_transformer_blocks.0.attn.to_v"]
    layers.append("x_embedder")
    files = [save_lora(tmp_path, tiny_flux(), seed, layers=layers) for seed in (1, 2)]
    loras = [Lora(files[0], 0.7), Lora(files[1], 0.4)]
    resident = images(tiny_flux(), loras)
    pipeline = tiny_flux()
    by_blocks(pipeline.transformer)
    streamed = images(pipeline, loras)
    for actual, expected in zip(streamed, resident, strict=True):
        torch.testing.assert_close(actual, expected, atol=1e-5, rtol=0)
    assert torch.equal(streamed[0], streamed[-1])
    assert not torch.equal(streamed[0], streamed[1])
