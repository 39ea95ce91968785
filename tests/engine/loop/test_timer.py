"""Whose time the device spends, and for what."""

import pytest
import torch

from deployments.engine.accelerator.cpu import Cpu, HostTimeStamp
from deployments.engine.engine import Engine
from deployments.engine.loop.metrics import EngineCounters, Timer
from tests.engine.gate import Gate
from tests.engine.loops import Denoiser, Loop
from tests.engine.tiny import tiny_flux

pytestmark = pytest.mark.engine


class Device:
    """Passes marks in their order, on request; a second lies between two."""

    def __init__(self):
        self.made = self.at = 0

    def mark(self):
        self.made += 1
        return DeviceMark(self, self.made)


class DeviceMark:
    def __init__(self, device, number):
        self.device = device
        self.number = number

    def has_passed(self):
        return self.number <= self.device.at

    def seconds_to(self, later):
        assert self.has_passed()
        assert later.has_passed()
        return later.number - self.number


def test_a_lap_counts_once_the_device_has_passed_its_end():
    device, counts = Device(), EngineCounters()
    timer = Timer(device.mark, counts.took)
    timer.start()
    timer.end_lap(("flux", "denoising"))
    timer.end_lap(("flux", "decoding"))
    assert counts.seconds == {}
    device.at = 2
    timer.start()  # what lies before it is no one's
    assert counts.seconds == {("flux", "denoising"): 1}
    timer.end_lap(("flux", "denoising"))
    device.at = 9
    timer.start()
    assert counts.seconds == {("flux", "denoising"): 2, ("flux", "decoding"): 1}


def test_on_a_cpu_it_goes_by_the_clock():
    clock = iter([10.0, 10.5])
    mark = Cpu().timestamps(lambda: next(clock))
    first, second = mark(), mark()
    assert isinstance(first, HostTimeStamp)
    assert first.has_passed()
    assert first.seconds_to(second) == 0.5


class Ticks:
    """A clock on which a denoiser's forward takes a second, and nothing else any time."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


class Slow(Denoiser):
    def __init__(self, ticks):
        super().__init__()
        self.ticks = ticks

    def compute(self, latents, timestep):
        self.ticks.now += 1
        return super().compute(latents, timestep)


def test_seconds_are_counted_by_pipeline_and_a_merged_forward_counts_once():
    ticks = Ticks()
    with Engine(monotonic=ticks, threads=1) as engine:
        engine.add("one", Loop(Slow(ticks)))
        engine.add("two", Loop(Slow(ticks)))
        gate = Gate(engine)
        running = [
            engine.submit(pipeline=name, start=torch.ones(1, 2), steps=4)
            for name in ("one", "two", "two")
        ]
        gate.open()
        for generation in running:
            generation.result(60)
    seconds = engine.counts()["seconds"]
    assert {key: s for key, s in seconds.items() if s} == {
        ("one", "denoising"): 4.0,
        ("two", "denoising"): 4.0,
    }


def test_each_stage_of_a_pipeline_takes_its_time():
    with Engine(tiny_flux(), threads=1) as engine:
        engine.submit(
            prompt="a lighthouse", width=32, height=32, num_inference_steps=2, output_type="pt"
        ).result(60)
    seconds = engine.counts()["seconds"]
    stages = {("pipeline", stage) for stage in ("encoding_text", "denoising", "decoding")}
    assert seconds.keys() == stages
    assert all(duration > 0 for duration in seconds.values())
