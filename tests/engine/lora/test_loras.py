"""Each generation with LoRAs of its own, in forwards that all share."""

import gc
import threading
import weakref

import pytest
import torch
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file, save_file

from deployments.engine.engine import Engine
from deployments.engine.loop.options import GenerationOptions
from deployments.engine.lora import attached, residency
from deployments.engine.lora.attached import LoraLayers
from deployments.engine.lora.format import Lora
from deployments.engine.merging.compile import compile_regions
from deployments.engine.merging.late_code import use_late_code
from serve_app.domain.endpoint import Recipe
from serve_app.domain.errors import (
    Cancelled,
    LoraRefused,
    Misconfigured,
    OutOfMemory,
    ReplicaDied,
)
from tests.engine.calls import call
from tests.engine.gate import Gate, merging_engine
from tests.engine.loops import Denoiser, Loop
from tests.engine.loras import FLUX_LAYERS, save_lora
from tests.engine.tiny import tiny_flux, tiny_sd3, tiny_sdxl
from tests.engine.tiny_qwen import tiny_flux2_klein, tiny_qwen_image, tiny_z_image
from tests.engine.with_loras import plain_with, relative, together

pytestmark = [
    pytest.mark.engine,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
    # peft, of the second LoRA that diffusers itself loads
    pytest.mark.filterwarnings("ignore:Already found a `peft_config`:UserWarning"),
    pytest.mark.usefixtures("one_torch_thread"),
]

MAKERS = {"flux": tiny_flux, "sdxl": tiny_sdxl}


@pytest.fixture(params=MAKERS, scope="module")
def make(request):
    return MAKERS[request.param]


@pytest.fixture(scope="module")
def pipeline(make):
    return make()


@pytest.fixture(scope="module")
def loras(pipeline, tmp_path_factory):
    """Four LoRAs of other ranks, one with an alpha of its own."""
    folder = tmp_path_factory.mktemp("loras")
    return [
        save_lora(folder, pipeline, seed, rank, alpha=alpha)
        for seed, rank, alpha in ((1, 4, None), (2, 2, 3), (3, 8, None), (4, 4, None))
    ]


def lora_layers(pipeline):
    component = getattr(pipeline, "transformer", None) or pipeline.unet
    return [module for module in component.modules() if isinstance(module, LoraLayer)]


@pytest.mark.variants(1)
@pytest.mark.parametrize(
    "meeting",
    [
        pytest.param(
            [[(0, 1)], [], [(1, 0.5)], [(1, -1.5)], [(0, 0.7), (2, 0.3)]], id="two at once"
        ),
        pytest.param(
            [[(0, 1)], [], [(1, 0.5)], [(1, -1.5)], [(2, 0.3)]],
            id="of other ranks",
            marks=pytest.mark.long,
        ),
        pytest.param(
            [[(0, 1)], [(3, 0.5)], [(0, -1.5)], [(3, 1)], [(0, 0.7)]],
            id="of one rank",
            marks=pytest.mark.long,
        ),
    ],
)
def test_each_gets_what_diffusers_makes_with_its_loras_alone(make, pipeline, loras, meeting):
    lora_lists = [[Lora(loras[number], scale) for number, scale in pairs] for pairs in meeting]
    wishes = [{"seed": seed, "steps": 4} for seed in range(len(lora_lists))]
    with merging_engine(pipeline, max_batch=8, threads=1, verify_merges=True) as engine:
        # Loaded before, so that the generations meet.
        for item in loras:
            engine.submit(loras=[Lora(item)], **call(steps=1)).result(60)
        before = engine.counts()["merged_calls"]
        results = together(
            engine,
            [
                {**call(**wish), "loras": chosen}
                for wish, chosen in zip(wishes, lora_lists, strict=True)
            ],
        )
        counts = engine.counts()
    expected = [
        plain_with(make, chosen, **wish) for wish, chosen in zip(wishes, lora_lists, strict=True)
    ]
    for images, item in zip(results, expected, strict=True):
        assert relative(images, item) <= 1e-5
    for place, chosen in enumerate(lora_lists):
        if chosen:  # or the test would prove nothing
            assert relative(plain_with(make, [], **wishes[place]), expected[place]) > 1e-3
    assert counts["merged_calls"] - before >= 4 * 4
    assert not {"failed when merged", "differs when merged"} & counts["not_merged"].keys()


