"""Prompts are encoded once, and no one can see the difference."""

import pytest
import torch

from deployments.engine.accelerator.selection import accelerator_for
from deployments.engine.engine import Engine
from deployments.engine.loop.metrics import EngineCounters
from deployments.engine.loop.options import EngineOptions, GenerationOptions
from deployments.engine.loop.prompt_cache import PromptCache, prompt_cache_of
from tests.engine.calls import call
from tests.engine.conformance.case import Wish
from tests.engine.conformance.families import ltx2
from tests.engine.gate import Gate
from tests.engine.tiny import tiny_flux, tiny_sdxl
from tests.engine.tiny_qwen import tiny_flux2_klein, tiny_qwen_image, tiny_z_image
from tests.fakes.accelerator import FakeAccelerator
from tests.fakes.small_device import SmallDevice

pytestmark = [
    pytest.mark.engine,
    # diffusers' discrete solvers and numpy 2
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]


@pytest.fixture(scope="module")
def encoder():
    return tiny_flux().text_encoder_2


def ids(*numbers):
    return torch.tensor([numbers])


def read(tensor):
    return tensor.view(tensor.shape)


def cache(most_bytes=10**6, host_bytes=0):
    counts = EngineCounters()
    return PromptCache(accelerator_for("cpu"), most_bytes, counts, host_bytes), counts


def whole_output_of(cache, encoder, input_ids, **more):
    @torch.no_grad()  # as on the engine's thread
    def compute():
        return encoder(input_ids, **{name: it for name, it in more.items() if name != "unknown"})

    key = cache.key(encoder, (input_ids,), more)
    output = cache.recall(key, compute)
    return cache.keep(key, compute(), compute) if output is None else output


def output_of(cache, encoder, input_ids, **more):
    return read(whole_output_of(cache, encoder, input_ids, **more).last_hidden_state)


@pytest.mark.parametrize(("make", "encoders"), [(tiny_flux, 2), (tiny_sdxl, 4)])
def test_images_are_the_same_and_encoders_run_once(make, encoders):
    pipeline = make()
    with Engine(pipeline, max_batch=1, threads=1) as engine:
        for seed in (1, 2, 3):
            result = engine.submit(**call(seed=seed, negative_prompt="a blue square")).result(60)
            plain = pipeline(**call(seed=seed, negative_prompt="a blue square"))
            assert torch.equal(result.images, plain.images)
        counts = engine.counts()
    assert counts["prompts_encoded"] == encoders
    assert counts["prompts_remembered"] == 2 * encoders


def test_another_prompt_or_option_is_encoded_anew(encoder):
    prompts, counts = cache()
    for _ in range(2):
        output_of(prompts, encoder, ids(1, 2))
        output_of(prompts, encoder, ids(1, 3))
        output_of(prompts, encoder, ids(1, 2), output_hidden_states=True)
        output_of(prompts, encoder, ids(1, 2), attention_mask=ids(1, 0))
    assert (counts.prompts_encoded, counts.prompts_remembered) == (4, 4)


def test_writing_into_a_cached_result_harms_no_one(encoder):
    prompts, _ = cache()
    first = output_of(prompts, encoder, ids(1, 2))
    expected = first.clone()
    first += 1
    second = output_of(prompts, encoder, ids(1, 2))
    assert torch.equal(second, expected)
    second += 1
    assert torch.equal(output_of(prompts, encoder, ids(1, 2)), expected)


def test_weights_that_change_are_seen():
    prompts, counts = cache()
    encoder = tiny_flux().text_encoder_2
    before = output_of(prompts, encoder, ids(1, 2))
    with torch.no_grad():
        next(encoder.parameters()).mul_(2)
    assert not torch.equal(output_of(prompts, encoder, ids(1, 2)), before)
    assert counts.prompts_encoded == 2


def test_no_more_bytes_are_kept_than_may_be(encoder):
    size = output_of(cache()[0], encoder, ids(1, 2)).numel() * 4
    prompts, counts = cache(2 * size)
    for number in (1, 2, 3, 3, 2, 1):
        output_of(prompts, encoder, ids(number, number))
    assert (counts.prompts_encoded, counts.prompts_remembered) == (4, 2)
    assert prompts.size <= 2 * size


@pytest.mark.parametrize("how", ["training", "hook", "adapter", "no bytes", "opaque"])
def test_what_may_differ_from_call_to_call_is_not_kept(how):
    prompts, counts = cache(0 if how == "no bytes" else 10**6)
    encoder = tiny_flux().text_encoder_2
    more = {}
    if how == "training":
        encoder.train()
    elif how == "hook":
        encoder.register_forward_hook(lambda *_: None)
    elif how == "adapter":
        encoder.peft_config = {}
    elif how == "opaque":
        more = {"unknown": object()}
    for _ in range(2):
        output_of(prompts, encoder, ids(1, 2), **more)
    assert counts.prompts_encoded == counts.prompts_remembered == 0


