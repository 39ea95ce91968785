"""Weights come to a device with little memory while generations run on it."""

import gc
import threading
import time
import weakref

import pytest
import torch

from deployments.engine.engine import Engine
from deployments.engine.loading.loads import LoadPlan
from deployments.engine.loading.residency import Residency
from deployments.engine.memory.reservations import CommonMemory, Reservations
from deployments.engine.merging.compile import WORKING_SET, compile_regions
from serve_app.domain.errors import OutOfMemory
from tests.engine.loops import Denoiser, Loop
from tests.engine.repeating import small, start
from tests.fakes.accelerator import FakeAccelerator
from tests.fakes.small_device import SmallDevice

pytestmark = pytest.mark.engine

PATIENCE_S = 120


def until(condition):
    by = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < by
        time.sleep(0.002)


class Steps(Denoiser):
    """Stands still in each step until that is let go, or all are."""

    def __init__(self):
        super().__init__()
        self.reached = threading.Event()
        self.one, self.all = threading.Semaphore(0), threading.Event()

    def compute(self, latents, timestep):
        self.reached.set()
        until(lambda: self.all.is_set() or self.one.acquire(blocking=False))
        return super().compute(latents, timestep)

    def let_one_go(self):
        """Let the step that stands now go, if one does."""
        if self.reached.is_set():
            self.reached.clear()
            self.one.release()