@pytest.mark.long
def test_a_lora_whose_products_overflow_spoils_its_own_image_only(make, pipeline, tmp_path):
    broken, audio = (save_lora(tmp_path, pipeline, seed) for seed in (1, 2))
    save_file({name: tensor * 1e30 for name, tensor in load_file(broken).items()}, broken)
    lora_lists = [[Lora(broken)], [], [Lora(audio)]]
    calls = [{**call(seed=seed), "loras": lora_list} for seed, lora_list in enumerate(lora_lists)]
    with merging_engine(pipeline, max_batch=4, threads=1) as engine:
        for fields in calls:
            engine.submit(**{**fields, "num_inference_steps": 1}).result(60)
        results = together(
            engine,
            [{**arguments, "generator": make_generator(n)} for n, arguments in enumerate(calls)],
        )
        assert engine.counts()["merged_calls"] >= 9
    assert torch.isnan(results[0]).all()
    for seed in (1, 2):
        assert relative(results[seed], plain_with(make, lora_lists[seed], seed=seed)) <= 1e-5


@pytest.mark.long
@pytest.mark.parametrize("make_other", [tiny_sd3, tiny_qwen_image, tiny_flux2_klein, tiny_z_image])
def test_other_families_mix_them_too_or_know_that_they_cannot(make_other, tmp_path):
    pipeline = make_other()
    lora_lists = [[Lora(save_lora(tmp_path, pipeline, 1), 0.4)], [], []]
    lora_lists[2] = [Lora(save_lora(tmp_path, pipeline, 2), 0.2)]
    wishes = [{"seed": seed, "width": 32, "height": 32} for seed in range(3)]
    calls = [{**call(**wish), "loras": its} for wish, its in zip(wishes, lora_lists, strict=True)]
    with merging_engine(pipeline, max_batch=4, threads=1) as engine:
        for lora_list in lora_lists:
            engine.submit(**{**calls[0], "loras": lora_list, "num_inference_steps": 1}).result(60)
        results = together(
            engine, [{**fields, "generator": make_generator(n)} for n, fields in enumerate(calls)]
        )
        counts = engine.counts()
    for images, chosen, wish in zip(results, lora_lists, wishes, strict=True):
        assert relative(images, plain_with(make_other, chosen, **wish)) <= 1e-5
    if make_other is tiny_z_image:  # lays the rows of all end to end
        assert counts["merged_calls"] == 0
    else:
        assert counts["merged_calls"] >= 9
    assert not {"failed when merged", "differs when merged"} & counts["not_merged"].keys()


def test_where_rows_cannot_be_distinguished_those_with_the_same_loras_merge(tmp_path):
    pipeline = tiny_z_image()
    chosen = [Lora(save_lora(tmp_path, pipeline, 1), 0.4)]
    size = {"width": 32, "height": 32}
    with merging_engine(pipeline, max_batch=4, threads=1) as engine:
        engine.submit(loras=chosen, **call(steps=1, **size)).result(60)
        results = together(
            engine, [{**call(seed=seed, **size), "loras": chosen} for seed in range(2)]
        )
        assert engine.counts()["merged_calls"] == 6
    for seed, images in enumerate(results):
        assert relative(images, plain_with(tiny_z_image, chosen, seed=seed, **size)) <= 1e-5


def make_generator(seed):
    return torch.Generator().manual_seed(seed)


