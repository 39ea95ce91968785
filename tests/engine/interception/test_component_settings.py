"""FreeU and the scales of IP-adapters lie on what all generations share, and are each one's own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pytest
import torch

from deployments.engine.engine import Engine
from deployments.engine.loop.options import GenerationOptions
from serve_app.domain.errors import Cancelled
from tests.engine.calls import call
from tests.engine.gate import Gate, merging_engine
from tests.engine.tiny import tiny_sdxl

pytestmark = [
    pytest.mark.engine,
    # diffusers' discrete solvers and numpy 2
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]

IMAGE_SIZE = 24  # of an image's embedding
SetUp = Callable[[Any], None]


def freeu(strength: float, pipeline: Any) -> None:
    pipeline.enable_freeu(s1=0.9 * strength, s2=0.2, b1=1.0 + strength, b2=1.4)


def scale(value: float, pipeline: Any) -> None:
    pipeline.set_ip_adapter_scale(value)


def only_above(value: float, pipeline: Any) -> None:
    pipeline.set_ip_adapter_scale({"up": value})


@pytest.fixture(scope="module")
def pipeline() -> Any:
    """With an IP-adapter."""
    sdxl = tiny_sdxl()
    unet = sdxl.unet
    width = unet.config["cross_attention_dim"]
    weights: dict[str, torch.Tensor] = {}
    places = [name for name in unet.attn_processors if "attn2" in name]
    for number, name in enumerate(unet.attn_processors):
        if name in places:
            sizes = unet.get_submodule(name.removesuffix(".processor")).to_k.weight.shape
            for part in ("k", "v"):
                weights[f"{number}.to_{part}_ip.weight"] = torch.randn(sizes) / 4
    projection = {
        "proj.weight": torch.randn(4 * width, IMAGE_SIZE) / 4,
        "proj.bias": torch.zeros(4 * width),
        "norm.weight": torch.ones(width),
        "norm.bias": torch.zeros(width),
    }
    unet._load_ip_adapter_weights([{"image_proj": projection, "ip_adapter": weights}])
    return sdxl


def wish(seed: int, **more: Any) -> dict[str, Any]:
    """Guided, and by an image."""
    image = torch.randn(1, 1, IMAGE_SIZE, generator=torch.Generator().manual_seed(seed))
    return call(
        seed=seed,
        steps=2 + seed,
        ip_adapter_image_embeds=[torch.cat([torch.zeros_like(image), image])],
        **more,
    )


def settings_of(pipeline: Any) -> list[Any]:
    blocks = [
        {n: vars(b).get(n) for n in ("s1", "s2", "b1", "b2")} for b in pipeline.unet.up_blocks
    ]
    scales = [list(getattr(p, "scale", ())) for p in pipeline.unet.attn_processors.values()]
    return [*blocks, *scales]


def plain(pipeline: Any, set_up: SetUp | None, **arguments: Any) -> torch.Tensor:
    """Without the engine."""
    if set_up is not None:
        set_up(pipeline)
    try:
        return pipeline(**arguments).images
    finally:
        pipeline.disable_freeu()
        pipeline.set_ip_adapter_scale(1.0)


def together(engine: Engine, set_ups: Sequence[SetUp | None]) -> list[torch.Tensor]:
    gate = Gate(engine)
    running = [
        engine.submit(options=GenerationOptions(set_up=set_up), **wish(seed))
        for seed, set_up in enumerate(set_ups, 1)
    ]
    gate.open()
    return [generation.result(60).images for generation in running]


CASES = {
    "FreeU": [partial(freeu, 1.0), partial(freeu, 0.5), None],
    "scales": [partial(scale, 0.2), partial(scale, 0.8), None],
    "scales by block": [partial(only_above, 0.2), partial(only_above, 0.8), partial(scale, 0.2)],
    "both": [partial(freeu, 1.0), partial(scale, 0.2), None],
}


@pytest.mark.variants(1)
@pytest.mark.parametrize("name", CASES)
def test_interleaved_each_has_its_own_and_makes_the_bits_of_a_plain_call(
    pipeline: Any, name: str
) -> None:
    usual = settings_of(pipeline)
    expected = [plain(pipeline, set_up, **wish(n)) for n, set_up in enumerate(CASES[name], 1)]
    unset = [plain(pipeline, None, **wish(n)) for n, _ in enumerate(CASES[name], 1)]
    with merging_engine(pipeline, max_batch=4, threads=1) as engine:
        results = together(engine, CASES[name])
        counts = engine.counts()
    for set_up, images, its, without in zip(CASES[name], results, expected, unset, strict=True):
        assert torch.equal(images, its)
        assert torch.equal(images, without) == (set_up is None)  # or nothing would be shown
    assert counts["merged_calls"] == 0
    assert settings_of(pipeline) == usual
    assert torch.equal(plain(pipeline, None, **wish(1)), unset[0])


@pytest.mark.long
@pytest.mark.parametrize("set_up", [partial(freeu, 1.0), partial(scale, 0.2)])
def test_those_with_equal_settings_share_their_forwards_and_no_others(
    pipeline: Any, set_up: SetUp
) -> None:
    expected = [
        plain(pipeline, settings, **wish(n)) for n, settings in enumerate([set_up, set_up, None], 1)
    ]
    with merging_engine(pipeline, max_batch=4, threads=1) as engine:
        results = together(engine, [set_up, set_up, None])
        counts = engine.counts()
    for images, its in zip(results, expected, strict=True):
        assert (images - its).abs().max() <= 1e-4
    assert counts["batch_sizes"] == {2: 3, 1: 1 + 5}


@pytest.mark.long
def test_a_setting_from_a_callback_holds_from_there_on_and_for_no_other_generation(
    pipeline: Any,
) -> None:
    usual = settings_of(pipeline)

    def change(its: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        if step == 0:
            freeu(1.0, its)
        if step == 1:
            scale(0.3, its)
            its.disable_freeu()
        return tensors

    expected = plain(pipeline, None, callback_on_step_end=change, **wish(2))
    others = [plain(pipeline, None, **wish(seed)) for seed in (1, 3)]
    with Engine(pipeline, max_batch=1, max_generations=4, threads=1) as engine:
        running = [engine.submit(**wish(seed)) for seed in (1, 3)]
        changing = engine.submit(callback_on_step_end=change, **wish(2))
        for generation, its in zip([*running, changing], [*others, expected], strict=True):
            assert torch.equal(generation.result(60).images, its)
    assert not torch.equal(expected, plain(pipeline, None, **wish(2)))
    assert settings_of(pipeline) == usual


def test_nothing_stays_behind_when_one_fails_or_is_cancelled(pipeline: Any) -> None:
    usual = settings_of(pipeline)

    def fail(its: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        scale(0.1, its)
        raise ZeroDivisionError

    with Engine(pipeline, threads=1) as engine:
        failing = engine.submit(
            options=GenerationOptions(set_up=partial(freeu, 1.0)),
            callback_on_step_end=fail,
            **wish(1),
        )
        stopped = engine.submit(options=GenerationOptions(set_up=partial(scale, 0.5)), **wish(2))
        stopped.cancel()
        refused = engine.submit(
            options=GenerationOptions(set_up=partial(scale, [1.0, 2.0])), **wish(3)
        )  # it has one adapter
        ends = ((failing, ZeroDivisionError), (stopped, Cancelled), (refused, ValueError))
        for generation, error in ends:
            with pytest.raises(error):
                generation.result(60)
    assert settings_of(pipeline) == usual


def test_settings_that_the_pipeline_came_with_are_everybodys(pipeline: Any) -> None:
    freeu(0.7, pipeline)
    try:
        expected = pipeline(**wish(1)).images
        with Engine(pipeline, threads=1) as engine:
            assert torch.equal(engine.submit(**wish(1)).result(60).images, expected)
            other = engine.submit(
                options=GenerationOptions(set_up=lambda its: its.disable_freeu()), **wish(1)
            ).result(60)
        again = pipeline(**wish(1)).images
    finally:
        pipeline.disable_freeu()
    assert torch.equal(other.images, pipeline(**wish(1)).images)
    assert torch.equal(again, expected)
