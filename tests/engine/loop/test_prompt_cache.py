"""Prompts are encoded once, and no one can see the difference."""

import pytest
import torch

from deployments.engine.engine import Engine
from deployments.engine.loop.encoders import PromptCache
from deployments.engine.loop.metrics import EngineCounters
from tests.engine.calls import call
from tests.engine.tiny import tiny_flux, tiny_sdxl

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


def cache(most_bytes=10**6):
    counts = EngineCounters()
    return PromptCache(most_bytes, counts), counts


@torch.no_grad()
def output_of(cache, encoder, input_ids, **more):
    key = cache.key(encoder, (input_ids,), more)
    output = cache.recall(key)
    if output is None:
        output = encoder(input_ids, **{name: it for name, it in more.items() if name != "unknown"})
        cache.keep(key, output)
    return output.last_hidden_state


@pytest.mark.parametrize(("make", "encoders"), [(tiny_flux, 2), (tiny_sdxl, 4)])
def test_images_are_the_same_and_encoders_run_once(make, encoders):
    pipeline = make()
    with Engine(pipeline, max_batch=1, threads=1) as engine:
        for seed in (1, 2, 3):
            made = engine.submit(**call(seed=seed, negative_prompt="a blue square")).result(60)
            plain = pipeline(**call(seed=seed, negative_prompt="a blue square"))
            assert torch.equal(made.images, plain.images)
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
    assert prompts._size <= 2 * size


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