def test_alone_beside_loras_and_afterwards_it_is_bit_for_bit_what_it_was(make, pipeline, loras):
    plain = make()(**call()).images
    with Engine(pipeline, max_batch=4, threads=1) as engine:
        with_lora = engine.submit(loras=[Lora(loras[0])], **call()).result(60).images
        assert lora_layers(pipeline)
        assert torch.equal(engine.submit(**call()).result(60).images, plain)
        assert torch.equal(pipeline(**call()).images, plain)
        beside = engine.submit(loras=[Lora(loras[1])], **call(seed=2, steps=6))
        assert torch.equal(engine.submit(deterministic=True, **call()).result(60).images, plain)
        beside.result(60)
        again = engine.submit(loras=[Lora(loras[0])], **call()).result(60).images
    assert torch.equal(again, with_lora)
    assert torch.equal(with_lora, plain_with(make, [Lora(loras[0])]))
    assert not lora_layers(pipeline)
    assert torch.equal(pipeline(**call()).images, plain)


def test_one_that_waits_for_its_lora_holds_no_one_up_and_can_be_cancelled(pipeline, loras):
    with Engine(pipeline, max_batch=1, threads=1) as engine:
        free = threading.Event()
        engine._loras._loader.submit(free.wait, 60)  # the thread that loads is busy
        waiting = engine.submit(
            loras=[Lora(loras[0])], options=GenerationOptions(priority=9), **call()
        )
        doomed = engine.submit(loras=[Lora(loras[1])], **call())
        engine.submit(**call()).result(60)
        doomed.cancel()
        with pytest.raises(Cancelled):
            doomed.result(60)
        assert not waiting.done()
        free.set()
        waiting.result(60)


def test_another_scale_or_copy_of_a_file_takes_no_more_memory(pipeline, loras, tmp_path):
    copy = tmp_path / "copy.safetensors"
    copy.write_bytes(loras[0].read_bytes())
    with Engine(pipeline, max_batch=4, threads=1) as engine:
        for lora in (Lora(loras[0]), Lora(loras[0], 0.25), Lora(copy)):
            engine.submit(loras=[lora], **call(steps=1)).result(60)
        assert {len(layer.lora_A) for layer in lora_layers(pipeline)} == {1}


@pytest.mark.long
def test_those_unused_for_longest_make_room_and_those_in_use_are_waited_for(make, pipeline, loras):
    sizes = [path.stat().st_size for path in loras]
    with Engine(pipeline, max_batch=4, threads=1, lora_bytes=max(sizes)) as engine:
        running = [engine.submit(loras=[Lora(path)], **call()) for path in loras * 2]
        results = [generation.result(60).images for generation in running]
        assert {len(layer.lora_A) for layer in lora_layers(pipeline)} == {1}
    for images, file in zip(results, loras * 2, strict=True):
        assert relative(images, plain_with(make, [Lora(file)])) <= 1e-5


def test_one_that_was_loaded_for_a_cancelled_generation_makes_room(pipeline, loras, monkeypatch):
    real, loading, go_on = residency.load_layers, threading.Event(), threading.Event()

    def load_layers(*arguments):
        loading.set()
        assert go_on.wait(60)
        return real(*arguments)

    monkeypatch.setattr(residency, "load_layers", load_layers)
    room = max(path.stat().st_size for path in loras[:2])
    with Engine(pipeline, threads=1, lora_bytes=room) as engine:
        doomed = engine.submit(loras=[Lora(loras[0])], **call())
        assert loading.wait(60)
        doomed.cancel()
        with pytest.raises(Cancelled):
            doomed.result(60)
        go_on.set()
        assert engine.submit(loras=[Lora(loras[1])], **call()).result(60)


@pytest.mark.long
def test_one_that_is_paused_before_it_begins_leaves_the_room_for_loras_to_others(pipeline, loras):
    room = max(path.stat().st_size for path in loras[:2])
    with Engine(pipeline, threads=1, max_batch=4, lora_bytes=room) as engine:
        long = engine.submit(loras=[Lora(loras[0])], **call(steps=100_000))
        paused = engine.submit(loras=[Lora(loras[1])], **call())
        while engine._loras._next_to_load is None:
            assert not long.done()
        paused.pause()
        engine.submit(loras=[Lora(loras[0])], **call()).result(60)
        long.cancel()
        paused.resume()
        paused.result(60)


