"""Evicted weights in host memory: the same bits when they return, counted, and given back first."""

import gc
import logging
import threading

import pytest
import torch

from deployments.engine.engine import Engine
from deployments.engine.loading.loader import load_pipeline
from deployments.engine.loading.loads import Fetch, LoadPlan, NoSpareRoom, SpareLoadStopped
from deployments.engine.loading.residency import Residency
from deployments.engine.lora.format import Lora
from deployments.engine.memory.placement import bytes_of, placed_by
from deployments.engine.memory.warm import WarmTier, WeightPlaces
from deployments.engine.reading.headers import BLOCK
from deployments.engine.reading.reader import PIECE_BYTES, THREADS, WeightReader
from deployments.engine.reading.unread import reading_later
from serve_app.domain.endpoint import Recipe, Weights
from tests.engine.calls import call, run_without_engine
from tests.engine.loras import save_lora
from tests.engine.tiny import tiny_flux
from tests.fakes.accelerator import FakeAccelerator

pytestmark = pytest.mark.engine


class Host:
    """Memory of a host that page-locked memory is taken from."""

    def __init__(self, accelerator, total):
        self.accelerator = accelerator
        self.total = total
        self.others = 0

    def free(self):
        return self.total - self.accelerator.pinned_bytes - self.others


def tier(share=0.5, total=10**6, **options):
    accelerator = FakeAccelerator(**options)
    host = Host(accelerator, total)
    return WarmTier(accelerator, share, lambda: host.total, host.free), host


