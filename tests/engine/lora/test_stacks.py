"""What is kept of LoRAs from one step to the next: indices, factors and stacked weights."""

import threading

import pytest
import torch
from accelerate import init_empty_weights
from safetensors.torch import load_file

from deployments.engine.engine import Engine
from deployments.engine.lora import layers
from deployments.engine.lora.format import Lora
from deployments.engine.lora.rows import LoraRows, Stacks
from deployments.engine.threads import ONE_BUILDER
from serve_app.domain.errors import LoraRefused, OutOfMemory
from tests.engine.calls import call
from tests.engine.loops import Denoiser, Loop
from tests.engine.loras import FLUX_LAYERS, save_lora
from tests.engine.tiny import tiny_flux
from tests.engine.with_loras import plain_with, relative, together
from tests.fakes.accelerator import FakeAccelerator

pytestmark = [
    pytest.mark.engine,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
    pytest.mark.usefixtures("one_torch_thread"),
]


@pytest.fixture(scope="module")
def loras(tmp_path_factory):
    folder = tmp_path_factory.mktemp("loras")
    return [
        Lora(save_lora(folder, tiny_flux(), seed, rank), 0.5) for seed, rank in ((1, 4), (2, 2))
    ]


@pytest.fixture
def stacked_ranks(monkeypatch):
    """Ranks of what is stacked, for each time."""
    ranks = []

    def counted(weights):
        ranks.append([len(weight) for weight in weights])
        return real(weights)

    real = layers.stack_padded
    monkeypatch.setattr(layers, "stack_padded", counted)
    return ranks


def files_bytes(loras):
    return sum(half.nbytes for lora in loras for half in load_file(lora.file).values())


def images(loras, steps, **options):
    """Two generations with a LoRA each and one without, in common forwards."""
    lora_lists = [[loras[0]], [], [loras[1]]]
    with Engine(tiny_flux(), max_batch=4, threads=1, limit_rows=False, **options) as engine:
        for lora in loras:
            engine.submit(loras=[lora], **call(steps=1)).result(60)
        calls = [
            {**call(seed=seed, steps=steps), "loras": its} for seed, its in enumerate(lora_lists)
        ]
        results = together(engine, calls)
        assert engine.counts()["merged_calls"] >= 3 * steps
    return results


# Two at most: the generations may be in another order in their first step.
ORDERS = 2


def test_steps_like_the_one_before_stack_and_copy_nothing(loras, stacked_ranks):
    accelerator = FakeAccelerator()
    images(loras, 9, device=accelerator)
    assert len(stacked_ranks) <= ORDERS * 2 * len(FLUX_LAYERS)
    copies = [
        operation
        for operation in accelerator.operations
        if operation == ("compute", "copy to device")
    ]
    assert 1 <= len(copies) <= ORDERS  # the factors, which all layers share


def test_kept_stacks_give_the_bits_of_those_that_are_stacked_anew(loras, stacked_ranks):
    kept = images(loras, 6)
    stacked_ranks.clear()
    anew = images(loras, 6, lora_bytes=files_bytes(loras))
    assert len(stacked_ranks) >= 6 * 2 * len(FLUX_LAYERS)
    for result, other in zip(kept, anew, strict=True):
        assert torch.equal(result, other)


def test_nothing_is_kept_after_the_generations(loras, monkeypatch):
    most = []
    real = LoraRows.keep

    def spied(self, *arguments):
        real(self, *arguments)
        most.append(self.kept_bytes)

    monkeypatch.setattr(LoraRows, "keep", spied)
    with Engine(tiny_flux(), max_batch=4, threads=1, limit_rows=False) as engine:
        rows = engine._loras.rows
        for lora in loras:
            engine.submit(loras=[lora], **call(steps=1)).result(60)
        together(engine, [{**call(seed=n), "loras": [adapter]} for n, adapter in enumerate(loras)])
        engine.submit(**call(steps=1)).result(60)
        assert max(most) > 0
        assert rows.kept_bytes == 0
        assert not rows._lineups


