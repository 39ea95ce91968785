"""Small images of a running generation: what they show, and what they cost the others."""

from io import BytesIO
from pathlib import Path

import pytest
import torch
from PIL import Image

from deployments.engine.engine import Engine
from deployments.engine.memory.placement import DeviceSlot
from deployments.engine.preview.preview import SIDE
from deployments.engine.preview.projection import fit_projection
from serve_app.domain.errors import Unsupported
from tests.engine.calls import call, run_without_engine
from tests.engine.conformance import zoo
from tests.engine.conformance.autoencoders import kl
from tests.engine.conformance.checks import WISHES
from tests.engine.gate import Gate
from tests.fakes.accelerator import FakeAccelerator
from training import shelf

DEMO = Path(__file__).parents[3] / "deployments" / "demo"

pytestmark = [
    pytest.mark.engine,
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore:Should have t[ab]:UserWarning"),  # torchsde, of rounding
]


@pytest.fixture(scope="module")
def demo():
    return shelf.take(DEMO / "flux")


def drawing(prompt, pipeline, steps=8, **more):
    return {
        "prompt": prompt,
        "width": 128,
        "height": 128,
        "num_inference_steps": steps,
        "max_sequence_length": pipeline.tokenizer_2.model_max_length,
        "generator": torch.Generator().manual_seed(3),
        "output_type": "pt",
        **more,
    }


def pixels_of(preview):
    """[3, height, width], from 0 to 1."""
    image = Image.open(BytesIO(preview.jpeg()))
    assert max(image.size) == SIDE
    levels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    return levels.view(image.height, image.width, 3).permute(2, 0, 1) / 255


def alike(preview, final):
    """The correlation of two images' colours."""
    small = [
        torch.nn.functional.adaptive_avg_pool2d(picture, (8, 8)).flatten()
        for picture in (pixels_of(preview), final)
    ]
    return torch.corrcoef(torch.stack(small))[0, 1].item()


def test_half_way_a_preview_looks_like_the_final_image_and_like_no_other(demo):
    prompts = ["a large green triangle on a yellow background", "a red circle on a blue background"]
    with Engine(demo, threads=1) as engine:
        gate = Gate(engine)
        running = [engine.submit(**drawing(prompt, demo)) for prompt in prompts]
        requests = [generation.request_preview(after=3) for generation in running]
        gate.open()
        previews = [request.result(60) for request in requests]
        finals = [generation.result(60).images[0] for generation in running]
    assert [shown.step for shown in previews] == [4, 4]
    for preview, own, other in zip(previews, finals, reversed(finals), strict=True):
        assert alike(preview, own) > 0.8
        assert alike(preview, own) > alike(preview, other) + 0.5


def test_the_first_step_already_hints_at_the_image(demo):
    with Engine(demo, threads=1) as engine:
        gate = Gate(engine)
        running = engine.submit(**drawing("a large green triangle on a yellow background", demo))
        request = running.request_preview()
        gate.open()
        first = request.result(60)
        final = running.result(60).images[0]
    assert first.step == 1
    assert alike(first, final) > 0.7


@pytest.mark.long
def test_a_preview_changes_nothing_of_the_result(sdxl):
    plain = run_without_engine(sdxl, steps=4)
    with Engine(sdxl, threads=1) as engine:
        gate = Gate(engine)
        running = engine.submit(**call(steps=4))
        requests = [running.request_preview(after) for after in range(3)]
        gate.open()
        assert [request.result(60).step for request in requests] == [1, 2, 3]
        assert torch.equal(running.result(60).images, plain)


@pytest.mark.long
def test_nothing_is_computed_for_who_does_not_ask():
    encoded = []
    pipeline = zoo.cases()["StableDiffusionXLPipeline"].build()
    encode = pipeline.vae.encode
    pipeline.vae.encode = lambda *arguments, **more: encoded.append(1) or encode(*arguments, **more)

    def look():
        gate = Gate(engine)
        request = engine.submit(**call()).request_preview()
        gate.open()
        request.result(60)

    with Engine(pipeline, threads=1) as engine:
        engine.submit(**call()).result(60)
        assert not encoded
        look()
        once = len(encoded)
        assert once > 0
        look()
        assert len(encoded) == once  # the colours are learned once


OTHER_LATENTS = {
    "WanPipeline": 16,
    "LTXPipeline": 32,
    "LTX2Pipeline": 32,
    "HunyuanVideoPipeline": 16,
    "HunyuanVideoImageToVideoPipeline": 16,
    "Kandinsky5T2VPipeline": 32,
    "QwenImagePipeline": 32,
    "Flux2KleinPipeline": 32,
    "WanModularPipeline": 16,
    "ZImageModularPipeline": 32,
}
"""Pipelines with latents of videos, tokens or modular blocks, and a height that each takes."""


@pytest.mark.long
@pytest.mark.parametrize("name", OTHER_LATENTS)
def test_videos_and_packed_latents_have_previews_in_their_shape(name):
    case, height = zoo.cases()[name], OTHER_LATENTS[name]
    sides = {"height": height, "width": 2 * height}
    with Engine(case.build(), threads=1) as engine:
        gate = Gate(engine)
        running = engine.submit(**{**case.arguments(WISHES[0]), **sides})
        request = running.request_preview()
        gate.open()
        preview = request.result(60)
        running.result(60)
    assert pixels_of(preview).shape == (3, SIDE // 2, SIDE)
    assert pixels_of(preview).std(dim=(1, 2)).max() > 0


def test_audio_has_no_preview_and_says_so():
    case = zoo.cases()["StableAudioPipeline"]
    with Engine(case.build(), threads=1) as engine:
        gate = Gate(engine)
        running = engine.submit(**case.arguments(WISHES[0]))
        request = running.request_preview()
        gate.open()
        with pytest.raises(Unsupported, match="image"):
            request.result(60)
        running.result(60)


def test_an_ask_after_the_end_is_refused(sdxl):
    with Engine(sdxl, threads=1) as engine:
        running = engine.submit(**call(steps=2))
        late = running.request_preview(after=100)
        running.result(60)
        for request in (late, running.request_preview()):
            with pytest.raises(Unsupported, match="has ended"):
                request.result(60)


@pytest.mark.long
def test_an_autoencoder_in_half_precision_gives_the_same_colours():
    vae = kl()
    exact = fit_projection(vae)
    half = fit_projection(vae.half())
    assert torch.allclose(exact.weight, half.weight, atol=2e-2)
    assert next(vae.parameters()).dtype == torch.float16


@pytest.mark.long
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_an_autoencoder_that_waits_is_fitted_and_displaces_nobody(dtype):
    vae = kl(4)
    colours = fit_projection(vae)
    vae.to(dtype)
    slot, guest = DeviceSlot(FakeAccelerator()), torch.nn.Linear(2, 2)
    for module in (vae, guest):
        slot.serve(module)
    slot.admit(guest)
    admitted = []
    slot.admit = admitted.append
    assert torch.allclose(fit_projection(vae).weight, colours.weight, atol=2e-2)
    assert not admitted
    assert vae._hf_hook.slot is slot  # it still waits