class TooLarge(Denoiser):
    def compute(self, latents, timestep):
        raise torch.OutOfMemoryError("No room.")


def test_idle_ones_go_when_memory_runs_out_and_come_again(pipeline, loras):
    with Engine(pipeline, threads=1) as engine:
        engine.add("large", Loop(TooLarge()))
        images = engine.submit(loras=[Lora(loras[0])], **call()).result(60).images
        assert lora_layers(pipeline)
        with pytest.raises(OutOfMemory):
            engine.submit(pipeline="large", start=torch.zeros(1, 4)).result(60)
        assert not lora_layers(pipeline)
        encoded = engine.counts()["prompts_encoded"]
        again = engine.submit(loras=[Lora(loras[0])], **call()).result(60).images
        assert torch.equal(again, images)
        assert engine.counts()["prompts_encoded"] == 2 * encoded


def test_a_lora_that_cannot_be_had_is_reported_and_harms_no_one(pipeline, loras, tmp_path):
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"nothing")
    pickle = tmp_path / "lora.bin"
    pickle.write_bytes(b"nothing")
    other = tmp_path / "other.safetensors"
    save_file({name: torch.ones(3, 3) for name in load_file(loras[0])}, other)
    encoder = tmp_path / "encoder.safetensors"
    name = "text_encoder.text_model.encoder.layers.9.self_attn.q_proj"
    pair = {f"{name}.lora_A.weight": torch.ones(2, 32), f"{name}.lora_B.weight": torch.ones(32, 2)}
    save_file({**load_file(loras[0]), **pair}, encoder)
    troubles = [
        (tmp_path / "none.safetensors", "cannot be read"),
        (broken, "cannot be read"),
        (pickle, "a pickle can run code"),
        (other, "for a model of another size"),
        (encoder, "has no text_encoder.text_model.encoder.layers.9"),
    ]
    with Engine(pipeline, threads=1) as engine:
        beside = engine.submit(loras=[Lora(loras[0])], **call(steps=5))
        for file, says in troubles:
            failed = engine.submit(loras=[Lora(loras[0]), Lora(file)], **call())
            with pytest.raises(LoraRefused, match=says) as caught:
                failed.result(60)
            assert caught.value.number == 1
        beside.result(60)
        assert engine.submit(loras=[Lora(loras[0])], **call()).result(60)
    assert not lora_layers(pipeline)


@pytest.mark.long
def test_where_applying_loras_failed_the_next_generation_has_them(
    make, pipeline, loras, monkeypatch
):
    failures = [OutOfMemory("There is no memory.")]

    def failing_once(component):
        if failures:
            raise failures.pop()
        return use_late_code(component)

    monkeypatch.setattr(attached, "use_late_code", failing_once)
    chosen = [Lora(loras[0]), Lora(loras[1], 0.5)]
    with Engine(pipeline, threads=1) as engine:
        with pytest.raises(OutOfMemory):
            engine.submit(loras=chosen, **call()).result(60)
        images = engine.submit(loras=chosen, **call()).result(60).images
    assert relative(images, plain_with(make, chosen)) <= 1e-5
    assert not lora_layers(pipeline)


def test_loras_larger_than_their_budget_are_refused(pipeline, loras):
    with Engine(pipeline, threads=1, lora_bytes=100) as engine:
        failed = engine.submit(loras=[Lora(loras[0])], **call())
        with pytest.raises(LoraRefused, match="adapter_bytes"):
            failed.result(60)