READERS = {
    "the last one": lambda output: read(output.last_hidden_state),
    "by index": lambda output: read(output[0]),
    "a layer": lambda output: read(output.hidden_states[-2]),
    "all layers, in C": lambda output: torch.stack(output.hidden_states),
    "through a tuple": lambda output: read(output.to_tuple()[0]),
    "into a list": lambda output: torch.cat(list(output.hidden_states)),
    "by name": lambda output: read(output["last_hidden_state"]),
    "nothing but the shape": lambda output: torch.tensor(output.last_hidden_state.shape),
}


@pytest.mark.variants(16)
@pytest.mark.parametrize("how", READERS)
@pytest.mark.parametrize("before", READERS)
def test_whatever_was_read_before_others_read_the_same_bits(encoder, how, before):
    prompts, _ = cache()
    READERS[before](whole_output_of(prompts, encoder, ids(1, 2), output_hidden_states=True))
    with torch.no_grad():
        expected = READERS[how](encoder(ids(1, 2), output_hidden_states=True))
    for _ in range(2):
        result = READERS[how](
            whole_output_of(prompts, encoder, ids(1, 2), output_hidden_states=True)
        )
        assert type(result) is torch.Tensor
        assert torch.equal(result, expected)


def test_what_is_not_kept_is_computed_once_and_kept_then(encoder):
    prompts, counts = cache()
    tensor = output_of(prompts, encoder, ids(1, 2), output_hidden_states=True)
    assert prompts.size == tensor.nbytes
    for _ in range(3):
        output = whole_output_of(prompts, encoder, ids(1, 2), output_hidden_states=True)
        torch.stack(output.hidden_states)
    assert counts.prompts_encoded == 2
    assert prompts.size == tensor.nbytes * len(output.hidden_states)  # the last is one of them


def test_what_leaves_the_device_waits_in_host_memory(encoder):
    size = output_of(cache()[0], encoder, ids(1, 2)).nbytes
    prompts, counts = cache(size, host_bytes=2 * size)
    outputs = [output_of(prompts, encoder, ids(n, n)) for n in (1, 2, 3)]
    assert (prompts.size, prompts.host_size) == (size, 2 * size)
    again = [output_of(prompts, encoder, ids(n, n)) for n in (1, 2, 3)]
    assert (counts.prompts_encoded, counts.prompts_remembered) == (3, 3)
    assert all(torch.equal(output, other) for output, other in zip(outputs, again, strict=True))
    output_of(prompts, encoder, ids(4, 4))  # now 1 has been unused for longest
    output_of(prompts, encoder, ids(1, 1))
    assert (prompts.size, prompts.host_size) == (size, 2 * size)
    assert counts.prompts_encoded == 5


def test_an_output_larger_than_the_devices_limit_is_kept_in_host_memory(encoder):
    """Tensor by tensor: it is in host memory from the one on that goes over the limit."""

    def all_of(prompts, *numbers):
        output = whole_output_of(prompts, encoder, ids(*numbers), output_hidden_states=True)
        return [read(state) for state in output.hidden_states]

    plain = all_of(cache()[0], 1, 2)
    size = sum(tensor.nbytes for tensor in {id(state): state for state in plain}.values())
    state_bytes = plain[0].nbytes
    for most_bytes in (
        state_bytes // 2,
        state_bytes,
        size - 1,
    ):  # none of them fits, one, all but one
        prompts, counts = cache(most_bytes, host_bytes=2 * size)
        results = [all_of(prompts, 1, 2) for _ in range(3)]
        assert (counts.prompts_encoded, counts.prompts_remembered) == (1, 2)
        assert (prompts.size, prompts.host_size) == (0, size)
        for states in results:
            assert all(torch.equal(a, b) for a, b in zip(states, plain, strict=True))
            states[0].fill_(7)  # a caller's own
        for number in (3, 4):
            all_of(prompts, number, number)
        assert prompts.host_size <= 2 * size
        all_of(prompts, 1, 2)  # the longest unused of three
        assert counts.prompts_encoded == 4


def test_an_output_that_fits_nowhere_is_encoded_each_time(encoder):
    size = output_of(cache()[0], encoder, ids(1, 2)).nbytes
    prompts, counts = cache(size - 1, host_bytes=size - 1)
    for _ in range(2):
        output_of(prompts, encoder, ids(1, 2))
    assert (prompts.size, prompts.host_size, counts.prompts_encoded) == (0, 0, 2)


def test_short_of_memory_the_device_is_emptied_and_nothing_forgotten(encoder):
    prompts, counts = cache(host_bytes=10**6)
    output_of(prompts, encoder, ids(1, 2))
    prompts.clear()
    assert prompts.size == 0
    output_of(prompts, encoder, ids(1, 2))
    assert (counts.prompts_encoded, counts.prompts_remembered) == (1, 1)