class Model:
    """Its weights take memory of the device as long as they are there, and a generation holds some
    more from its beginning to its end."""

    def __init__(self, device, weights, generation_bytes=0):
        self.transformer = Steps()
        self.weights = torch.nn.Linear(weights // 4, 1, bias=False, device="meta")
        self.device, self.generation_bytes = device, generation_bytes
        self.size = weights
        self.allocated = None
        self.moves = []
        self.happened = []
        self.before = lambda: None  # what happens before they come

    def to(self, where):
        self.moves.append(where)
        if where == "cpu":
            self.allocated = None
            return
        self.before()
        self.allocated = self.device.allocate(self.size)
        self.happened.append("weights came")

    def __call__(self, steps=2, frames=1):
        self.happened.append("a generation began")
        kept = self.device.allocate(self.generation_bytes * frames)
        latents = torch.zeros(1, 2)
        for step in range(steps):
            latents = self.transformer(latents, timestep=step)
        del kept
        return latents


class Studio:
    def __init__(self, total):
        self.device = SmallDevice(total)
        self.engine = Engine(device=FakeAccelerator(self.device, device="small"), threads=1)
        self.residency = Residency(self.engine)
        self.models = {}

    def borrow(self, name, weights, generation_bytes=0, before=None):
        """A loan of a model that is made when it is loaded."""

        def load(*_):
            model = self.models[name] = Model(self.device, weights, generation_bytes)
            model.before = before or model.before
            return model

        return self.residency.acquire(name, LoadPlan(load))

    def load_and_run(self, name, weights, generation_bytes=0, **arguments):
        """One that has been generated with, so that it is known what it holds."""
        loan = self.borrow(name, weights, generation_bytes)
        model = loan.future.result(PATIENCE_S)
        model.transformer.all.set()
        self.engine.submit(pipeline=name, **arguments).result(PATIENCE_S)
        model.transformer.all.clear()
        model.transformer.reached.clear()
        return loan

    def running(self, name, **arguments):
        """A generation that stands in the midst of its first step."""
        generation = self.engine.submit(pipeline=name, **arguments)
        assert self.models[name].transformer.reached.wait(PATIENCE_S)
        return generation

    def go_on(self, name):
        self.models[name].transformer.all.set()

    def waiting(self, name, weights, **more):
        """A loan of a model that was read, and waits for room."""
        loan = self.borrow(name, weights, **more)
        until(lambda: self.engine._loop.reservations.has_requests)
        return loan


@pytest.fixture
def studio():
    studios = []

    def make(total):
        studios.append(Studio(total))
        studios[-1].engine.start()
        return studios[-1]

    yield make
    for instance in studios:
        for model in instance.models.values():
            model.transformer.all.set()
        instance.residency.close()
        instance.engine.close(PATIENCE_S)


def test_weights_wait_for_the_room_that_a_generation_holds_and_harm_no_one(studio):
    s = studio(1000)
    s.load_and_run("first", 300, generation_bytes=500)
    generation = s.running("first")
    came = s.waiting("second", 400)
    s.models["first"].transformer.one.release()  # the room is looked at between two steps
    with pytest.raises(TimeoutError):
        came.future.result(0.3)
    assert s.models["second"].moves == []
    s.go_on("first")
    generation.result(PATIENCE_S)
    came.future.result(PATIENCE_S)
    assert s.models["second"].moves == ["small"]
    assert s.device.free() == 300


def test_while_weights_wait_no_other_generation_takes_the_room(studio):
    """Or those for which requests keep coming would keep them out for ever."""
    s = studio(1000)
    s.load_and_run("first", 300, generation_bytes=300)
    generation = s.running("first")
    came = s.waiting("second", 400)
    happened = s.models["first"].happened = s.models["second"].happened = []
    another = s.engine.submit(pipeline="first", steps=1)
    s.go_on("first")
    for pending in (generation, another):
        pending.result(PATIENCE_S)
    came.future.result(PATIENCE_S)
    assert happened == ["weights came", "a generation began"]


def weights_come_beside(s, generation):
    """Weights of 300 bytes come at its next step, while it runs."""
    came = s.waiting("second", 300)
    s.models["first"].transformer.one.release()
    came.future.result(PATIENCE_S)
    assert not generation.done()
    s.go_on("first")
    generation.result(PATIENCE_S)


def test_weights_come_beside_a_generation_where_there_is_room_for_both(studio):
    s = studio(1000)
    s.load_and_run("first", 300, generation_bytes=200)
    generation = s.running("first")
    weights_come_beside(s, generation)
    assert s.engine.free_bytes() == 400  # nothing is set aside any more


def test_weights_come_beside_a_generation_of_a_size_that_was_not_measured_yet(studio):
    """Requests choose their sizes, so each new one would keep weights out for a whole video."""
    s = studio(1000)
    s.load_and_run("first", 300, generation_bytes=50, frames=1)
    generation = s.running("first", frames=4)
    weights_come_beside(s, generation)


def test_weights_wait_for_a_generation_of_which_nothing_is_known(studio):
    s = studio(1000)
    s.load_and_run("first", 300, generation_bytes=50)
    generation = s.running("first", frames=4)  # no generation with this argument has ended
    came = s.waiting("second", 300)
    s.models["first"].transformer.one.release()
    with pytest.raises(TimeoutError):
        came.future.result(0.3)
    s.go_on("first")
    generation.result(PATIENCE_S)
    came.future.result(PATIENCE_S)


def test_idle_weights_go_first_and_no_longer_than_it_takes(studio):
    s = studio(1000)
    for name, weights in (("oldest", 300), ("older", 300), ("used", 300)):
        loan = s.load_and_run(name, weights)
        if name != "used":
            s.residency.release(loan)
    s.models.pop("oldest"), s.models.pop("older")  # no one else has them
    del loan
    s.borrow("coming", 350).future.result(PATIENCE_S)
    assert s.residency.find("oldest") is None
    assert s.residency.find("older") is not None
    assert s.models["coming"].moves == ["small"]


def test_weights_that_run_out_of_memory_after_all_come_again_when_nothing_runs(studio):
    s = studio(1000)
    s.load_and_run("first", 300, generation_bytes=100)
    generation = s.running("first")
    others = []

    def another_process_takes_some():
        if not others:
            others.append(s.device.allocate(400))
        else:
            others[:] = [None]

    came = s.waiting("second", 350, before=another_process_takes_some)
    s.go_on("first")
    generation.result(PATIENCE_S)
    came.future.result(PATIENCE_S)
    assert s.models["second"].moves == ["small", "cpu", "small"]
    assert s.engine.submit(pipeline="first").result(PATIENCE_S) is not None


def test_weights_that_do_not_fit_alone_are_their_own_requests_error(studio):
    s = studio(1000)
    s.load_and_run("first", 300, generation_bytes=100)
    with pytest.raises(OutOfMemory, match=r"second has .* weights, .* did not fit"):
        s.borrow("second", 900).future.result(PATIENCE_S)
    s.go_on("first")
    assert s.engine.submit(pipeline="first").result(PATIENCE_S) is not None
    assert s.borrow("third", 200).future.result(PATIENCE_S) is s.models["third"]


def test_weights_that_are_no_longer_waited_for_keep_no_other_out(studio):
    s = studio(1000)
    s.load_and_run("first", 300, generation_bytes=500)
    generation = s.running("first")
    loan = s.waiting("second", 400)
    another = s.engine.submit(pipeline="first")
    s.residency.release(loan)
    until(lambda: not s.engine._loop.reservations.has_requests)
    s.go_on("first")
    generation.result(PATIENCE_S)
    another.result(PATIENCE_S)
    assert s.residency.find("second") is None


def test_a_measurement_that_weights_came_into_is_not_sure():
    memory = CommonMemory(SmallDevice(1000))
    reservations = Reservations(memory, lambda: None, lambda: None)
    with memory.measure() as before:
        pass
    with memory.measure() as during:
        reservation = reservations.request(300, lambda: None, alone=False)
        reservations.grant(lambda _: True, none_runs=False)
        assert reservation.granted
        assert memory.free() == 700
        reservations.release(reservation)
    with memory.measure() as after:
        pass
    assert (before.reliable, during.reliable, after.reliable) == (True, False, True)
    assert memory.free() == 1000


def test_an_engine_that_has_ended_keeps_no_weights_waiting(studio):
    s = studio(1000)
    s.load_and_run("first", 300, generation_bytes=500)
    s.running("first")
    came = s.waiting("second", 400)
    s.engine._loop.stop()
    s.go_on("first")
    assert came.future.result(PATIENCE_S) is s.models["second"]


@pytest.fixture
def compiling():
    """A device with 1000 bytes, 400 of them for computing, and a pipeline to compile."""
    torch._dynamo.reset()
    device = SmallDevice(1000)
    accelerator = FakeAccelerator(device, device="small")
    accelerator.weights_budget = lambda: 600
    pipeline = small()
    compile_regions(pipeline, "eager")
    with Engine(device=accelerator, threads=1) as engine:
        yield engine, device, pipeline


def test_a_rehearsal_reserves_what_weights_leave_and_generations_begin_beside_it(compiling):
    engine, _, pipeline = compiling
    engine.add_placed("other", Loop(Denoiser()))
    seen = []

    def arguments():
        seen.append(engine.free_bytes())
        engine.submit(pipeline="other", start=torch.zeros(1, 4)).result(PATIENCE_S)
        return start()

    engine.precompile(pipeline, arguments)
    assert seen == [600]
    assert engine.free_bytes() == 1000


def running_beside(engine, device, generation_bytes):
    """A generation that stands in its second step; it is known what it holds."""
    model = Model(device, 300, generation_bytes)
    engine.add_placed("first", model)
    model.transformer.all.set()
    engine.submit(pipeline="first").result(PATIENCE_S)
    model.transformer.all.clear(), model.transformer.reached.clear()
    engine.submit(pipeline="first")
    assert model.transformer.reached.wait(PATIENCE_S)
    return model.transformer


def rehearsing(engine, pipeline, arguments):
    thread = threading.Thread(target=engine.precompile, args=(pipeline, arguments))
    thread.start()
    until(lambda: engine._loop.reservations.has_requests or not thread.is_alive())
    return thread


def test_a_rehearsal_waits_for_the_memory_that_a_generation_holds(compiling):
    engine, device, pipeline = compiling
    steps, free = running_beside(engine, device, generation_bytes=700), []

    def arguments():
        free.append(device.free())
        return start()

    thread = rehearsing(engine, pipeline, arguments)
    assert not free
    steps.all.set()
    thread.join(PATIENCE_S)
    assert free == [1000]


def test_a_rehearsal_that_runs_out_of_memory_comes_again_when_nothing_runs(compiling):
    engine, device, pipeline = compiling
    steps, free = running_beside(engine, device, generation_bytes=100), []

    def arguments():
        free.append(device.free())
        if len(free) == 1:
            steps.all.set()
            raise torch.OutOfMemoryError("No room beside others.")
        return start()

    thread = rehearsing(engine, pipeline, arguments)
    steps.one.release()  # the memory is looked at between two steps
    thread.join(PATIENCE_S)
    assert free == [900, 1000]
    assert pipeline.transformer.compiled_regions


class CompiledLater:
    """A device with 10,000 bytes, and a pipeline that is compiled while it is used."""

    def __init__(self):
        torch._dynamo.reset()
        self.free = []  # bytes, whenever something is compiled
        self.device = SmallDevice(10_000)
        self.engine = Engine(device=FakeAccelerator(self.device, device="small"), threads=1)
        self.pipeline = small()
        compile_regions(self.pipeline, self._compile)

    def _compile(self, graph, _inputs):
        self.free.append(self.engine.free_bytes())
        return graph

    def start(self):
        self.engine.start()
        self.engine.compile_later(self.pipeline)
        self.engine.add_placed("it", self.pipeline)

    def result(self, steps=None):
        """Result of a generation; ``steps``: of another one, which steps in turns with it."""
        generation = self.engine.submit(pipeline="it", **start())
        until(lambda: generation.done() or (steps is not None and steps.let_one_go()))
        return generation.result()

    def beside(self):
        """Let the compiler wait: it is not known how much a running generation takes.

        Returns the denoiser of that, which stands in a step.
        """
        model = Model(self.device, 300, 100)
        self.engine.add_placed("first", model)
        steps = model.transformer
        self.engine.submit(pipeline="first", steps=100)
        assert steps.reached.wait(PATIENCE_S)
        assert self.result(steps) is not None
        until(lambda: self.engine._loop.reservations.has_requests)
        return steps


@pytest.fixture
def compiled_later():
    later = CompiledLater()
    later.start()
    yield later
    later.engine.close(PATIENCE_S)


def test_code_that_comes_later_has_memory_set_aside_while_it_is_compiled(compiled_later):
    compiled_later.result()
    compiled_later.engine.finish_compiling()
    input_bytes = torch.zeros(1, 4, 8).nbytes
    assert compiled_later.free == [10_000 - WORKING_SET * input_bytes]
    assert compiled_later.engine.free_bytes() == 10_000


def test_generations_begin_while_a_compiler_waits_for_memory(compiled_later):
    steps = compiled_later.beside()
    assert compiled_later.result(steps) is not None
    assert compiled_later.free == []
    steps.all.set()
    compiled_later.engine.finish_compiling()
    assert len(compiled_later.free) == 1


def test_a_compiler_does_not_wait_for_memory_for_a_model_that_was_evicted(compiled_later):
    steps = compiled_later.beside()
    weight = weakref.ref(compiled_later.pipeline.transformer.blocks[0].inner.weight)
    compiled_later.engine.remove("it")
    compiled_later.pipeline = None
    gc.collect()
    compiled_later.engine.finish_compiling()
    assert weight() is None
    assert compiled_later.free == []
    steps.all.set()


def test_a_compiler_does_not_wait_for_memory_of_an_engine_that_has_ended(compiled_later):
    steps = compiled_later.beside()
    compiled_later.engine._loop.stop()
    steps.all.set()
    compiled_later.engine._compiler.shutdown(wait=True)
    assert compiled_later.free == []


def test_others_do_not_wait_behind_a_reservation_that_no_request_waits_for():
    memory = CommonMemory(SmallDevice(1000))
    reservations = Reservations(memory, lambda: None, lambda: None)
    granted = []
    for name, size in (("spare", 900), ("small spare", 100), ("weights", 200)):
        reservations.request(
            size, lambda name=name: granted.append(name), alone=False, spare="spare" in name
        )
    reservations.grant(lambda size: size <= memory.free() / 2, none_runs=False)
    assert granted == ["weights", "small spare"]
    reservations.grant(lambda _: False, none_runs=True)
    assert granted == ["weights", "small spare", "spare"]


def test_nothing_is_recorded_while_another_thread_computes_or_weights_come():
    memory = CommonMemory(SmallDevice(1000))
    reservations = Reservations(memory, lambda: None, lambda: None)

    def may_record():
        with memory.recording() as possible:
            return possible

    assert may_record()
    with memory.compiling():
        assert not may_record()
    reservation = reservations.request(300, lambda: None, alone=False)
    reservations.grant(lambda _: True, none_runs=False)
    assert not may_record()
    reservations.release(reservation)
    assert may_record()