@pytest.mark.long
@pytest.mark.parametrize("offload", ["none", "components", "blocks"])
def test_weights_in_eight_bits_or_elsewhere_take_them_too(loras, make, offload):
    recipe = Recipe(12, "float8", offload, ("vae",) if offload == "blocks" else ())
    stored = make()
    with Engine(threads=1) as engine:
        engine.add("stored", stored, recipe)
        result = engine.submit(pipeline="stored", loras=[Lora(loras[0])], **call()).result(60)
        base = engine.submit(pipeline="stored", **call()).result(60)
    rounded = make()
    for name, component in rounded.components.items():
        if isinstance(component, torch.nn.Module):
            small = getattr(stored, name).state_dict()
            for key, tensor in component.state_dict().items():
                if small[key].dtype is torch.float8_e4m3fn:
                    tensor.copy_(tensor.to(torch.float8_e4m3fn).to(tensor.dtype))
    assert relative(base.images, rounded(**call()).images) <= 1e-5
    rounded.load_lora_weights(loras[0].parent, weight_name=loras[0].name)
    assert relative(result.images, rounded(**call()).images) <= 1e-5


def test_an_engine_that_is_closing_takes_no_more(pipeline, loras):
    with Engine(pipeline, threads=1) as engine:
        engine._loras.close()  # as its thread does, when a late caller is in submit
        with pytest.raises(ReplicaDied):
            engine.submit(loras=[Lora(loras[0])], **call())


@pytest.mark.long
def test_loras_load_while_all_places_are_taken(pipeline, loras):
    with Engine(pipeline, max_batch=1, threads=1) as engine:
        long = engine.submit(**call(steps=100_000))
        there = threading.Event()
        attach = engine._loras._attach
        engine._loras._attach = lambda *arguments: (attach(*arguments), there.set())
        following = engine.submit(loras=[Lora(loras[0])], **call())
        assert there.wait(60)
        assert not long.done()
        long.cancel()
        following.result(60)


@pytest.mark.long
def test_loras_come_and_go_while_others_are_looked_at(pipeline, loras):
    with Engine(pipeline, max_batch=4, threads=1, lora_bytes=2 * 2**20) as engine:
        running = [
            engine.submit(loras=[Lora(loras[n % 3], n / 7)], **call(steps=1)) for n in range(30)
        ]
        assert all(generation.result(60) for generation in running)


def test_a_pipeline_that_is_removed_takes_its_loras_with_it(make, loras):
    pipeline = make()
    with Engine(threads=1) as engine:
        engine.add("it", pipeline)
        engine.submit(pipeline="it", loras=[Lora(loras[0])], **call()).result(60)
        engine.remove("it")
        gone = weakref.ref(pipeline)
        del pipeline
        gc.collect()
        assert gone() is None
        assert not engine._loras._loaded


@pytest.mark.long
def test_alphas_by_layer_and_scaled_by_the_root_of_the_rank_count_as_in_diffusers(make, tmp_path):
    pipeline = make()
    layer = "attn.to_q" if hasattr(pipeline, "transformer") else "attn1.to_q"
    more = {"alpha_pattern": {layer: 5}, "use_rslora": True}
    file = save_lora(tmp_path, pipeline, 1, alpha=2, **more)
    with Engine(pipeline, threads=1) as engine:
        images = engine.submit(loras=[Lora(file)], **call()).result(60).images
    assert relative(images, plain_with(make, [Lora(file)])) <= 1e-5
    without = save_lora(tmp_path / "without", pipeline, 1, alpha=2)
    assert relative(images, plain_with(make, [Lora(without)])) > 1e-3


def test_a_pipeline_without_loras_says_so():
    with Engine(Loop(Denoiser()), threads=1) as engine:
        with pytest.raises(LoraRefused, match="Loop does not support LoRAs"):
            engine.submit(loras=[Lora("any.safetensors")], start=torch.ones(1, 1))


def test_loras_of_somebody_else_are_not_mixed_with(make, loras):
    pipeline = make()
    pipeline.load_lora_weights(loras[0].parent, weight_name=loras[0].name)
    with Engine(pipeline, threads=1) as engine:
        failed = engine.submit(loras=[Lora(loras[1])], **call())
        with pytest.raises(Misconfigured, match="unload_lora_weights"):
            failed.result(60)


