"""The order of copies and computing, shown by a device whose copies take place when waited for."""

import dataclasses
import threading
from collections import namedtuple

import pytest
import torch
from diffusers.pipelines.flux import FluxPipelineOutput

from deployments.engine.accelerator import transfer as transfer_module
from deployments.engine.accelerator.interface import HostCopy
from deployments.engine.accelerator.transfer import Transfer
from deployments.engine.engine import Engine
from deployments.engine.loading.loads import LoadPlan
from deployments.engine.loading.residency import Residency
from deployments.engine.lora.format import Lora
from deployments.engine.memory.placement import placed_by
from serve_app.domain.errors import OutOfMemory, ReplicaDied
from tests.engine.calls import call, run_without_engine
from tests.engine.loops import Denoiser, Loop
from tests.engine.loras import save_lora
from tests.engine.tiny import tiny_flux
from tests.fakes.accelerator import COMPUTE, FakeAccelerator

pytestmark = pytest.mark.engine


def state(module):
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def same_state(module, before):
    return all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())


def test_weights_go_by_a_stream_of_their_own_which_is_waited_for_before_they_are_used():
    accelerator, pipeline = FakeAccelerator(), tiny_flux()
    plain = run_without_engine(pipeline)
    at_home = [parameter.data_ptr() for parameter in pipeline.transformer.parameters()]
    placed_by(None, pipeline).apply(accelerator)
    assert {stream for stream, _ in accelerator.operations} == {"weights"}
    assert accelerator.operations[-1] == ("weights", "synchronize")
    there = [parameter.data_ptr() for parameter in pipeline.transformer.parameters()]
    assert not set(there) & set(at_home)
    assert set(there) <= set(accelerator.shared)  # not freed while the engine may still read them
    assert torch.equal(run_without_engine(pipeline), plain)
    assert not accelerator.pinned


def test_a_staging_buffer_is_filled_again_only_after_the_device_has_read_it(monkeypatch):
    monkeypatch.setattr(transfer_module, "STAGING_BYTES", 64)
    accelerator, module = FakeAccelerator(), torch.nn.Linear(31, 17)
    before = state(module)
    with Transfer(accelerator, "weights") as transfer:
        transfer.move([module])
    assert same_state(module, before)
    assert accelerator.most_pinned == 128
    assert ("weights", "wait") in accelerator.operations


def test_tied_weights_and_other_layouts_arrive_as_they_were():
    accelerator = FakeAccelerator()
    tied = torch.nn.ModuleList([torch.nn.Linear(4, 4), torch.nn.Linear(4, 4)])
    tied[1].weight = torch.nn.Parameter(tied[0].weight.data)  # the same memory
    strided = torch.nn.Conv2d(4, 4, 3).to(memory_format=torch.channels_last)
    odd = torch.nn.Module()
    odd.register_buffer("gaps", torch.arange(12.0).view(3, 4)[:, ::2])
    odd.register_buffer("one", torch.tensor(3, dtype=torch.int64))
    odd.register_buffer("nothing", torch.empty(0))
    before = [state(layer) for layer in (tied, strided, odd)]
    with Transfer(accelerator, "weights") as transfer:
        transfer.move([tied, strided, odd])
    assert all(map(same_state, (tied, strided, odd), before))
    assert tied[1].weight.data_ptr() == tied[0].weight.data_ptr()
    assert strided.weight.is_contiguous(memory_format=torch.channels_last)


def test_a_module_that_does_not_fit_has_the_weights_that_it_had():
    accelerator, module = FakeAccelerator(), tiny_flux().transformer
    at_home = [parameter.data_ptr() for parameter in module.parameters()]
    accelerator.refuse(7)
    with pytest.raises(torch.OutOfMemoryError), Transfer(accelerator, "weights") as transfer:
        transfer.move([module])
    assert [parameter.data_ptr() for parameter in module.parameters()] == at_home
    assert accelerator.operations[-1] == ("weights", "synchronize")


def test_a_load_that_did_not_fit_is_tried_again_alone_and_is_right():
    accelerator = FakeAccelerator()
    accelerator.refuse(9)
    plain = run_without_engine(tiny_flux())
    with Engine(device=accelerator, threads=1) as engine:
        residency = Residency(engine)
        handle = residency.acquire("it", LoadPlan(lambda *_: tiny_flux()))
        assert torch.equal(run_without_engine(handle.future.result(60)), plain)
        residency.close()


