"""Drafts and forks of the demo models: they go on as if they had never stopped, or with another
prompt, guidance, LoRA or noise; and what they cannot do is refused with a sentence."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from diffusers import EulerDiscreteScheduler

from deployments.engine.drafting.draft import Draft, DraftPoint
from deployments.engine.drafting.fork import Fork
from deployments.engine.engine import Engine
from deployments.engine.loading.loader import load_pipeline
from deployments.engine.loop.options import GenerationOptions
from deployments.engine.lora.format import Lora
from deployments.engine.memory.admission import growth
from serve_app.domain.endpoint import Weights
from serve_app.domain.errors import ForkRefused
from serve_app.domain.progress import Progress
from tests.engine.demo_calls import CALLS, DEMO, call, made_of
from tests.engine.gate import Gate, merging_engine
from tests.engine.loras import save_lora
from tests.samples import sample_params

pytestmark = [
    pytest.mark.engine,
    # torch, transformers and diffusers deprecate names of their own while they load.
    pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning"),
]

STEPS = 8
QUARTER = GenerationOptions(draft=DraftPoint(0.25))


def draft_of(engine: Engine, options: GenerationOptions = QUARTER, **call_: Any) -> Draft:
    drawn = engine.submit(options=options, **call_).result(60)
    assert isinstance(drawn, Draft)
    return Draft.of_bytes(drawn.to_bytes())


def from_(draft: Draft, **how: Any) -> GenerationOptions:
    return GenerationOptions(fork=Fork(draft, **how))


@pytest.mark.variants(1)
@pytest.mark.parametrize("family", sample_params(CALLS, "flux", "sdxl"))
def test_a_generation_goes_on_from_its_draft_with_the_same_bits_and_the_steps_that_are_left(
    family: str,
) -> None:
    pipeline = load_pipeline(Weights(str(DEMO / family)))
    with Engine(pipeline, threads=1) as engine:
        whole = made_of(engine.submit(**call(family, 1, STEPS)).result(60))
        before = engine.counts()["steps"]
        draft = draft_of(engine, **call(family, 1, STEPS))
        assert (draft.step, draft.steps, engine.counts()["steps"] - before) == (2, STEPS, 2)
        assert draft.noise is not None
        assert 0.5 < draft.noise < 1
        same = engine.submit(options=from_(draft), **call(family, 1, STEPS))
        assert torch.equal(made_of(same.result(60)), whole)
        assert engine.counts()["steps"] - before == STEPS
        assert same.steps_done == STEPS

        other = call(family, 1, STEPS) | {"prompt": "a green star moving up"}
        forked = made_of(engine.submit(options=from_(draft), **other).result(60))
        assert not torch.equal(forked, whole)

        glance = engine.submit(options=from_(draft, preview=True), **call(family, 1, STEPS))
        shown = made_of(glance.result(60))
        assert engine.counts()["steps"] - before == 2 * STEPS - 2  # the preview made none
        assert shown.shape == whole.shape
        noise = made_of(engine.submit(**call(family, 1, 1)).result(60))
        assert (shown - whole).abs().mean() < (noise - whole).abs().mean() + 0.2


@pytest.fixture(scope="module")
def flux() -> Iterator[Engine]:
    with merging_engine(load_pipeline(Weights(str(DEMO / "flux"))), threads=1) as engine:
        yield engine


@pytest.fixture(scope="module")
def flux_draft(flux: Engine) -> Draft:
    return draft_of(flux, **call("flux", 1, STEPS))


@pytest.mark.long
def test_the_noise_level_ends_a_draft_where_it_comes_before_the_share(flux: Engine) -> None:
    at = GenerationOptions(draft=DraftPoint(share=0.75, noise=0.8))
    assert draft_of(flux, at, **call("flux", 1, STEPS)).step == 2  # sigma 0.75
    at = GenerationOptions(draft=DraftPoint(share=0.75, noise=0.1))
    assert draft_of(flux, at, **call("flux", 1, STEPS)).step == 6


@pytest.mark.variants(1)
@pytest.mark.parametrize(("share", "step"), [(0.0, 1), (0.01, 1), (0.5, 4), (1.0, 7)])
def test_a_draft_has_a_step_at_least_and_leaves_one(flux: Engine, share: float, step: int) -> None:
    at = GenerationOptions(draft=DraftPoint(share))
    assert draft_of(flux, at, **call("flux", 1, STEPS)).step == step


@pytest.mark.long
def test_parts_of_a_generation_are_no_measure_of_the_memory_of_a_whole_one(
    flux: Engine, flux_draft: Draft
) -> None:
    """A draft is not decoded, and its preview calls no denoiser."""
    ways = [GenerationOptions(), QUARTER, from_(flux_draft, preview=True), from_(flux_draft)]
    going = [flux.submit(options=way, **call("flux", 1, STEPS)) for way in ways]
    whole, draft, preview, fork = (running.memory_kind for running in going)
    assert fork == whole
    assert len({whole, draft, preview}) == 3
    assert growth(draft, whole) is None
    assert growth(preview, whole) is None
    for generation in going:
        generation.result(60)


@pytest.mark.long
def test_drafts_and_forks_share_forwards_with_others(flux: Engine) -> None:
    gate, before = Gate(flux), flux.counts()
    drafts = [flux.submit(options=QUARTER, **call("flux", seed, STEPS)) for seed in range(4)]
    gate.open()
    drawn = [draft.result(60) for draft in drafts]
    gate = Gate(flux)
    forks = [
        flux.submit(options=from_(draft), **call("flux", seed, STEPS))
        for seed, draft in enumerate(drawn)
    ]
    whole = flux.submit(**call("flux", 9, STEPS))
    gate.open()
    images = [made_of(fork.result(60)) for fork in forks]
    whole.result(60)
    counts = flux.counts()
    assert counts["merged_calls"] - before["merged_calls"] >= 4 * STEPS
    assert counts["forwards"] - before["forwards"] <= 2 * STEPS + 4
    for seed, image in enumerate(images):
        alone = made_of(flux.submit(deterministic=True, **call("flux", seed, STEPS)).result(60))
        assert (image - alone).abs().max() < 1e-3


@pytest.mark.long
def test_a_fork_may_have_another_lora(flux: Engine, flux_draft: Draft, tmp_path: Any) -> None:
    pipeline = load_pipeline(Weights(str(DEMO / "flux")))
    lora = Lora(save_lora(tmp_path, pipeline, seed=1), 0.7)
    same = call("flux", 1, STEPS)
    without = made_of(flux.submit(options=from_(flux_draft), **same).result(60))
    with_it = flux.submit(options=from_(flux_draft), loras=[lora], **call("flux", 1, STEPS))
    assert not torch.equal(made_of(with_it.result(60)), without)


@pytest.mark.long
def test_eight_drafts_with_two_finished_cost_less_than_half_of_eight_whole_ones(
    flux: Engine, tmp_path: Any
) -> None:
    """Counted in steps, with LoRAs mixed and a preview of each, as in ``benchmarks.drafts``."""
    pipeline = load_pipeline(Weights(str(DEMO / "flux")))
    loras = [Lora(save_lora(tmp_path / str(n), pipeline, seed=n), 0.5) for n in range(2)]

    def together(options: list[GenerationOptions]) -> list[Any]:
        going = [
            flux.submit(options=option, loras=[loras[n % 2]], **call("flux", n, STEPS))
            for n, option in enumerate(options)
        ]
        return [generation.result(60) for generation in going]

    before = flux.counts()["steps"]
    drafts = together([QUARTER] * 8)
    together([from_(draft, preview=True) for draft in drafts])
    together([from_(draft) for draft in drafts[:2]])
    drafted = flux.counts()["steps"] - before
    together([GenerationOptions()] * 8)
    assert drafted <= 0.46 * (flux.counts()["steps"] - before - drafted)


@pytest.mark.long
def test_new_noise_gives_variations_by_its_seed_and_strength(
    flux: Engine, flux_draft: Draft
) -> None:
    def varied(strength: float, seed: int) -> torch.Tensor:
        how = from_(flux_draft, new_noise=strength, noise_seed=seed)
        return made_of(flux.submit(options=how, **call("flux", 1, STEPS)).result(60))

    whole = made_of(flux.submit(**call("flux", 1, STEPS)).result(60))
    assert torch.equal(varied(0.5, 1), varied(0.5, 1))
    assert not torch.equal(varied(0.5, 1), varied(0.5, 2))
    assert not torch.equal(varied(0.5, 1), whole)


@pytest.mark.long
def test_a_fork_can_be_a_draft_again(flux: Engine, flux_draft: Draft) -> None:
    half = GenerationOptions(draft=DraftPoint(0.5), fork=Fork(flux_draft))
    second = draft_of(flux, half, **call("flux", 1, STEPS))
    assert second.step == 4
    end = made_of(flux.submit(options=from_(second), **call("flux", 1, STEPS)).result(60))
    whole = made_of(flux.submit(**call("flux", 1, STEPS)).result(60))
    assert torch.equal(end, whole)


@pytest.mark.long
@pytest.mark.parametrize("family", sample_params(CALLS, "flux", "sdxl"))
def test_a_draft_that_is_resumed_has_the_same_bytes(family: str) -> None:
    late = GenerationOptions(draft=DraftPoint(0.75))
    taken: list[Any] = []

    def take(progress: Progress) -> None:
        if progress.step == 3 and not taken:
            taken.append(first.request_snapshot())

    with Engine(load_pipeline(Weights(str(DEMO / family))), threads=1) as engine:
        whole = draft_of(engine, late, **call(family, 1, STEPS))
        gate = Gate(engine)
        first = engine.submit(options=late, on_progress=take, **call(family, 1, STEPS))
        gate.open()
        first.result(60)
        snapshot, before = taken[0].result(60).to_bytes(), engine.counts()["steps"]
        resumed = engine.submit(options=late, snapshot=snapshot, **call(family, 1, STEPS))
        assert resumed.result(60).to_bytes() == whole.to_bytes()
        assert engine.counts()["steps"] - before == 3


def test_a_fork_gives_snapshots_that_resume(flux: Engine, flux_draft: Draft) -> None:
    other = call("flux", 1, STEPS) | {"prompt": "a green star"}
    taken: list[Any] = []
    forked = flux.submit(
        options=from_(flux_draft),
        on_progress=lambda progress: (
            taken.append(forked.request_snapshot()) if progress.step == 5 and not taken else None
        ),
        **other,
    )
    whole = made_of(forked.result(60))
    snapshot = taken[0].result(60).to_bytes()
    before = flux.counts()["steps"]
    again = call("flux", 1, STEPS) | {"prompt": "a green star"}
    assert torch.equal(made_of(flux.submit(snapshot=snapshot, **again).result(60)), whole)
    assert flux.counts()["steps"] - before == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"width": 128}, "Size, length and number of images cannot be changed"),
        ({"num_images_per_prompt": 1}, "Size, length and number of images cannot be changed"),
        ({"num_inference_steps": 6}, "number of steps"),
    ],
)
def test_what_a_fork_cannot_change_is_refused(
    flux: Engine, flux_draft: Draft, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(ForkRefused, match=message):
        flux.submit(options=from_(flux_draft), **(call("flux", 1, STEPS) | change)).result(60)


def test_another_scheduler_and_another_model_are_refused(flux_draft: Draft) -> None:
    pipeline = load_pipeline(Weights(str(DEMO / "sdxl")))
    with Engine(pipeline, threads=1) as engine:
        with pytest.raises(ForkRefused, match="by FluxPipeline, and this is"):
            engine.submit(options=from_(flux_draft), **call("sdxl", 1, STEPS)).result(60)
        mine = draft_of(engine, **call("sdxl", 1, STEPS))

        def exchange(own: Any) -> None:
            own.scheduler = EulerDiscreteScheduler.from_config(own.scheduler.config)

        how = GenerationOptions(fork=Fork(mine), set_up=exchange)
        with pytest.raises(ForkRefused, match="scheduler"):
            engine.submit(options=how, **call("sdxl", 1, STEPS)).result(60)


def test_a_generation_of_one_step_is_no_draft(flux: Engine) -> None:
    with pytest.raises(ForkRefused, match="two steps at least"):
        flux.submit(options=QUARTER, **call("flux", 1, 1)).result(60)


def test_bytes_that_are_no_draft_are_refused() -> None:
    for content in (b"", b"\0" * 64, b"\x08\0\0\0\0\0\0\0{}      "):
        with pytest.raises(ForkRefused, match="not a draft"):
            Draft.of_bytes(content)


def test_a_class_that_cannot_make_drafts_says_why_before_it_computes() -> None:
    class StableUnCLIPPipeline:
        def __call__(self, **_: Any) -> None:
            raise AssertionError("It was called.")

    with Engine(StableUnCLIPPipeline()) as engine:
        with pytest.raises(ForkRefused, match="its first stage has a scheduler of its own"):
            engine.submit(options=QUARTER).result(60)
