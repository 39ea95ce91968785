"""Image to image and inpainting, stepped like the others over weights that are loaded once."""

import pytest
import torch
from diffusers import (
    FluxImg2ImgPipeline,
    StableDiffusionXLImg2ImgPipeline,
    StableDiffusionXLInpaintPipeline,
    WanVideoToVideoPipeline,
)
from PIL import Image

from deployments.engine.engine import Engine
from deployments.engine.interception.pipeline import view_of
from deployments.engine.loading.loader import load_pipeline
from serve_app.domain.endpoint import Weights
from serve_app.domain.errors import Cancelled
from serve_app.domain.progress import Stage
from tests.engine.calls import SIDE, call
from tests.engine.demo_calls import DEMO
from tests.engine.gate import Gate

pytestmark = [
    pytest.mark.engine,
    # diffusers' discrete solvers and numpy 2
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]

KINDS = {
    FluxImg2ImgPipeline: "flux",
    StableDiffusionXLImg2ImgPipeline: "sdxl",
    StableDiffusionXLInpaintPipeline: "sdxl",
}


@pytest.fixture
def engine():
    with Engine(max_batch=1, max_generations=4, threads=1) as engine:
        yield engine


@pytest.fixture(params=KINDS, ids=lambda kind: kind.__name__)
def kind(request):
    return request.param


@pytest.fixture
def pipeline(request, kind):
    return request.getfixturevalue(KINDS[kind])


def wish(kind, seed=1, steps=4, strength=0.5, **more):
    shades = torch.linspace(0, 1, SIDE).expand(1, 3, SIDE, SIDE)
    arguments = call(seed=seed, steps=steps, image=shades, strength=strength, **more)
    if kind is StableDiffusionXLImg2ImgPipeline:
        del arguments["width"], arguments["height"]
    if kind is StableDiffusionXLInpaintPipeline:
        arguments["mask_image"] = (shades[:, :1] > 0.5).float()
    return arguments


def submit(engine, pipeline, kind, on_progress=None, **changes):
    view = view_of(pipeline, kind)
    return engine.submit(pipeline="it", view=view, on_progress=on_progress, **wish(kind, **changes))


def test_a_view_holds_the_very_weights(pipeline, kind):
    view = view_of(pipeline, kind)
    assert type(view) is kind
    for name, component in pipeline.components.items():
        assert getattr(view, name) is component


def test_in_the_engine_it_makes_what_it_makes_alone(engine, pipeline, kind):
    engine.add("it", pipeline)
    images = submit(engine, pipeline, kind).result(60).images
    assert torch.equal(images, view_of(pipeline, kind)(**wish(kind)).images)
    assert images.shape == (1, 3, SIDE, SIDE)


@pytest.mark.long
def test_it_interleaves_with_the_pipeline_itself(engine, pipeline, kind):
    engine.add("it", pipeline)
    plain = engine.submit(pipeline="it", **call(seed=3, steps=5))
    views = [submit(engine, pipeline, kind, seed=seed, steps=6) for seed in (1, 2)]
    # All of them before the first plain run: the modules are the same, and are for one thread.
    results, whole = [view.result(60).images for view in views], plain.result(60).images
    for seed, images in zip((1, 2), results, strict=True):
        alone = view_of(pipeline, kind)(**wish(kind, seed=seed, steps=6)).images
        assert torch.equal(images, alone)
    assert torch.equal(whole, pipeline(**call(seed=3, steps=5)).images)


def test_progress_counts_the_steps_that_strength_leaves(engine, pipeline, kind):
    engine.add("it", pipeline)
    reported = []
    submit(engine, pipeline, kind, reported.append, steps=8, strength=0.5).result(60)
    denoising = [(p.step, p.steps) for p in reported if p.stage is Stage.DENOISING]
    assert denoising == [(0, 4), (1, 4), (2, 4), (3, 4), (4, 4)]


def test_it_is_cancelled_at_its_next_step(engine, pipeline, kind):
    engine.add("it", pipeline)

    def cancel(progress):
        if progress.stage is Stage.DENOISING and progress.step == 2:
            doomed.cancel()

    gate = Gate(engine)
    doomed = submit(engine, pipeline, kind, cancel, steps=900, strength=0.9)
    gate.open()
    with pytest.raises(Cancelled):
        doomed.result(60)
    assert doomed.steps_done == 2


@pytest.mark.long
def test_with_little_strength_little_changes(engine, pipeline, kind):
    engine.add("it", pipeline)
    weak, strong = (
        submit(engine, pipeline, kind, steps=10, strength=strength).result(60).images
        for strength in (0.1, 1.0)
    )
    untouched = _through_the_autoencoder(pipeline, wish(kind)["image"])
    assert (weak - untouched).abs().mean() < (strong - untouched).abs().mean()


def _through_the_autoencoder(pipeline, image):
    with torch.no_grad():
        latents = pipeline.vae.encode(image * 2 - 1).latent_dist.mean
        return (pipeline.vae.decode(latents).sample / 2 + 0.5).clamp(0, 1)


def test_a_video_is_drawn_anew_in_its_size_also_by_an_autoencoder_that_takes_pixels_in_twos():
    wan = load_pipeline(Weights(str(DEMO / "wan")))
    assert wan.vae.config.patch_size == 2
    frames = [Image.new("RGB", (64, 48), "red")] * 5
    fields = {"prompt": "a red circle", "width": 64, "height": 48, "guidance_scale": 1.0}
    view = view_of(wan, WanVideoToVideoPipeline)
    redrawn = view(video=frames, **fields, num_inference_steps=2, output_type="pt").frames
    assert redrawn.shape == (1, 5, 3, 48, 64)
