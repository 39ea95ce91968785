"""What free() reports can be allocated by generations at once, whichever stream it came by.

Torch's allocator keeps what is freed for the stream that it was allocated in. The compute stream
gets it only when somebody gives it back: the allocator itself does so when it has run out, in the
midst of a forward, for which the host waits.
"""

import logging
import threading

import pytest
import torch

from deployments.engine.engine import Engine
from deployments.engine.loading.loader import load_pipeline
from deployments.engine.loading.loads import LoadPlan, SpareLoadStopped
from deployments.engine.loading.residency import Residency
from deployments.engine.loop.graphs import RUNS_BEFORE
from deployments.engine.lora.format import Lora
from deployments.engine.merging.compile import compile_regions, record_graphs
from serve_app.domain.endpoint import Weights
from serve_app.domain.errors import OutOfMemory
from tests.engine.calls import call
from tests.engine.demo_calls import DEMO
from tests.engine.gate import merging_engine
from tests.engine.loras import save_lora
from tests.engine.repeating import small, start
from tests.engine.tiny import tiny_flux
from tests.fakes.accelerator import FakeAccelerator
from tests.fakes.small_device import SmallDevice

pytestmark = [
    pytest.mark.engine,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
]

RESULT_S = 100


def device_with(total):
    device = SmallDevice(total)
    return device, FakeAccelerator(device)


def all_that_is_free(device):
    """Allocate it for the compute stream. The allocator must not have to give anything back."""
    before = device.flushes
    block = device.allocate(device.free())
    assert device.flushes == before
    return block


