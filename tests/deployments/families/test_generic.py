"""Any diffusers image pipeline, served by a catalogue entry."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from diffusers import StableDiffusion3Img2ImgPipeline, ZImageInpaintPipeline
from PIL import Image, ImageDraw

from deployments.engine.engine import Engine
from deployments.engine.media.input import InputKind
from deployments.families.generic import GenericFamily
from deployments.families.image_io import Size, as_pixels
from deployments.families.options import InputFile, input_files, with_files
from deployments.families.registry import FAMILIES
from deployments.replica import weights
from serve_app.catalog.catalog import load
from serve_app.domain.endpoint import Endpoint, StoreConfig, Weights
from serve_app.domain.errors import InvalidInput, Misconfigured
from tests.deployments.served import Served
from tests.docs.pages import DOCS, blocks
from tests.engine.conformance.case import WISHES
from tests.engine.conformance.derived import entry_of, prepare_request
from tests.engine.conformance.zoo import cases
from tests.engine.tiny import tiny_sd3, tiny_sdxl
from tests.engine.tiny_qwen import tiny_flux2_klein, tiny_z_image
from weights.store import Store

pytestmark = [
    pytest.mark.engine,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
]

SIZE = Size(64, 96)
ASKED = {"width": SIZE.width, "height": SIZE.height}
IMAGE = "https://example.org/a.png"


@pytest.fixture(scope="module")
def engine():
    with Engine(device="cpu", threads=1) as engine:
        yield engine


@pytest.fixture(scope="module")
def sd3():
    return tiny_sd3()


def entry(folder: Path, **written: Any) -> Any:
    """Entry of a catalogue with this one endpoint."""
    whole = {
        "family": "generic",
        "schema": "qwen-image-text-to-image",
        "weights": {"directory": "/weights"},
        **written,
    }
    path = folder / "models.yaml"
    path.write_text(yaml.safe_dump({"endpoints": {"me/mine": whole}}))
    return load(path, demo=False, demo_dir=folder, families=FAMILIES).get("me/mine")


def input_image(width: int = 64, height: int = 96) -> Image.Image:
    image = Image.new("RGB", (width, height), (240, 240, 240))
    ImageDraw.Draw(image).rectangle((0, 0, width // 2, height), fill=(200, 30, 30))
    return image


def generator(seed: int = 7) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.long
def test_the_entry_of_the_docs_serves_stable_diffusion_3(engine, sd3, tmp_path):
    """Text-to-image and image-to-image over the same weights."""
    page = DOCS / "how-to" / "add-a-model.md"
    (text,) = [block.text for block in blocks(page, "yaml") if "sd3" in block.text]
    path = tmp_path / "models.yaml"
    path.write_text(text)
    catalog = load(path, demo=False, demo_dir=tmp_path, families=FAMILIES)
    ids = ("house/sd3", "house/sd3/image-to-image")
    drawing, redrawing = (Served(catalog.get(endpoint_id), sd3, engine) for endpoint_id in ids)
    common = {"prompt": "a red circle", "num_inference_steps": 4, "seed": 7, "guidance_scale": 3.0}
    plain = {key: value for key, value in common.items() if key != "seed"}

    call = drawing.call(common | {"image_size": ASKED, "negative_prompt": "blue"})
    expected = sd3(
        **plain, **ASKED, negative_prompt="blue", generator=generator(), output_type="pt"
    )
    assert torch.equal(drawing.run(call).images, expected.images)

    call = redrawing.call(common | {"image_url": IMAGE, "strength": 0.5}, image_url=input_image())
    expected = StableDiffusion3Img2ImgPipeline(**sd3.components)(
        **plain,
        **ASKED,
        image=as_pixels(input_image(), SIZE),
        strength=0.5,
        generator=generator(),
        output_type="pt",
    )
    assert torch.equal(redrawing.run(call).images, expected.images)


def test_inpainting_takes_its_mask_as_well(engine, tmp_path):
    pipeline = tiny_z_image()
    mask = Image.new("L", (64, 96))
    ImageDraw.Draw(mask).rectangle((32, 0, 64, 96), fill=255)
    options = {
        "task": "inpainting",
        "pipeline": "ZImageInpaintPipeline",
        "arguments": {"strength": "strength"},
        "fixed": {"guidance_scale": 0.0},
    }
    served = Served(entry(tmp_path, schema="sdxl-inpainting", options=options), pipeline, engine)
    body = {"prompt": "a", "image_url": IMAGE, "mask_url": IMAGE, "image_size": ASKED}
    images = {"image_url": input_image(), "mask_url": mask}
    call = served.call(body | {"seed": 7, "num_inference_steps": 4, "strength": 0.6}, **images)
    expected = ZImageInpaintPipeline(**pipeline.components)(
        prompt="a",
        **ASKED,
        image=as_pixels(input_image(), SIZE),
        mask_image=as_pixels(mask, SIZE),
        strength=0.6,
        num_inference_steps=4,
        guidance_scale=0.0,
        generator=generator(),
        output_type="pt",
    )
    assert torch.equal(served.run(call).images, expected.images)
    with pytest.raises(InvalidInput, match="leaves none"):
        served.call(body | {"num_inference_steps": 4, "strength": 0.2}, **images)


@pytest.mark.long
def test_a_pipeline_that_wants_images_as_pillows_gets_them(engine, tmp_path):
    pipeline = tiny_flux2_klein()
    options = {"task": "image-to-image", "images": "pillow", "fixed": {"guidance_scale": 1.0}}
    served = Served(
        entry(tmp_path, schema="flux-image-to-image", options=options), pipeline, engine
    )
    body = {"prompt": "a", "image_url": IMAGE, "num_inference_steps": 2, "seed": 7}
    call = served.call(body, image_url=input_image(90, 70))
    images = served.run(call).images
    plain = pipeline(
        prompt="a",
        image=input_image(90, 70).resize((92, 72), Image.Resampling.LANCZOS, reducing_gap=3.0),
        width=92,
        height=72,
        num_inference_steps=2,
        guidance_scale=1.0,
        generator=generator(),
        output_type="pt",
    )
    assert torch.equal(images, plain.images)
    (file,) = served.deliver(call, served.run(call), 1).files
    assert Image.open(BytesIO(file.body)).size == (90, 70)  # the size of the input image


def test_empty_fields_can_be_left_out_and_sides_set_by_hand(engine, sd3, tmp_path):
    options = {
        "arguments": {"negative_prompt": "negative_prompt"},
        "unless_empty": ["negative_prompt"],
        "multiple": 32,
    }
    served = Served(entry(tmp_path, options=options), sd3, engine)
    size = {"width": 70, "height": 64}
    body = {"prompt": "a", "image_size": size}
    passed = served.call(body | {"negative_prompt": ""}).arguments
    assert "negative_prompt" not in passed
    assert (passed["width"], passed["height"]) == (96, 64)
    assert served.call(body | {"negative_prompt": "b"}).arguments["negative_prompt"] == "b"


def test_an_open_endpoint_misses_what_the_pipeline_needs(engine, sd3, tmp_path):
    served = Served(entry(tmp_path, schema="open"), sd3, engine)
    whole = {"prompt": "a", "num_inference_steps": 2, "image_size": "square"}
    served.call(whole)
    for name in whole:
        with pytest.raises(InvalidInput, match=f"{name}: Field required"):
            served.call({key: value for key, value in whole.items() if key != name})


def test_a_strength_that_is_not_given_is_the_pipelines_to_choose(sd3):
    options = {
        "task": "image-to-image",
        "pipeline": "StableDiffusion3Img2ImgPipeline",
        "arguments": {"strength": "strength"},
    }
    whole = Endpoint("me/mine", "generic", Weights("/"), "open", options=options)
    body = {"prompt": "a", "num_inference_steps": 2, "image_url": input_image()}
    assert "strength" not in GenericFamily().prepare(whole, body, sd3, 1).arguments


class OneImage:
    """A pipeline with a fixed size that makes one image at a time."""

    vae_scale_factor = 8

    def __call__(self, prompt, num_inference_steps, generator, output_type):
        raise NotImplementedError


def test_what_a_pipeline_does_not_leave_to_choose_is_not_passed(engine, tmp_path):
    served = Served(entry(tmp_path), OneImage(), engine)
    body = {"prompt": "a", "image_size": ASKED}
    assert served.call(body).arguments.keys() == {
        "prompt",
        "num_inference_steps",
        "generator",
        "output_type",
    }
    with pytest.raises(InvalidInput, match="num_images: me/mine makes one image at a time"):
        served.call(body | {"num_images": 2})


WRONG = [
    (
        {"arguments": {"guidance_scale": "guidance"}},
        "StableDiffusion3Pipeline has no argument guidance. ",
    ),
    ({"fixed": {"cfg": 1}}, "has no argument cfg. Its arguments are .*guidance_scale"),
    ({"task": "image-to-image"}, "StableDiffusion3Pipeline has no argument image. "),
    ({"pipeline": "NoPipeline"}, "has no pipeline 'NoPipeline'"),
    ({"pipeline": "FluxTransformer2DModel"}, "has no pipeline 'FluxTransformer2DModel'"),
    ({"task": "upscaling"}, "does not support the task 'upscaling'"),
    ({"fixed": {"prompt": "a"}}, "prompt cannot be under `options.fixed`"),
    ({"arguments": ["a"]}, "options.arguments: Input should be a valid dictionary"),
    ({"arguments": {"strength": 1}}, "options.arguments.strength: Input should be a valid string"),
    ({"images": "png"}, "options.images: Input should be 'pixels' or 'pillow'"),
    ({"multiple": "16"}, "options.multiple: Input should be a valid integer"),
    ({"solver": "LCMScheduler"}, "`options.solver` is 'LCMScheduler'; it must be a mapping"),
    ({"solver": {"name": "Lcm"}}, "`options.solver`: diffusers .* has no scheduler 'Lcm'"),
    ({"solver": {"beta_end": 1}}, "`options.solver`: .*name"),
    ({"adapter": {"scale": 1}}, "`options.adapter` takes `hub` with `revision` or `directory`"),
    ({"adapter": {"directory": "/none", "file": "lora.bin"}}, "lora.bin, which is not"),
    ({"adapter": {"directory": "/none", "rank": 1}}, "found: directory, rank"),
]


@pytest.fixture(scope="module")
def saved_sd3(tmp_path_factory, sd3):
    folder = tmp_path_factory.mktemp("sd3")
    sd3.save_pretrained(folder, safe_serialization=True)
    return folder


@pytest.mark.variants(2)
@pytest.mark.parametrize(("options", "says"), WRONG)
def test_a_mistake_in_the_options_is_reported_when_the_weights_are_loaded(saved_sd3, options, says):
    whole = Endpoint("me/mine", "generic", Weights(str(saved_sd3)), "open", options=options)
    with pytest.raises(Misconfigured, match=says) as caught:
        weights.load(Store(StoreConfig()), GenericFamily(), whole, "cpu")
    assert "me/mine" in caught.value.message


def test_a_lora_of_the_hub_has_to_be_pinned(saved_sd3):
    options = {"adapter": {"hub": "a/b"}}
    whole = Endpoint("me/mine", "generic", Weights(str(saved_sd3)), "open", options=options)
    with pytest.raises(Misconfigured, match="a/b need a revision"):
        weights.load(Store(StoreConfig()), GenericFamily(), whole, "cpu")


def test_a_class_that_needs_other_parts_is_reported(sd3):
    options = {"pipeline": "StableDiffusionXLPipeline"}
    whole = Endpoint("me/mine", "generic", Weights("/"), "open", options=options)
    body = {"prompt": "a", "num_inference_steps": 2, "image_size": ASKED}
    with pytest.raises(
        Misconfigured, match=r"me/mine: StableDiffusionXLPipeline .* cannot be built"
    ):
        GenericFamily().prepare(whole, body, sd3, 1)


def test_endpoints_with_other_amendments_do_not_share_a_pipeline(tmp_path):
    folder = tmp_path / "sdxl"
    tiny_sdxl().save_pretrained(folder, safe_serialization=True)
    options = {"solver": {"name": "EulerDiscreteScheduler", "timestep_spacing": "trailing"}}
    whole = Endpoint("me/mine", "generic", Weights(str(folder)), "open", options=options)
    pipeline = GenericFamily().load(whole, "cpu")
    assert pipeline.scheduler.config["timestep_spacing"] == "trailing"


INPUTS = {
    "prompt": {"type": "text", "required": True},
    "image_urls": {"type": "images", "argument": "image"},
    "num_inference_steps": {"type": "integer", "default": 2},
    "num_images": {"type": "count"},
    "guidance_scale": {"type": "number", "default": 1.0},
}


def test_several_images_reach_a_pipeline_that_edits_them_together(engine, tmp_path):
    options = {"task": "text-to-image", "images": "pillow", "inputs": INPUTS}
    pipeline = tiny_flux2_klein()
    served = Served(entry(tmp_path, schema="declared", options=options), pipeline, engine)
    urls, images = [IMAGE, IMAGE], [input_image(64, 96), input_image(96, 64)]
    body = {"prompt": "a", "image_urls": urls, "num_images": 1, "seed": 7}
    files = input_files(served.entry.endpoint, served.entry.schema.validate(body)[0])
    assert [file.place for file in files] == ["image_urls.0", "image_urls.1"]
    call = served.call(body, image_urls=images)
    assert [image.size for image in call.arguments["image"]] == [(64, 96), (96, 64)]
    assert call.output_facts["size"] is None or call.output_facts["size"] == Size(64, 96)
    expected = pipeline(
        prompt="a",
        image=images,
        num_inference_steps=2,
        guidance_scale=1.0,
        generator=generator(),
        output_type="pt",
        **({} if call.output_facts["size"] is None else ASKED),
    )
    assert torch.equal(served.run(call).images, expected.images)


def test_decoded_files_take_the_place_of_their_urls_in_lists_too():
    first = InputFile(("a", 0), IMAGE, InputKind.IMAGE)
    second = InputFile(("b",), IMAGE, InputKind.MASK)
    inner = InputFile(("d", 0, "e"), IMAGE, InputKind.IMAGE)
    given_ = {"a": [IMAGE, IMAGE], "b": IMAGE, "c": 1, "d": [{"e": IMAGE, "f": 2}]}
    filled = with_files(given_, {first: "x", second: "y", inner: "z"})
    assert filled == {"a": ["x", IMAGE], "b": "y", "c": 1, "d": [{"e": "z", "f": 2}]}
    assert given_["a"] == [IMAGE, IMAGE]
    assert given_["d"] == [{"e": IMAGE, "f": 2}]


def test_a_pipeline_that_chooses_its_size_delivers_what_it_makes(engine, tmp_path):
    pipeline = cases()["StableDiffusionUpscalePipeline"].build()
    inputs = {
        "prompt": {"type": "text", "required": True},
        "image_url": {"type": "image", "argument": "image", "required": True},
        "num_inference_steps": {"type": "integer", "default": 2},
    }
    options = {"task": "image-to-image", "images": "pillow", "inputs": inputs}
    served = Served(entry(tmp_path, schema="declared", options=options), pipeline, engine)
    body = {"prompt": "a", "image_url": IMAGE, "seed": 7}
    call = served.call(body, image_url=input_image(16, 16))
    product = served.deliver(call, served.run(call), 1)
    (image,) = product.output["images"]
    assert (image["width"], image["height"]) > (16, 16)


@pytest.mark.parametrize(
    ("layers", "words"),
    [
        ([], "text_encoder_out_layers: Input should have"),
        ([1], "text_encoder_out_layers: Input should have"),
        ([1, 99], "text_encoder_out_layers.1: Input should be from 0 to"),
    ],
)
def test_layers_that_the_text_encoder_lacks_are_refused(layers: list[int], words: str) -> None:
    case = cases()["Flux2KleinPipeline"]
    pipeline = case.build()
    arguments = case.arguments(WISHES[0]) | {"text_encoder_out_layers": layers}
    with pytest.raises(InvalidInput, match=words):
        prepare_request(entry_of(case, pipeline), arguments, pipeline)
