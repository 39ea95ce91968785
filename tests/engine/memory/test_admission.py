"""Memory inside the engine, on a device with little of it: batches fit, generations begin when they
fit, and what does not fit waits or is refused."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from deployments.engine.engine import Engine
from deployments.engine.memory.admission import Admission, growth, memory_kind_of
from deployments.engine.memory.placement import DeviceSlot
from serve_app.domain.errors import OutOfMemory
from tests.engine.gate import Gate, merging_engine
from tests.engine.loops import Denoiser, Loop
from tests.fakes.accelerator import FakeAccelerator
from tests.fakes.small_device import SmallDevice

pytestmark = pytest.mark.engine


class Hungry(Denoiser):
    """Takes memory for each row while it computes."""

    def __init__(self, device, size):
        super().__init__()
        self.device, self.size = device, size

    def compute(self, latents, timestep):
        taken = [self.device.allocate(self.size) for _ in latents]
        assert taken
        return super().compute(latents, timestep)


class Holding(Loop):
    """Keeps memory from call to call, and takes some more at the end, as a VAE does."""

    def __init__(self, denoiser, device):
        super().__init__(denoiser)
        self.device = device
        self.held = []  # by how many at a time

    def __call__(self, start, held, passing=0, **more):
        kept = self.device.allocate(held)
        output = super().__call__(start, **more)
        if passing:
            self.device.allocate(passing)
        del kept
        return output


def start(number, rows=1):
    return torch.full((rows, 4), float(number))


def together(engine, calls):
    gate = Gate(engine)
    running = [engine.submit(**call) for call in calls]
    gate.open()
    for generation in running:
        generation._future.exception(60)
    return running


def engine_on(device, pipeline):
    return merging_engine(pipeline, max_batch=8, device=FakeAccelerator(device))


def test_a_forward_is_measured_alone_and_then_as_large_as_fits():
    device = SmallDevice(1000)
    denoiser = Hungry(device, 200)
    pipeline = Loop(denoiser)
    alone = [pipeline(start(n), steps=6) for n in range(8)]
    with engine_on(device, pipeline) as engine:
        running = together(engine, [{"start": start(n), "steps": 6} for n in range(8)])
        counts = engine.counts()
    for generation, expected in zip(running, alone, strict=True):
        assert torch.equal(generation.result(0), expected)
    assert counts["trial_forwards"] == 0  # none ran out of memory
    assert max(counts["batch_sizes"]) == 4
    assert counts["not_merged"]["memory"] == 1
    assert counts["merged_calls"] >= 40


def test_what_others_take_meanwhile_makes_batches_smaller_and_they_grow_again():
    device = SmallDevice(1000)
    denoiser = Hungry(device, 100)
    with engine_on(device, Loop(denoiser)) as engine:
        together(engine, [{"start": start(n)} for n in range(8)])
        assert max(denoiser.rows) == 8
        denoiser.rows.clear()
        weights = device.allocate(650)
        together(engine, [{"start": start(n)} for n in range(8)])
        assert max(denoiser.rows) == 3
        denoiser.rows.clear()
        del weights
        together(engine, [{"start": start(n)} for n in range(8)])
        assert max(denoiser.rows) == 8
        assert engine.counts()["trial_forwards"] == 0


def test_generations_begin_when_what_they_hold_fits_and_all_end():
    device = SmallDevice(1000)
    pipeline = Holding(Hungry(device, 1), device)
    call = {"start": start(1), "held": 300, "passing": 200}
    with engine_on(device, pipeline) as engine:
        engine.submit(**call).result(60)
        running = together(engine, [call] * 8)
        for generation in running:
            generation.result(0)
        assert max(engine.counts()["batch_sizes"]) == 2  # a third would leave too little to end
    assert device.released == 0


def test_without_knowing_what_they_hold_they_would_have_run_out():
    """Or the test above would prove nothing."""
    device = SmallDevice(1000)
    pipeline = Holding(Hungry(device, 1), device)
    with engine_on(device, pipeline) as engine:
        running = together(engine, [{"start": start(1), "held": 300, "passing": 200}] * 8)
        assert any(
            isinstance(generation._future.exception(0), OutOfMemory) for generation in running
        )


def test_generations_of_a_size_that_was_not_measured_yet_begin_when_they_fit_by_others():
    device = SmallDevice(1000)
    pipeline = Holding(Hungry(device, 1), device)
    with engine_on(device, pipeline) as engine:
        engine.submit(start=start(1), held=150, passing=100).result(60)
        running = together(engine, [{"start": start(1), "held": 300, "passing": 200}] * 8)
        for generation in running:
            generation.result(0)
    assert device.released == 0


def test_a_generation_begins_when_the_largest_call_of_each_fits_beside_what_all_hold():
    device = SmallDevice(1000)
    pipeline = Holding(Hungry(device, 350), device)
    with engine_on(device, pipeline) as engine:
        engine.submit(start=start(1), held=250).result(60)
        running = together(engine, [{"start": start(1), "held": 250}] * 4)
        for generation in running:
            generation.result(0)
    assert device.released == 0  # three would hold 750, and none of their calls would fit


class Counted(DeviceSlot):
    """Slot in which weights take memory."""

    def __init__(self, device, size):
        super().__init__(FakeAccelerator(device))
        self.there = None
        self.memory, self.size = device, size

    def admit(self, module):
        if not self.holds(module):
            self.there = self.memory.allocate(self.size)
        super().admit(module)


def test_weights_that_come_for_a_call_are_not_part_of_what_the_call_takes():
    device = SmallDevice(1000)
    denoiser = Hungry(device, 100)
    Counted(device, 600).serve(denoiser)
    with engine_on(device, Loop(denoiser)) as engine:
        engine.submit(start=start(1)).result(60)
        together(engine, [{"start": start(1)}] * 2)
        assert max(engine.counts()["batch_sizes"]) == 2


def test_a_small_one_does_not_pass_a_large_one_that_waits_for_memory():
    device = SmallDevice(1000)
    pipeline = Holding(Hungry(device, 1), device)
    large = {"start": start(1), "held": 600, "steps": 9}
    small = {"start": start(1), "held": 100}
    ended = []
    with engine_on(device, pipeline) as engine:
        for arguments in (large, small):
            engine.submit(**arguments).result(60)
        gate = Gate(engine)
        for name, arguments in {"first": large, "second": large, "third": small}.items():
            generation = engine.submit(**arguments)
            generation.add_done_callback(lambda _, name=name: ended.append(name))
        gate.open()
        generation.result(60)
    assert ended[0] == "first"


def test_an_engine_says_that_one_waits_for_memory_until_there_is_room():
    device = SmallDevice(1000)
    pipeline = Holding(Hungry(device, 1), device)
    large = {"start": start(1), "held": 600, "steps": 9}
    reported, room = [], []
    with engine_on(device, pipeline) as engine:
        engine.on_memory_available(lambda: room.append(engine.short_of_memory))
        engine.submit(**large).result(60)
        assert not engine.short_of_memory
        gate = Gate(engine)
        running = [
            engine.submit(**large, on_progress=lambda _: reported.append(engine.short_of_memory))
            for _ in range(2)
        ]
        gate.open()
        for generation in running:
            generation.result(60)
        engine.submit(**large).result(60)
        assert not engine.short_of_memory
    assert True in reported
    assert room == [False]


def test_a_call_that_does_not_fit_waits_for_others_to_end_and_nothing_is_lost():
    device = SmallDevice(1000)
    pipeline = Holding(Hungry(device, 300), device)
    calls = [{"start": start(n), "held": 150, "steps": 3} for n in range(2)]
    calls.append({"start": start(2, rows=2), "held": 150, "steps": 2})  # which go first
    with engine_on(device, pipeline) as engine:
        running = together(engine, calls)  # the first of their kinds
        for generation, its in zip(running, calls, strict=True):
            assert torch.equal(generation.result(0), Loop(Denoiser())(its["start"], its["steps"]))
        assert engine.counts()["trial_forwards"] == 0
    assert device.released  # the one with two rows did not fit at first


def test_one_that_does_not_fit_even_alone_is_refused_with_sizes_after_the_idle_has_gone():
    device = SmallDevice(1000)
    dropped = []
    with Engine(Loop(Hungry(device, 1200)), device=FakeAccelerator(device)) as engine:
        engine.add_reclaimer(lambda: dropped.append("idle"))
        generation = engine.submit(start=start(1))
        with pytest.raises(OutOfMemory, match=r"call of Hungry with \[\[1, 4\]\].* are free"):
            generation.result(60)
    assert dropped
    assert device.released


def test_what_is_idle_makes_room_for_one_that_would_not_fit():
    device = SmallDevice(1000)
    idle = [device.allocate(500)]
    pipeline = Loop(Hungry(device, 700))
    with Engine(pipeline, device=FakeAccelerator(device)) as engine:
        engine.add_reclaimer(idle.clear)
        assert torch.equal(engine.submit(start=start(1)).result(60), Loop(Denoiser())(start(1)))


def test_a_batch_that_ran_out_grows_back_when_there_is_more_memory(caplog):
    device = SmallDevice(1000)
    denoiser = Hungry(device, 100)
    with engine_on(device, Loop(denoiser)) as engine:
        together(engine, [{"start": start(n)} for n in range(8)])
        denoiser.size = 200  # what was measured is wrong from here on
        others = device.allocate(150)
        together(engine, [{"start": start(n)} for n in range(8)])
        assert "did not fit in memory; at most" in caplog.text
        denoiser.size = 100
        denoiser.rows.clear()
        together(engine, [{"start": start(n), "steps": 20} for n in range(8)])
        assert max(denoiser.rows) == 3
        del others
        together(engine, [{"start": start(n), "steps": 200} for n in range(8)])
        assert max(denoiser.rows) > 3


def test_a_failed_batch_of_loras_or_shapes_does_not_count_for_others():
    device = SmallDevice(1000)
    denoiser = Hungry(device, 150)
    with engine_on(device, Loop(denoiser)) as engine:
        together(engine, [{"start": start(n, rows=2)} for n in range(8)])
        denoiser.rows.clear()
        together(engine, [{"start": start(n)} for n in range(8)])
        assert max(denoiser.rows) == 6


@pytest.mark.parametrize(
    ("arguments", "same"),
    [
        ({"prompt": "b", "num_inference_steps": 9, "guidance_scale": 2.0, "seed": 5}, True),
        ({"width": 128}, False),
        ({"image": torch.zeros(1, 3, 8, 8)}, False),
        ({"audio_end_in_s": 20.0}, False),
    ],
)
def test_of_a_kind_are_those_with_the_same_sizes(arguments, same):
    first = {"prompt": "a", "width": 64, "num_inference_steps": 4, "guidance_scale": 1.0, "seed": 1}
    other = {**first, **arguments}
    assert (memory_kind_of("it", None, first) == memory_kind_of("it", None, other)) is same


lengths = st.integers(1, 4096)
kinds = st.fixed_dictionaries(
    {"height": lengths, "width": lengths, "num_frames": lengths, "image": st.tuples(lengths)}
)


@given(kinds, kinds, st.tuples(*[st.integers(0, 1000)] * 4))
def test_an_estimate_by_another_size_is_never_too_low_for_what_grows_with_sizes(one, other, parts):
    def memory(sizes):
        pixels, frames = sizes["height"] * sizes["width"], sizes["num_frames"]
        fixed, by_pixels, by_volume, by_image = parts
        return (
            fixed + by_pixels * pixels + by_volume * pixels * frames + by_image * sizes["image"][0]
        )

    factor = growth(*(memory_kind_of("it", None, as_arguments(fields)) for fields in (one, other)))
    assert factor is not None
    assert memory(other) <= memory(one) * factor * (1 + 1e-9)


def as_arguments(sizes):
    return {**sizes, "image": torch.empty(sizes["image"], device="meta")}


def test_an_image_that_is_turned_takes_the_same_memory():
    wide, high = ({"height": 64, "width": 128}, {"height": 128, "width": 64})
    assert growth(memory_kind_of("it", None, wide), memory_kind_of("it", None, high)) == 1


@pytest.mark.parametrize("arguments", [{"tiles": True}, {"width": 0}, {"image": torch.zeros(1)}])
def test_kinds_with_other_arguments_or_flags_are_not_compared(arguments):
    first = {"width": 64, "tiles": False}
    kinds = [memory_kind_of("it", None, fields) for fields in (first, {**first, **arguments})]
    assert growth(*kinds) is None
    assert growth(kinds[0], memory_kind_of("another", None, first)) is None
    assert growth(kinds[0], memory_kind_of("it", Loop(None), first)) is None
    assert growth(kinds[0], memory_kind_of("it", None, first, '{"name": "cache"}')) is None


def test_of_several_sizes_the_one_that_gives_the_least_counts():
    admission = Admission(SmallDevice(10_000))
    for number, (pixels, size) in enumerate([(1, 500), (8, 900), (100, 9000)]):
        kind = memory_kind_of("it", None, {"width": pixels})
        admission.record_call_bytes(number, size)
        admission.end_generation(number, kind, well=True)
    assert not admission.fits_weights(8000, {9: memory_kind_of("it", None, {"width": 16})}, 0)
    assert admission.fits_weights(7000, {9: memory_kind_of("it", None, {"width": 16})}, 0)
    assert admission.fits_weights(8000, {9: memory_kind_of("it", None, {"width": 4})}, 0)


def test_a_view_is_of_another_kind():
    assert memory_kind_of("it", Loop(None), {}) != memory_kind_of("it", None, {})