class Pipeline:
    """Two components with so many bytes of weights."""

    def __init__(self, *sizes):
        for name, size in zip(("unet", "vae"), sizes, strict=False):
            setattr(self, name, torch.nn.Linear(size // 4, 1, bias=False))

    def to(self, where):
        return self


class Studio:
    def __init__(self, total, **options):
        self.device, self.accelerator = device_with(total)
        self.engine = Engine(device=self.accelerator, threads=1)
        self.residency = Residency(self.engine, **options)

    def __enter__(self):
        self.engine.start()
        return self

    def __exit__(self, *_):
        self.residency.close()
        self.engine.close()

    def acquire(self, name, *sizes):
        return self.residency.acquire(name, LoadPlan(lambda *_: Pipeline(*sizes)))

    def load(self, name, *sizes):
        loan = self.acquire(name, *sizes)
        loan.future.result(RESULT_S)
        return loan

    def idle(self, name, *sizes):
        self.residency.release(self.load(name, *sizes))

    def until_loaders_rest(self):
        self.residency._loader.submit(lambda: None).result(RESULT_S)


def test_memory_that_another_stream_keeps_is_free_and_cannot_be_used_without_a_flush():
    device, accelerator = device_with(1000)
    with accelerator.stream("weights").active():
        weights = accelerator.allocate(torch.empty(600, dtype=torch.uint8))
    del weights
    assert device.free() == 1000
    device.allocate(400)
    assert device.flushes == 0
    block = device.allocate(1000)
    assert device.flushes == 1
    del block
    assert device.allocate(1000) is not None  # the stream's own
    assert device.flushes == 1


@pytest.mark.parametrize("warm_share", [0.0, 0.5], ids=["forgotten", "kept in host memory"])
def test_weights_that_made_room_for_others(warm_share):
    with Studio(1000, warm_share=warm_share) as s:
        s.idle("first", 400, 200)
        s.load("second", 480)
        assert s.residency.warm == (["first"] if warm_share else [])
        assert s.device.free() == 520
        assert all_that_is_free(s.device)


def test_weights_that_went_because_memory_ran_out():
    with Studio(1000) as s:
        s.idle("first", 400)
        s.engine._loop._pressure.relieve()
        assert s.device.free() == 1000
        assert all_that_is_free(s.device)


def test_weights_that_came_in_part_and_did_not_fit():
    with Studio(1000) as s:
        with pytest.raises(OutOfMemory):
            s.load("too large", 600, 600)
        s.until_loaders_rest()
        assert s.device.free() == 1000
        assert all_that_is_free(s.device)


def test_weights_of_a_load_that_failed():
    with Studio(1000) as s:
        s.accelerator.refuse(4, ValueError("The second component is broken."))
        with pytest.raises(ValueError, match="broken"):
            s.load("broken", 400, 400)
        s.until_loaders_rest()
        assert ("weights", "copy") in s.accelerator.operations
        assert s.device.free() == 1000
        assert all_that_is_free(s.device)


def test_weights_of_a_load_that_ended_because_a_request_came_for_others():
    with Studio(10**9) as s:
        begun, go, on_bytes = threading.Event(), threading.Event(), s.residency._on_bytes

        def slowly(*progress):
            begun.set()
            go.wait(RESULT_S)
            on_bytes(*progress)

        s.residency._on_bytes = slowly
        plan = LoadPlan(lambda *_: load_pipeline(Weights(str(DEMO / "flux"))))
        spare = s.residency.acquire("spare", plan, spare=True)
        assert begun.wait(RESULT_S)
        claim = s.acquire("asked", 400)
        go.set()
        assert isinstance(spare.future.exception(RESULT_S), SpareLoadStopped)
        claim.future.result(RESULT_S)
        assert s.device.free() == 10**9 - 400
        assert all_that_is_free(s.device)


MB = 2**20


def loras_of(folder, *ranks):
    return [Lora(save_lora(folder, tiny_flux(), rank, rank), 1.0) for rank in ranks]


def draw(engine, loras=(), **more):
    return engine.submit(loras=loras, **call(**more)).result(RESULT_S).images


def test_loras_that_made_room_for_others(tmp_path):
    pipeline = tiny_flux()
    larger, smaller = loras_of(tmp_path, 8, 4)
    device, accelerator = device_with(4 * MB)
    lora_bytes = larger.file.stat().st_size
    with Engine(pipeline, accelerator, threads=1, lora_bytes=lora_bytes) as engine:
        draw(engine, [larger])
        draw(engine, [smaller])
        assert len(engine._loras._loaded[pipeline]) == 1
        assert all_that_is_free(device)


def test_loras_that_made_room_for_what_is_kept_between_steps(tmp_path):
    pipeline = tiny_flux()
    (lora,) = loras_of(tmp_path, 4)
    device, accelerator = device_with(4 * MB)
    with Engine(pipeline, accelerator, threads=1) as engine:
        draw(engine, [lora])
        loras = engine._loras
        loras.rows.missing_bytes = loras._budget  # as if stacks had found no room
        loras.tidy()
        assert not loras._loaded[pipeline]
        assert all_that_is_free(device)


def test_a_lora_that_came_in_part(tmp_path):
    (lora,) = loras_of(tmp_path, 4)
    device, accelerator = device_with(4 * MB)
    with Engine(tiny_flux(), accelerator, threads=1) as engine:
        before = device.free()
        accelerator.refuse(3)
        with pytest.raises(OutOfMemory):
            draw(engine, [lora])
        assert device.free() == before
        assert all_that_is_free(device)


class Computes:
    """Compiler that computes on the device."""

    def __init__(self, accelerator):
        self.accelerator = accelerator
        self.streams = []

    def __call__(self, graph, _inputs):
        self.streams.append(self.accelerator.current_stream.name)
        self.accelerator.allocate(torch.empty(3000, dtype=torch.uint8))
        return graph


@pytest.mark.parametrize("later", [True, False], ids=["while it is used", "before"])
def test_memory_of_the_compiler(later):
    torch._dynamo.reset()
    device, accelerator = device_with(10_000)
    compiler, pipeline = Computes(accelerator), small()
    compile_regions(pipeline, compiler)
    with Engine(device=accelerator, threads=1) as engine:
        if later:
            engine.compile_later(pipeline)
        else:
            engine.precompile(pipeline, start)
        engine.add_placed("it", pipeline)
        engine.submit(pipeline="it", **start()).result(RESULT_S)
        engine.finish_compiling()
        assert set(compiler.streams) == {"compile"}
        assert all_that_is_free(device)


@pytest.mark.parametrize("reason", ["the weights have moved", "another forward cannot be recorded"])
def test_memory_of_graphs_that_are_dropped(reason, caplog):
    caplog.set_level(logging.INFO)
    pipeline = tiny_flux()
    record_graphs(pipeline)
    device, accelerator = device_with(40 * MB)
    steps = RUNS_BEFORE + 2
    with merging_engine(pipeline, accelerator) as engine:
        draw(engine, steps=steps)
        graphs = engine._loop._graphs
        assert graphs.size > 0
        if reason == "the weights have moved":
            for parameter in pipeline.transformer.parameters():
                parameter.data = parameter.data.clone()
            draw(engine, steps=1)
        else:
            accelerator.refuse_recording(1)
            draw(engine, steps=steps, width=48, height=48)
        assert graphs.size == 0
        assert all_that_is_free(device)
