"""Image-to-image through a replica, the real engine and tiny real pipelines."""

import base64
from dataclasses import replace
from io import BytesIO

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from PIL import Image, ImageDraw

from deployments.engine.engine import Engine
from deployments.engine.media.input import InputKind
from deployments.families.base import GenerationResult
from deployments.families.flux import FluxFamily
from deployments.families.options import input_files
from deployments.families.sdxl import SdxlFamily
from serve_app.domain.artifact import UploadTicket
from serve_app.domain.endpoint import Endpoint, Weights
from serve_app.domain.errors import InvalidInput, Misconfigured
from tests.engine.tiny import tiny_flux, tiny_sdxl

pytestmark = [
    pytest.mark.engine,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
]

TASKS = {
    "flux": ("flux", "image-to-image"),
    "sdxl": ("sdxl", "image-to-image"),
    "inpainting": ("sdxl", "inpainting"),
}


@pytest.fixture(scope="module")
def pipelines():
    return {"flux": tiny_flux(), "sdxl": tiny_sdxl()}


@pytest.fixture(scope="module")
def engine(pipelines):
    with Engine(device="cpu", threads=1) as engine:
        for name, pipeline in pipelines.items():
            engine.add(name, pipeline)
        yield engine


def endpoint(name, **options):
    family, task = TASKS[name]
    return Endpoint(name, family, Weights("/somewhere"), name, options={"task": task, **options})