@pytest.mark.long
def test_idle_loras_make_room_for_stacks_and_stacks_for_loras_in_use(
    loras, stacked_ranks, tmp_path
):
    idle = [Lora(save_lora(tmp_path, tiny_flux(), seed, 8)) for seed in (5, 6)]
    results = images(loras, 8)
    room = files_bytes(loras) + files_bytes(idle)
    stacked_ranks.clear()
    with Engine(tiny_flux(), max_batch=4, threads=1, limit_rows=False, lora_bytes=room) as engine:
        for lora in (*idle, *loras):
            engine.submit(loras=[lora], **call(steps=1)).result(60)
        lora_lists = [[loras[0]], [], [loras[1]]]
        calls = [{**call(seed=seed, steps=8), "loras": its} for seed, its in enumerate(lora_lists)]
        again = together(engine, calls)
        here = {file.file.file for it in engine._loras._loaded.values() for file in it.values()}
        assert idle[0].file not in here
        # The first step or two found no room.
        assert len(stacked_ranks) <= (ORDERS + 2) * 2 * len(FLUX_LAYERS)
        assert engine.submit(loras=idle, **call(steps=1)).result(60)
    for result, other in zip(results, again, strict=True):
        assert torch.equal(result, other)


class Shortage(Denoiser):
    """Runs out of memory while others run beside it."""

    def compute(self, latents, timestep):
        raise torch.OutOfMemoryError("No room.")


@pytest.mark.long
def test_stacks_go_when_memory_is_short_and_are_not_kept_again_by_those_that_run(loras):
    with Engine(tiny_flux(), max_batch=4, threads=1, limit_rows=False) as engine:
        engine.add("large", Loop(Shortage()))
        rows = engine._loras.rows
        for item in loras:
            engine.submit(loras=[item], **call(steps=1)).result(60)
        running = [
            engine.submit(loras=[lora], **call(seed=n, steps=100_000))
            for n, lora in enumerate(loras)
        ]
        while not rows.kept_bytes:
            assert not any(generation.done() for generation in running)
        failed = engine.submit(pipeline="large", start=torch.zeros(1, 4))
        while rows.kept_bytes:
            assert not any(generation.done() for generation in running)
        before = engine.counts()["merged_calls"]
        while engine.counts()["merged_calls"] < before + 8:
            assert not any(generation.done() for generation in running)
        assert rows.kept_bytes == 0
        for item in running:
            item.cancel()
        with pytest.raises(OutOfMemory):
            failed.result(60)


def stacks(size):
    return Stacks(torch.zeros(size, dtype=torch.uint8), torch.zeros(0))


def test_stacks_of_other_generations_make_room_and_those_of_the_same_step_do_not():
    rows = LoraRows(FakeAccelerator())
    rows.allow(100)
    with rows.use_mixes(["a", "b"]):
        older = rows.lineup
        older.stacks_of("one", lambda _: stacks(60))
    with rows.use_mixes(["a", ""]):
        newer = rows.lineup
        newer.stacks_of("one", lambda _: stacks(70))
        assert (rows.kept_bytes, [*older.stacks]) == (70, [])
        newer.stacks_of("two", lambda _: stacks(40))
        assert (rows.kept_bytes, [*newer.stacks], rows.missing_bytes) == (70, ["one"], 40)
    rows.allow(-1)
    assert rows.kept_bytes == 0
    rows.allow(100)
    newer.stacks_of("two", lambda _: stacks(40))
    rows.forget("b")
    assert rows.kept_bytes == 40
    rows.forget("a")
    assert rows.kept_bytes == 0


def test_one_lora_that_is_too_large_is_named_before_any_step(loras):
    small, large = sorted(loras, key=lambda lora: lora.file.stat().st_size)
    limit = files_bytes([small])
    with Engine(tiny_flux(), threads=1, lora_bytes=limit) as engine:
        failed = engine.submit(loras=[small, large], **call())
        with pytest.raises(LoraRefused, match=r"needs .* MB, which exceeds .*adapter_bytes") as it:
            failed.result(60)
        assert it.value.number == 1
        assert str(large.file) in it.value.message
        assert engine.counts()["forwards"] == 0


def test_without_a_limit_the_device_says_how_much_loras_may_take():
    accelerator = FakeAccelerator()
    accelerator.adapters_budget = lambda: 1000
    assert Engine(device=accelerator)._loras._budget == 1000
    assert Engine(device=accelerator, lora_bytes=7)._loras._budget == 7


def test_loras_are_loaded_while_another_model_is_read_from_disk(loras):
    """As diffusers reads one: no parameter that is registered meanwhile keeps its contents."""
    reads, read = threading.Event(), threading.Event()

    def load():
        with ONE_BUILDER, init_empty_weights():
            reads.set()
            read.wait(60)

    loader = threading.Thread(target=load)
    with Engine(tiny_flux(), threads=1) as engine:
        loader.start()
        try:
            assert reads.wait(60)
            image = engine.submit(loras=[loras[0]], **call()).result(60).images
        finally:
            read.set()
            loader.join()
    assert relative(image, plain_with(tiny_flux, [loras[0]])) <= 1e-5