@pytest.mark.long
def test_a_file_that_was_replaced_is_another_lora(make, pipeline, loras, tmp_path):
    file = tmp_path / "lora.safetensors"
    with Engine(pipeline, threads=1) as engine:
        for source in loras[:2]:
            new = tmp_path / "new"
            new.write_bytes(source.read_bytes())
            new.replace(file)
            images = engine.submit(loras=[Lora(file)], **call()).result(60).images
            assert relative(images, plain_with(make, [Lora(source)])) <= 1e-5


def test_an_evicted_lora_leaves_no_memory_behind(pipeline, loras):
    with Engine(pipeline, threads=1) as engine:
        engine.submit(loras=[Lora(path) for path in loras], **call()).result(60)
        layers = [weakref.ref(layer) for layer in lora_layers(pipeline)]
    gc.collect()
    assert layers
    assert not [layer for layer in layers if layer() is not None]


def state_of(pipeline):
    """Wrapped layers, compiled blocks."""
    blocks = [module for module in pipeline.transformer.modules() if module._compiled_call_impl]
    return len(lora_layers(pipeline)), len(blocks)


@pytest.mark.long
def test_without_loras_layers_are_the_models_own_again_and_blocks_run_compiled(tmp_path):
    pipeline = tiny_flux()
    own = [*pipeline.transformer.modules()]
    compile_regions(pipeline, "eager")
    lora = Lora(save_lora(tmp_path, pipeline, 1))
    with Engine(pipeline, threads=1) as engine:
        first = engine.submit(**call(steps=2)).result(60).images
        assert state_of(pipeline) == (0, 2)
        for _ in range(2):
            with_lora = engine.submit(loras=[lora], **call(steps=2)).result(60).images
            assert not torch.equal(with_lora, first)
            assert state_of(pipeline) == (len(FLUX_LAYERS), 0)
            assert torch.equal(engine.submit(**call(steps=2)).result(60).images, first)
            assert state_of(pipeline) == (0, 2)
        assert [*pipeline.transformer.modules()] == own
        again = engine.submit(loras=[lora], **call(steps=2)).result(60).images
        assert torch.equal(again, with_lora)
    assert [*pipeline.transformer.modules()] == own


def test_layers_stay_wrapped_from_one_generation_with_loras_to_the_next(tmp_path, monkeypatch):
    pipeline = tiny_flux()
    loras = [Lora(save_lora(tmp_path, pipeline, seed)) for seed in (1, 2)]
    unwrapped = []
    real = LoraLayers.unwrap

    def spied(self, component):
        before = len(lora_layers(pipeline))
        real(self, component)
        unwrapped.append(len(lora_layers(pipeline)) < before)

    monkeypatch.setattr(LoraLayers, "unwrap", spied)
    with Engine(pipeline, threads=1, max_batch=2) as engine:
        # At most two at a time; the third and the fourth follow, and others without run beside.
        gate = Gate(engine)
        running = [
            engine.submit(loras=[loras[n % 2]] if n != 2 else [], **call(seed=n, steps=2 + n))
            for n in range(5)
        ]
        gate.open()
        for generation in running:
            generation.result(60)
        assert not any(unwrapped)
        engine.submit(**call()).result(60)
        assert sum(unwrapped) == 1


def test_a_lora_that_is_evicted_while_set_aside_leaves_nothing(tmp_path):
    pipeline = tiny_flux()
    files = [save_lora(tmp_path, pipeline, seed, rank=8) for seed in (1, 2)]
    size = max(sum(tensor.nbytes for tensor in load_file(file).values()) for file in files)
    with Engine(pipeline, threads=1, lora_bytes=size) as engine:
        engine.submit(loras=[Lora(files[0])], **call(steps=1)).result(60)
        engine.submit(**call(steps=1)).result(60)
        assert not lora_layers(pipeline)
        (layers,) = engine._loras._layers.values()
        halves = [weakref.ref(layer.lora_A) for layer in layers._layers.values()]
        images = engine.submit(loras=[Lora(files[1])], **call(steps=2)).result(60).images
        gc.collect()
        assert not any(half() for half in halves)
    assert relative(images, plain_with(tiny_flux, [Lora(files[1])], steps=2)) <= 1e-5