def test_a_gpu_gives_a_hundredth_and_a_cpu_64_mib():
    gpu = prompt_cache_of(
        EngineOptions(), FakeAccelerator(SmallDevice(80 * 10**9)), EngineCounters()
    )
    cpu = prompt_cache_of(EngineOptions(), accelerator_for("cpu"), EngineCounters())
    assert gpu._most_bytes == 800 * 10**6
    assert cpu._most_bytes == 64 * 2**20


def small_call(prompt="a red circle", seed=1):
    return {
        "prompt": prompt,
        "width": 32,
        "height": 32,
        "num_inference_steps": 1,
        "generator": torch.Generator().manual_seed(seed),
        "output_type": "pt",
    }


# Layers that the pipeline reads; in the tiny klein, two of its three are one.
LANGUAGE_MODELS = [(tiny_z_image, 1, 3), (tiny_flux2_klein, 3, 29), (tiny_qwen_image, 1, 2)]


@pytest.mark.long
@pytest.mark.parametrize(("make", "layers_read", "layers"), LANGUAGE_MODELS)
def test_of_a_language_model_only_the_layers_that_are_read_are_kept(make, layers_read, layers):
    pipeline = make()
    plain = [pipeline(**small_call(seed=seed)).images for seed in (1, 2)]
    whole = []
    real = pipeline.text_encoder.forward

    def spied(*arguments, **named):
        output = real(*arguments, **named)
        assert len(output.hidden_states) == layers
        whole.append(output.hidden_states[0].nbytes)
        return output

    pipeline.text_encoder.forward = spied
    with Engine(pipeline, threads=1) as engine:
        first = engine.submit(**small_call(seed=1)).result(60).images
        encoded = len(whole)  # the prompt, and maybe the empty negative prompt
        second = engine.submit(**small_call(seed=2)).result(60).images
        kept = engine._loop.prompts.size
        counts = engine.counts()
    assert len(whole) == encoded, "the second request was no hit"
    assert (counts["prompts_encoded"], counts["prompts_remembered"]) == (encoded, encoded)
    assert kept == layers_read * sum(whole)
    assert torch.equal(first, plain[0])
    assert torch.equal(second, plain[1])


@pytest.mark.long
def test_the_prompts_of_ltx2_are_remembered_in_host_memory():
    """It reads all hidden states: 368 MiB of its real encoder; a GPU of 24 GB gives 240 MB."""
    case = ltx2.CASES[0]
    pipeline, wish = case.build(), Wish("a red dog", seed=1, steps=1)
    plain = pipeline(**case.arguments(wish))[0]
    device = FakeAccelerator(SmallDevice(10**9), discrete=False)
    with Engine(pipeline, device=device, threads=1, prompt_cache_bytes=100) as engine:
        results = [engine.submit(**case.arguments(wish)).result(60)[0] for _ in range(2)]
        counts, prompts = engine.counts(), engine._loop.prompts
        assert prompts.size == 0
        assert prompts.host_size > 100
    assert counts["prompts_encoded"] == counts["prompts_remembered"] > 0
    for result in results:
        assert torch.equal(torch.as_tensor(result), torch.as_tensor(plain))


def test_equal_prompts_of_other_scopes_are_encoded_again():
    """Neither one after the other nor together do they tell of each other."""
    reference, encoded = {}, {}
    with Engine(tiny_sdxl(), threads=1, max_batch=4) as engine:
        for scope in ("a", "b", "a", "b", "", ""):
            options = GenerationOptions(cache_scope=scope)
            images = engine.submit(**small_call(), options=options).result(60).images
            assert torch.equal(reference.setdefault("images", images), images)
            counts = engine.counts()
            encoded.setdefault(scope, []).append(counts["prompts_encoded"])
        once = encoded["a"][0]
        assert encoded == {"a": [once, 2 * once], "b": [2 * once, 2 * once], "": [3 * once] * 2}
        gate = Gate(engine)
        together = small_call(prompt="another circle")
        running = [
            engine.submit(**together, options=GenerationOptions(cache_scope=scope))
            for scope in ("a", "b")
        ]
        gate.open()
        assert all(generation.result(60) for generation in running)
        assert engine.counts()["prompts_encoded"] > 4 * once


@pytest.mark.long
@pytest.mark.parametrize("make", [tiny_z_image, tiny_sdxl])
def test_equal_prompts_that_come_together_are_encoded_once(make):
    pipeline = make()
    with Engine(pipeline, threads=1, max_batch=4) as engine:
        gate = Gate(engine)
        running = [engine.submit(**small_call(seed=seed)) for seed in range(4)]
        gate.open()
        results = [generation.result(60).images for generation in running]
        encoded = engine.counts()["prompts_encoded"]
    with Engine(pipeline, threads=1) as other:
        other.submit(**small_call()).result(60)
        assert other.counts()["prompts_encoded"] == encoded
    for seed, images in enumerate(results):
        assert (images - pipeline(**small_call(seed=seed)).images).abs().max() <= 1e-4