def linear(size):
    """A pipeline with one module of ``size`` bytes, on the device."""

    class Pipeline:
        def __init__(self):
            self.unet = torch.nn.Linear(size // 4, 1, bias=False)

    return Pipeline()


def keep(warm, name, pipeline, recipe=None):
    placement = placed_by(recipe, pipeline)
    placement.apply(warm._accelerator)
    places = WeightPlaces(placement.resident)
    return warm.keep(name, pipeline, placement, places, placement.device_bytes)


def state(pipeline):
    modules = [value for value in vars(pipeline).values() if isinstance(value, torch.nn.Module)]
    return [tensor.clone() for module in modules for tensor in module.state_dict().values()]


def test_weights_that_left_the_device_come_back_bit_for_bit():
    warm, _ = tier(total=10**8)
    pipeline = tiny_flux()
    drawn, before = run_without_engine(pipeline), state(pipeline)
    accelerator = warm._accelerator
    assert keep(warm, "it", pipeline)
    assert accelerator.pinned_bytes == warm.bytes
    kept = warm.take("it")
    assert all(map(torch.equal, state(pipeline), before))
    kept.apply(accelerator)
    warm.release("it")
    assert all(map(torch.equal, state(pipeline), before))
    assert torch.equal(run_without_engine(pipeline), drawn)
    del kept
    gc.collect()
    assert accelerator.pinned_bytes == warm.bytes == 0


def test_copies_go_by_the_stream_of_weights_which_is_waited_for():
    warm, _ = tier(total=10**8)
    pipeline = linear(4000)
    accelerator = warm._accelerator
    keep(warm, "it", pipeline)
    accelerator.operations.clear()
    warm.take("it").apply(accelerator)
    assert accelerator.operations == [
        ("weights", "allocate"),
        ("weights", "copy"),
        ("weights", "synchronize"),
    ]
    assert pipeline.unet.weight.untyped_storage().data_ptr() in accelerator.shared


def test_what_does_not_fit_stays_in_host_memory_and_can_be_tried_again():
    warm, _ = tier(total=10**8)
    pipeline = tiny_flux()
    before = state(pipeline)
    keep(warm, "it", pipeline)
    kept, accelerator = warm.take("it"), warm._accelerator
    accelerator.refuse(3)
    with pytest.raises(torch.OutOfMemoryError):
        kept.apply(accelerator)
    assert all(map(torch.equal, state(pipeline), before))
    kept.apply(accelerator)
    assert all(map(torch.equal, state(pipeline), before))


def test_the_longest_unused_go_first_and_the_share_is_never_exceeded():
    warm, host = tier(share=0.5, total=20_480)
    for name in "abc":
        assert keep(warm, name, linear(4096))
        assert warm.bytes == host.accelerator.pinned_bytes <= 10_240
    assert warm.names == ["b", "c"]
    assert not keep(warm, "large", linear(20_000))
    assert warm.names == ["b", "c"]  # nothing is dropped for what would not fit even then


def test_kept_weights_stay_in_host_memory_while_others_can_go():
    warm, host = tier(share=0.5, total=20_480)
    warm.dropped_last = frozenset({"a", "d"})
    for name in "abc":
        assert keep(warm, name, linear(4096))
    assert warm.names == ["a", "c"]
    assert keep(warm, "d", linear(4096))
    assert warm.names == ["a", "d"]
    assert not keep(warm, "b", linear(4096))
    assert warm.names == ["a", "d"]
    host.others = 20_480
    warm.give_back(0)
    assert warm.names == []


def test_what_is_being_restored_is_not_dropped():
    warm, _ = tier(share=0.5, total=20_480)
    keep(warm, "a", linear(4096))
    keep(warm, "b", linear(4096))
    warm.take("a")
    assert keep(warm, "c", linear(4096))
    assert warm.names == ["a", "c"]
    warm.put_back("a")
    assert keep(warm, "d", linear(4096))
    assert warm.names == ["c", "d"]


def test_warm_weights_are_given_back_when_others_take_the_hosts_memory():
    warm, host = tier(share=0.5, total=20_480)
    keep(warm, "a", linear(4096))
    keep(warm, "b", linear(4096))
    warm.give_back(0)
    assert warm.names == ["a", "b"]
    host.others = 10_000  # of 20,480, of which 4,096 are the reserve
    warm.give_back(0)
    assert warm.names == ["b"]
    warm.give_back(8000)
    assert warm.names == []
    assert host.accelerator.pinned_bytes == 0


def test_a_host_that_cannot_lock_so_much_keeps_nothing():
    warm, _ = tier(total=10**8)
    placement = placed_by(None, linear(4096))
    placement.apply(warm._accelerator)
    warm._accelerator._host_bytes = 1000
    places = WeightPlaces(placement.resident)
    assert not warm.keep("it", placement.pipeline, placement, places, 4096)
    assert warm.bytes == warm._accelerator.pinned_bytes == 0


@pytest.mark.parametrize(("share", "discrete"), [(0.0, True), (0.5, False)])
def test_nothing_is_kept_without_a_share_or_where_weights_are_in_host_memory_anyway(
    share, discrete
):
    warm, _ = tier(share=share, total=10**8, discrete=discrete)
    assert not keep(warm, "it", linear(4096))


def test_what_is_copied_block_by_block_is_not_kept():
    warm, _ = tier(total=10**8)
    recipe = Recipe(1, "bfloat16", offload="blocks", hot=("vae", "text_encoder", "text_encoder_2"))
    placement = placed_by(recipe, tiny_flux())
    places = WeightPlaces(placement.resident)
    assert not warm.keep("it", placement.pipeline, placement, places, 4096)


def test_components_that_waited_in_host_memory_are_counted_and_stay_there():
    warm, _ = tier(total=10**8)
    pipeline = tiny_flux()
    recipe = Recipe(1, "bfloat16", offload="components", hot=("vae",))
    drawn = run_without_engine(pipeline)
    assert keep(warm, "it", pipeline, recipe)
    assert warm.bytes >= bytes_of([pipeline.vae, pipeline.transformer, pipeline.text_encoder_2])
    assert warm.bytes == warm._accelerator.pinned_bytes
    warm.take("it").apply(warm._accelerator)
    assert torch.equal(run_without_engine(pipeline), drawn)


# In the residency


def use(residency, name, plan):
    handle = residency.acquire(name, plan)
    handle.future.result(60)
    residency.release(handle)


@pytest.fixture
def engine():
    with Engine(device=FakeAccelerator(), threads=1) as engine:
        yield engine


@pytest.fixture
def residency(engine):
    pipeline = tiny_flux()
    size = bytes_of(
        [value for value in vars(pipeline).values() if isinstance(value, torch.nn.Module)]
    )
    residency = Residency(engine, budget_bytes=size * 3 // 2, warm_share=0.5)
    yield residency
    residency.close()


def test_evicted_weights_are_not_read_again(engine, residency, caplog):
    caplog.set_level(logging.INFO, "deployments.engine.loading.residency")
    loads, drawn = [], run_without_engine(tiny_flux())

    def load(*_):
        loads.append(1)
        return tiny_flux()

    warm_ups = []

    def warm_up(_):
        warm_ups.append(1)
        return call()

    plan = LoadPlan(load, warm_up=warm_up, fetch=Fetch(lambda: len(loads) == 0, no_fetch))
    use(residency, "a", plan)
    use(residency, "b", LoadPlan(lambda *_: tiny_flux()))
    assert (residency.find("a"), residency.warm) == (None, ["a"])
    use(residency, "a", plan)
    assert residency.warm == ["b"]
    assert len(loads) == len(warm_ups) == 1
    assert torch.equal(engine.submit(pipeline="a", **call()).result(60).images, drawn)
    assert "Loaded a (cold, from disk)" in caplog.text
    assert "Loaded a (warm, from host memory)" in caplog.text


def no_fetch(_):
    raise AssertionError("Its weights are in host memory.")


def test_a_load_from_host_memory_that_does_not_fit_is_tried_again_alone(engine, residency):
    for name in "ab":
        use(residency, name, LoadPlan(lambda *_: tiny_flux()))
    engine.accelerator.refuse(2)
    use(residency, "a", LoadPlan(no_fetch))
    assert torch.equal(
        engine.submit(pipeline="a", **call()).result(60).images, run_without_engine(tiny_flux())
    )


def test_a_pipeline_with_a_lora_comes_back_with_its_own_weights(tmp_path, engine, residency):
    lora = Lora(save_lora(tmp_path, tiny_flux(), 1), 0.7)
    plan = LoadPlan(lambda *_: tiny_flux())

    def drawn(loras):
        use(residency, "a", plan)
        return engine.submit(pipeline="a", loras=loras, **call()).result(60).images

    before = [drawn([lora]), drawn([])]
    use(residency, "b", LoadPlan(lambda *_: tiny_flux()))
    assert residency.warm == ["a"]
    assert all(map(torch.equal, [drawn([lora]), drawn([])], before))


def test_weights_that_leave_because_memory_ran_out_are_not_copied(engine, residency):
    use(residency, "a", LoadPlan(lambda *_: tiny_flux()))
    residency.evict_idle()  # on the engine's thread, which would wait for the copy
    assert (residency.find("a"), residency.warm) == (None, [])


def test_a_load_from_host_memory_is_seen_as_one(engine, residency):
    for name in "ab":
        use(residency, name, LoadPlan(lambda *_: tiny_flux()))
    seen = []
    plan = LoadPlan(lambda *_: tiny_flux())
    handle = residency.acquire("a", plan, lambda _: seen.append(residency.restoring))
    handle.future.result(60)
    assert ["a"] in seen
    assert residency.restoring == []


# Read to host memory before there is room on the device


def spare(residency, name, plan):
    """Load it for nobody, and return the error; None if it is on the device."""
    handle = residency.acquire(name, plan, spare=True)
    error = handle.future.exception(60)
    residency.release(handle)
    return error


@pytest.fixture
def room_for_one(engine):
    """Room on the device for one demo Flux, and in host memory for more."""
    size = placed_by(None, load_flux()).device_bytes
    residency = Residency(engine, budget_bytes=size * 3 // 2)
    host = Host(engine.accelerator, 10 * size)  # other tests may take this machine's memory
    residency._warm = WarmTier(engine.accelerator, 0.5, lambda: host.total, host.free)
    yield residency
    residency.close()


def load_flux(*_):
    return load_pipeline(Weights("deployments/demo/flux"))


@pytest.mark.long
def test_weights_for_which_there_is_no_room_yet_are_read_once_and_come_from_host_memory(
    engine, room_for_one, caplog
):
    caplog.set_level(logging.INFO, "deployments.engine.loading.residency")
    residency, loads, warm_ups = room_for_one, [], []

    def load(*_):
        loads.append(1)
        return load_flux()

    def warm_up(_):
        warm_ups.append(1)
        return call()

    claim = residency.acquire("a", LoadPlan(load_flux))
    claim.future.result(60)
    plan = LoadPlan(load, warm_up=warm_up)
    assert isinstance(spare(residency, "b", plan), NoSpareRoom)
    assert (residency.find("b"), residency.warm) == (None, ["b"])
    assert engine.accelerator.pinned_bytes >= residency._warm.bytes > 0
    assert spare(residency, "b", plan) is not None  # it stays there
    residency.release(claim)
    use(residency, "b", plan)
    assert len(loads) == len(warm_ups) == 1
    assert "b" not in residency.warm
    assert "Loaded b (warm, from host memory)" in caplog.text
    assert all(map(torch.equal, state(residency.find("b")), state(load_flux())))


def test_weights_that_wait_in_host_memory_drop_none_that_are_kept_there():
    warm, _ = tier(share=0.5, total=20_480)
    reader = WeightReader(warm._accelerator)

    def stage(name):
        return warm.stage(name, placed_by(None, linear(4096)), reader, lambda *_: None)

    assert keep(warm, "kept", linear(4096))
    assert keep(warm, "other", linear(4096))
    warm.dropped_last = frozenset({"kept"})
    assert stage("next")
    assert warm.names == ["kept", "next"]
    warm.dropped_last = frozenset({"kept", "next"})
    assert not stage("third")
    assert warm.names == ["kept", "next"]


def test_a_host_that_cannot_lock_so_much_memory_waits_with_the_weights():
    warm, _ = tier(total=10**8, host_bytes=2048)
    placement = placed_by(None, linear(4096))
    assert not warm.stage("it", placement, WeightReader(warm._accelerator), lambda *_: None)
    assert warm.names == []


@pytest.mark.long
def test_reading_to_host_memory_ends_when_a_request_comes_for_other_weights(room_for_one):
    residency = room_for_one
    old_claim = residency.acquire("a", LoadPlan(load_flux))
    old_claim.future.result(60)
    begun, go, on_bytes = threading.Event(), threading.Event(), residency._on_bytes

    def slowly(*progress):
        begun.set()
        go.wait(60)
        on_bytes(*progress)

    residency._on_bytes = slowly
    nobodys = residency.acquire("b", LoadPlan(load_flux), spare=True)
    assert begun.wait(60)
    claim = residency.acquire("c", LoadPlan(lambda *_: tiny_flux()))
    go.set()
    assert isinstance(nobodys.future.exception(60), SpareLoadStopped)
    assert residency.warm == []
    residency.release(old_claim)
    assert claim.future.result(60) is residency.find("c")


@pytest.mark.long
def test_components_that_stay_in_host_memory_are_locked_there_once():
    """The host can page-lock the weights once, and not twice."""
    size = placed_by(None, load_flux()).device_bytes
    buffers = THREADS * (PIECE_BYTES + 2 * BLOCK)
    warm, _ = tier(share=0.8, total=10**9, host_bytes=buffers + size * 3 // 2)
    reader = WeightReader(warm._accelerator)
    recipe = Recipe(48, "bfloat16", "components", hot=("vae",))
    with reading_later():
        placement = placed_by(recipe, load_flux())
    assert warm.stage("it", placement, reader, lambda *_: None)
    before = warm._accelerator.pinned_bytes
    assert before >= size
    warm.take("it").placement.apply(warm._accelerator, reader)
    warm.release("it")
    assert warm._accelerator.pinned_bytes <= before


def test_a_load_that_no_request_waits_for_drops_nothing_when_memory_runs_out(engine, room_for_one):
    residency = room_for_one
    use(residency, "idle", LoadPlan(tiny_flux_of))
    engine.accelerator.refuse(1)
    assert isinstance(spare(residency, "b", LoadPlan(tiny_flux_of)), NoSpareRoom)
    assert residency.find("idle") is not None
    use(residency, "b", LoadPlan(no_fetch))  # from host memory


def tiny_flux_of(*_):
    return tiny_flux()