def input_image(width=32, height=16):
    image = Image.new("RGB", (width, height), (240, 240, 240))
    ImageDraw.Draw(image).rectangle((0, 0, width // 2, height), fill=(200, 30, 30))
    return image


def inline(image):
    buffer = BytesIO()
    image.save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def wish(**changes):
    mask = Image.new("L", (32, 16))
    ImageDraw.Draw(mask).rectangle((16, 0, 32, 16), fill=255)
    return {
        "prompt": "a red circle",
        "image_url": input_image(),
        "mask_url": mask,
        "image_size": {"width": 32, "height": 16},
        "strength": 0.5,
        "num_inference_steps": 4,
        "guidance_scale": 3.5,
        "num_images": 1,
        **changes,
    }


def draw(engine, pipelines, name, options=None, **changes):
    fields = wish(**changes)
    whole = endpoint(name, **(options or {}))
    family = {"flux": FluxFamily, "sdxl": SdxlFamily}[whole.family]()
    call = family.prepare(whole, fields, pipelines[whole.family], seed=7)
    result = engine.submit(pipeline=whole.family, view=call.view, **call.arguments).result(60)
    tickets = tuple(
        UploadTicket(f"key-{n}", "http://storage", "image/png", 10**6)
        for n in range(fields["num_images"])
    )
    return family.deliver(whole, call, GenerationResult(result, 1.0, 2), tickets)


def image(file):
    return Image.open(BytesIO(file.body)).convert("RGB")


def levels(file):
    return torch.tensor(list(image(file).tobytes()), dtype=torch.int16)


@pytest.mark.parametrize("name", TASKS)
def test_the_same_seed_and_image_make_the_same_and_others_others(engine, pipelines, name):
    first, again = (draw(engine, pipelines, name, seed=1).files[0].body for _ in range(2))
    assert first == again
    assert draw(engine, pipelines, name, seed=2).files[0].body != first
    other = draw(engine, pipelines, name, seed=1, image_url=Image.new("RGB", (32, 16)))
    assert other.files[0].body != first


@pytest.mark.parametrize("name", TASKS)
def test_several_images_differ_and_the_first_is_the_one_made_alone(engine, pipelines, name):
    files = draw(engine, pipelines, name, num_images=2, seed=5).files
    assert files[0].body != files[1].body
    (alone,) = draw(engine, pipelines, name, seed=5).files
    assert (levels(files[0]) - levels(alone)).abs().max() <= 1  # a batch of two uses other kernels


@pytest.mark.parametrize("size", [(33, 17), (100, 75), (17, 90)])
@pytest.mark.parametrize("options", [{}, {"native_size": 32}])
def test_flux_delivers_in_the_size_of_the_given_image(engine, pipelines, options, size):
    (file,) = draw(engine, pipelines, "flux", options, image_url=input_image(*size)).files
    assert image(file).size == size == (file.width, file.height)


def test_flux_makes_a_very_large_image_smaller(pipelines):
    whole = replace(endpoint("flux"), bounds={"megapixels": (0, 0.01)})
    call = FluxFamily().prepare(whole, wish(image_url=input_image(400, 100)), pipelines["flux"], 1)
    assert (call.output_facts["size"].width, call.output_facts["size"].height) == (200, 50)


@pytest.mark.parametrize("name", ["sdxl", "inpainting"])
@pytest.mark.parametrize("options", [{}, {"native_size": 32}])
def test_sdxl_delivers_in_the_size_asked_for(engine, pipelines, name, options):
    image_size = {"width": 40, "height": 24}
    (file,) = draw(engine, pipelines, name, options, image_size=image_size).files
    assert image(file).size == (40, 24)


@pytest.mark.parametrize("name", ["sdxl", "inpainting"])
def test_sdxl_delivers_in_the_shape_of_the_image_where_no_other_is_asked_for(pipelines, name):
    portrait = wish(image_url=input_image(192, 256), image_size="auto")
    call = SdxlFamily().prepare(endpoint(name), portrait, pipelines["sdxl"], 1)
    assert (call.output_facts["size"].width, call.output_facts["size"].height) == (192, 256)


@pytest.mark.parametrize("field", ["preserve_aspect_ratio", "crop_output"])
def test_sdxl_keeps_the_images_shape_if_asked_to(engine, pipelines, field):
    image_size = {"width": 40, "height": 40}
    (file,) = draw(engine, pipelines, "sdxl", image_size=image_size, **{field: True}).files
    assert image(file).size == (40, 20)


@pytest.mark.parametrize("size", [(32, 16), (40, 24)])
@pytest.mark.parametrize("options", [{}, {"native_size": 32}])
def test_each_inpainted_image_keeps_every_pixel_outside_the_mask(engine, pipelines, options, size):
    width, height = size
    arguments = {"num_images": 2, "image_size": {"width": width, "height": height}}
    product = draw(engine, pipelines, "inpainting", options, strength=1.0, seed=3, **arguments)
    original = input_image().resize(size, Image.Resampling.LANCZOS)
    outside = (0, 0, width // 2 - 1, height)
    for file in product.files:
        for inpainted in (image(file), file.image):  # also what is checked and has a thumbnail
            assert inpainted.crop(outside).tobytes() == original.crop(outside).tobytes()
            assert inpainted.tobytes() != original.tobytes()


def test_the_whole_image_is_the_models_if_asked_to(engine, pipelines):
    arguments = {"strength": 1.0, "seed": 3, "preserve_unmasked": False}
    kept = draw(engine, pipelines, "inpainting", **arguments)
    redrawn = draw(engine, pipelines, "sdxl", **arguments)
    clear = Image.new("L", (32, 16))
    untouched = draw(engine, pipelines, "inpainting", **arguments, mask_url=clear)
    left = (slice(None), slice(0, 14))  # outside the mask

    def half(product):
        return levels(product.files[0]).reshape(16, 32, 3)[left]

    difference = (half(kept) - half(untouched)).abs().float().mean()
    assert difference < (half(redrawn) - half(untouched)).abs().float().mean()


@pytest.mark.parametrize("name", TASKS)
def test_strength_that_leaves_no_step_is_refused(pipelines, name):
    whole = endpoint(name)
    family = {"flux": FluxFamily, "sdxl": SdxlFamily}[whole.family]()
    with pytest.raises(InvalidInput, match=r"strength.*4 steps leaves none"):
        family.prepare(whole, wish(strength=0.2), pipelines[whole.family], 1)


def test_a_task_that_a_family_does_not_know_is_a_mistake_of_the_catalogue(pipelines):
    whole = Endpoint("e", "flux", Weights("/"), "s", options={"task": "inpainting"})
    with pytest.raises(Misconfigured, match="inpainting"):
        FluxFamily().prepare(whole, wish(), pipelines["flux"], 1)


def test_text_to_image_needs_no_image():
    assert input_files(Endpoint("e", "flux", Weights("/"), "s"), wish()) == []
    both = [("image_url", InputKind.IMAGE), ("mask_url", InputKind.MASK)]
    assert [(file.place, file.kind) for file in input_files(endpoint("inpainting"), wish())] == both


def test_a_file_that_the_input_does_not_name_is_not_fetched():
    whole = endpoint("inpainting")
    assert [file.place for file in input_files(whole, wish(mask_url=None))] == ["image_url"]


def test_a_unet_of_other_latents_inpaints_too(engine):
    pipeline = tiny_sdxl()
    vae = AutoencoderKL.from_config({**pipeline.vae.config, "latent_channels": 12}).eval()
    unet = UNet2DConditionModel.from_config(
        {**pipeline.unet.config, "in_channels": 12, "out_channels": 12}
    ).eval()
    pipeline.register_modules(vae=vae, unet=unet)
    engine.add("sdxl", pipeline)
    call = SdxlFamily().prepare(endpoint("inpainting"), wish(), pipeline, seed=7)
    result = engine.submit(pipeline="sdxl", view=call.view, **call.arguments).result(60)
    assert result.images.shape == (1, 3, 16, 32)
    assert unet.config["in_channels"] == 12
    engine.add("sdxl", tiny_sdxl())


async def test_a_replica_fetches_and_reads_the_images(rig):
    uri = inline(input_image())
    probe = Endpoint("p", "probe", Weights("p"), "p", options={"task": "image-to-image"})
    lease = rig.lease("good", probe, image_url=uri, echo="made")
    rig.port.offer(lease)
    outcome = await rig.outcome(lease.key)
    assert outcome.output["echo"] == "made"


async def test_what_a_mask_may_mean_is_said_in_the_requests_log(rig):
    probe = Endpoint("p", "probe", Weights("p"), "p", options={"task": "inpainting"})
    mask = inline(Image.new("L", (32, 16)))
    lease = rig.lease("masked", probe, image_url=inline(input_image()), mask_url=mask, echo="made")
    rig.port.offer(lease)
    await rig.outcome(lease.key)
    lines = [line for finish in rig.port.finishes for line in finish.lines]
    lines += [line for _, report in rig.port.reports for _, sent in report.lines for line in sent]
    warning = "mask_url: the mask selects nothing. Selected parts are white."
    assert lines == [("WARNING", warning)]


@pytest.mark.parametrize(
    ("url", "says", "kind"),
    [
        ("data:text/plain,hello", "not a supported image", "image_load_error"),
        ("data:image/heic,%00%00%00%18ftypheic", "is HEIC", "unsupported_image_format"),
        (inline(Image.new("RGB", (64, 7))), "64×7", "image_too_small"),
        (inline(Image.new("1", (8000, 8000))), "more than 50000000", "image_too_large"),
        (inline(input_image())[:90], "cannot be read", "image_load_error"),
        ("http://127.0.0.1:1/a.png", "private address", "file_download_error"),
        ("data:image/png;base64,%", "data: URI", "file_download_error"),
    ],
)
async def test_an_image_that_cannot_be_had_is_the_fault_of_its_field(rig, url, says, kind):
    probe = Endpoint("p", "probe", Weights("p"), "p", options={"task": "image-to-image"})
    lease = rig.lease("bad", probe, image_url=url)
    rig.port.offer(lease)
    failure = (await rig.outcome(lease.key)).failure
    assert says in failure.message
    assert (failure.field, failure.type, failure.retryable) == ("image_url", kind, False)
