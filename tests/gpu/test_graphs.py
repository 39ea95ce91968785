"""Forwards that are recorded and launched as one piece. A CPU records nothing: there, only that the
tests themselves are right."""

import gc

import pytest
import torch

from deployments.engine.loading.loads import LoadPlan
from deployments.engine.loading.residency import Residency
from deployments.engine.lora.format import Lora
from deployments.engine.merging.compile import record_graphs
from serve_app.domain.endpoint import Recipe
from tests.engine.calls import call
from tests.engine.demo_calls import CALLS, made_of
from tests.engine.demo_calls import call as demo_call
from tests.engine.loras import save_lora
from tests.engine.tiny import tiny_flux, tiny_sdxl
from tests.gpu.device import (
    MARKS,
    ON_GPU,
    RESULT_S,
    demo,
    engine_of,
    on_device,
    only_gpu,
    relative,
    run_merged,
    used_bytes,
)

pytestmark = MARKS

MAKERS = {"flux": tiny_flux, "sdxl": tiny_sdxl}
STEPS = 8
HOST_ARGUMENTS = {"stable-audio"}
"""Families whose pipelines pass tensors in the host's memory, so that nothing is recorded."""


def recording(pipeline):
    record_graphs(pipeline)
    return pipeline


def replays(engine):
    return engine._loop._graphs.replays


def image(engine, **more):
    return engine.submit(**call(steps=STEPS, **more)).result(RESULT_S).images


@pytest.mark.parametrize("family", CALLS)
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_replayed_steps_give_what_plain_ones_give(family, dtype, caplog):
    pipeline = demo(family, dtype)
    plain = made_of(pipeline(**demo_call(family, 0, STEPS)))
    denoiser = getattr(pipeline, "transformer", None) or pipeline.unet
    record_graphs(pipeline)
    try:
        with engine_of(pipeline) as engine:
            results = [
                made_of(engine.submit(**demo_call(family, 0, STEPS)).result(RESULT_S))
                for _ in range(2)
            ]
            recordable = ON_GPU and family not in HOST_ARGUMENTS
            assert (replays(engine) > 0) == recordable, caplog.text
    finally:
        del denoiser.records_graphs  # the demo models are kept for other tests
    for result in results:
        assert relative(result, plain) <= 1e-2


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_merged_forwards_are_replayed_too(make):
    pipeline = on_device(make())
    plain = [pipeline(**call(seed=seed, steps=STEPS)).images for seed in range(3)]
    with engine_of(recording(pipeline)) as engine:
        calls = [call(seed=seed, steps=STEPS) for seed in range(3)]
        for _ in range(3):
            before = replays(engine)
            results = run_merged(engine, [{**fields, **fresh(n)} for n, fields in enumerate(calls)])
        assert replays(engine) > before or not ON_GPU
        assert engine.counts()["merged_calls"] >= 3 * STEPS
    for result, other in zip(results, plain, strict=True):
        assert relative(result.images, other) <= 1e-3


def test_loras_and_deterministic_requests_run_beside_graphs(tmp_path):
    pipeline = on_device(tiny_flux())
    plain = pipeline(**call(steps=STEPS)).images
    file = save_lora(tmp_path, pipeline, 1)
    with engine_of(recording(pipeline)) as engine:
        first, before = image(engine), replays(engine)
        changed = image(engine, loras=[Lora(file)])
        exact = image(engine, deterministic=True)
        assert replays(engine) == before
        after = image(engine)
    assert relative(changed, plain) > 1e-3
    assert torch.equal(exact.cpu(), plain.cpu())
    for result in (first, after):
        assert relative(result, plain) <= 1e-4


def test_compiled_blocks_are_recorded_with_what_was_compiled():
    plain = on_device(tiny_sdxl())(**call(steps=STEPS)).images
    torch.compiler.reset()
    with engine_of() as engine:
        residency = Residency(engine)
        recipe = Recipe(24, "float32", compile=True, graphs=True)
        plan = LoadPlan(lambda *_: tiny_sdxl(), recipe, warm_up=lambda _: call(steps=1))
        residency.acquire("sdxl", plan).future.result(600)
        results = [image(engine, pipeline="sdxl") for _ in range(2)]
        assert replays(engine) > 0 or not ON_GPU
        residency.close()
    for result in results:
        assert relative(result, plain) <= 1e-2


@only_gpu
def test_a_forward_that_waits_for_the_device_runs_as_ever(caplog):
    pipeline = on_device(tiny_flux())
    plain = pipeline(**call(steps=STEPS)).images
    forward = pipeline.transformer.forward

    def waiting(*arguments, **keywords):
        output = forward(*arguments, **keywords)
        output[0].sum().item()
        return output

    pipeline.transformer.forward = waiting
    with engine_of(recording(pipeline)) as engine:
        results = [image(engine) for _ in range(3)]
        assert replays(engine) == 0
    assert "not recorded as graphs" in caplog.text
    for result in results:
        assert torch.equal(result.cpu(), plain.cpu())


@only_gpu
def test_graphs_take_memory_that_is_not_free_and_give_it_back():
    pipeline = demo("sdxl", "float16")
    with engine_of(pipeline) as engine:
        engine.submit(**demo_call("sdxl", 0, STEPS)).result(RESULT_S)
        gc.collect()
        torch.cuda.empty_cache()
        before, free = used_bytes(), engine.accelerator.memory.free()
        record_graphs(pipeline)
        try:
            engine.submit(**demo_call("sdxl", 0, STEPS)).result(RESULT_S)
            assert replays(engine) > 0
            assert used_bytes() > before
            sizes = [denoiser.size for denoiser in engine._loop._graphs._denoisers.values()]
            assert free - engine.accelerator.memory.free() >= 0.9 * sum(sizes) > 0
        finally:
            del pipeline.unet.records_graphs
        engine._loop._graphs.release()
        torch.cuda.empty_cache()
        assert used_bytes() <= 1.05 * before + 2**20


def fresh(seed):
    return {"generator": torch.Generator().manual_seed(seed)}