def test_a_lora_goes_by_a_stream_of_its_own(tmp_path):
    lora = Lora(save_lora(tmp_path, tiny_flux(), 1), 0.7)
    accelerator = FakeAccelerator()
    images = []
    for device in ("cpu", accelerator):
        with Engine(tiny_flux(), device, threads=1) as engine:
            images.append(engine.submit(loras=[lora], **call()).result(60).images)
            if device is accelerator:
                before = len(accelerator.operations)
                images.append(engine.submit(loras=[lora], **call()).result(60).images)
    assert torch.equal(images[0], images[1])
    assert torch.equal(images[0], images[2])
    of_loras = [what for stream, what in accelerator.operations[:before] if stream == "loras"]
    assert of_loras[-1] == "synchronize"
    assert of_loras.count("copy") == of_loras.count("allocate") > 0
    assert "loras" not in {stream for stream, _ in accelerator.operations[before:]}


class Noting(Denoiser):
    def __init__(self, accelerator):
        super().__init__()
        self.accelerator = accelerator

    def compute(self, latents, timestep):
        self.accelerator.note(COMPUTE, "forward")
        return super().compute(latents, timestep)


def start(number):
    return torch.full((1, 2), float(number))


def test_a_result_leaves_the_device_before_the_next_forward():
    accelerator = FakeAccelerator()
    expected = [Loop(Denoiser())(start=start(n), steps=n) for n in (2, 6)]
    with Engine(Loop(Noting(accelerator)), accelerator, max_batch=1, max_generations=2) as engine:
        running = [engine.submit(start=start(n), steps=n) for n in (2, 6)]
        results = [generation.result(60) for generation in running]
    assert all(map(torch.equal, results, expected))
    work = [what for stream, what in accelerator.operations if what in ("forward", "copy to host")]
    assert work == [*["forward"] * work.index("copy to host"), *work[work.index("copy to host") :]]
    assert work.count("copy to host") == 2
    assert work[-1] == "copy to host"
    assert work.index("copy to host") < len(work) - 2  # others stepped after it


def test_others_step_on_while_a_result_is_copied():
    class Slow(FakeAccelerator):
        copied = threading.Event()

        def to_host(self, tensor):
            copy = super().to_host(tensor)
            return HostCopy(copy.tensor, lambda: (self.copied.wait(60), copy.ready()))

    accelerator = Slow()
    with Engine(Loop(Denoiser()), accelerator, max_batch=1, max_generations=2) as engine:
        first = engine.submit(start=start(1), steps=1)
        second = engine.submit(start=start(2), steps=5)
        stepped = threading.Event()
        third = engine.submit(start=start(3), steps=3, on_progress=lambda _: stepped.set())
        assert stepped.wait(60)
        assert not first.done()
        accelerator.copied.set()
        for generation, number, steps in ((first, 1, 1), (second, 2, 5), (third, 3, 3)):
            expected = Loop(Denoiser())(start=start(number), steps=steps)
            assert torch.equal(generation.result(60), expected)


Pair = namedtuple("Pair", "one other")


@dataclasses.dataclass
class Both:
    tensor: torch.Tensor
    text: str


def test_a_result_of_any_form_is_complete_and_of_that_form():
    outputs = {
        "tensor": torch.ones(2),
        "output": FluxPipelineOutput(images=torch.ones(3)),
        "both": Both(torch.ones(4), "text"),
        "nested": [Pair(torch.ones(5), 1), (torch.ones(6), None), {"a": torch.ones(7)}],
        "none": [1, "text"],
    }
    with Engine(device=FakeAccelerator(), threads=1) as engine:
        engine.add("it", lambda: outputs)
        came = engine.submit(pipeline="it").result(60)
    assert torch.equal(came["tensor"], torch.ones(2))
    assert type(came["output"]) is FluxPipelineOutput
    assert torch.equal(came["output"].images, torch.ones(3))
    assert torch.equal(came["output"]["images"], torch.ones(3))
    assert (type(came["both"]), came["both"].text) == (Both, "text")
    assert torch.equal(came["both"].tensor, torch.ones(4))
    pair, both, named = came["nested"]
    assert (type(pair), pair.other, both[1]) == (Pair, 1, None)
    for tensor, size in ((pair.one, 5), (both[0], 6), (named["a"], 7)):
        assert torch.equal(tensor, torch.ones(size))
    assert came["none"] is outputs["none"]


@pytest.mark.parametrize(
    ("error", "told", "lives"),
    [
        (torch.AcceleratorError("CUDA error: out of memory"), OutOfMemory, True),
        (torch.AcceleratorError("CUDA error: an illegal memory access"), ReplicaDied, False),
    ],
)
@pytest.mark.parametrize("late", [False, True])
def test_a_result_that_cannot_be_copied_is_its_generations_error(error, told, lives, late):
    class Broken(FakeAccelerator):
        def to_host(self, tensor):
            self.failed = not lives
            if not late:
                raise error

            def ready():
                raise error

            return HostCopy(tensor.clone(), ready)

    with Engine(Loop(Denoiser()), Broken(), threads=1) as engine:
        with pytest.raises(told):
            engine.submit(start=start(1), steps=1).result(60)
        if not lives:
            engine._thread.join(60)
        assert engine.alive is lives
