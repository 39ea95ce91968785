"""Several ControlNets beside their model: each has its own control image and strength."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from diffusers.models import controlnets
from PIL import Image

from deployments.engine.engine import Engine
from deployments.engine.loading.loader import load_pipeline
from deployments.families.generic import GenericFamily
from deployments.families.warm_up import warm_up_input
from deployments.replica import weights
from deployments.replica.resources import weights_name
from serve_app.catalog.catalog import CatalogEntry, StoredEntry, build_stored
from serve_app.cli.inspection.control_nets import check_control_nets
from serve_app.cli.inspection.pipeline_call import MODULAR, read_call
from serve_app.cli.inspection.proposal import complete_entry, propose
from serve_app.cli.inspection.repository import Repository, inspect_repository
from serve_app.domain.endpoint import Endpoint, StoreConfig, Weights
from serve_app.domain.errors import InvalidInput, Misconfigured, WeightsUnavailable
from serve_app.domain.pipeline_index import TOGETHER
from tests.cli.inspection.test_proposal import BUILDER
from tests.engine.conformance import inputs
from tests.engine.conformance.case import WISHES, Case
from tests.engine.conformance.derived import call_of, prepare_request
from tests.engine.conformance.zoo import cases
from weights.store import Store

pytestmark = [pytest.mark.engine, pytest.mark.filterwarnings("ignore")]

SDXL, FLUX = "StableDiffusionXLControlNetPipeline", "FluxControlNetPipeline"
BASES = {SDXL: "StableDiffusionXLPipeline", FLUX: "FluxPipeline"}
"""Class → that of a repository without ControlNets. The others bring one, which is replaced."""

OTHERS = (
    "FluxControlNetImg2ImgPipeline",
    "FluxControlNetInpaintPipeline",
    "HunyuanDiTControlNetPipeline",
    "StableDiffusion3ControlNetInpaintingPipeline",
    "StableDiffusion3ControlNetPipeline",
    "StableDiffusionControlNetImg2ImgPipeline",
    "StableDiffusionControlNetInpaintPipeline",
    "StableDiffusionControlNetPAGInpaintPipeline",
    "StableDiffusionControlNetPAGPipeline",
    "StableDiffusionControlNetPipeline",
    "StableDiffusionXLControlNetImg2ImgPipeline",
    "StableDiffusionXLControlNetInpaintPipeline",
    "StableDiffusionXLControlNetPAGImg2ImgPipeline",
    "StableDiffusionXLControlNetPAGPipeline",
    "StableDiffusionXLControlNetUnionImg2ImgPipeline",
    "StableDiffusionXLControlNetUnionInpaintPipeline",
    "StableDiffusionXLControlNetUnionPipeline",
)
WITHOUT_EFFECT = {"HunyuanDiTControlNetPipeline"}
"""Classes whose tiny denoiser has no skip connection, to which ControlNets could add."""
URLS = ["https://example.org/edges.png", "https://example.org/depth.png"]


@dataclass(frozen=True)
class Places:
    """Folders of a pipeline, and of ControlNets for it."""

    base: Path
    nets: Sequence[Path]

    @property
    def parts(self) -> list[tuple[str, str]]:
        return [("controlnet", str(net)) for net in self.nets]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("control-nets")


@pytest.fixture(scope="module")
def store(folder: Path) -> Store:
    return Store(StoreConfig(directory=folder / "store"))


@cache
def places_of(name: str, folder: Path) -> Places:
    case = cases()[name]
    cases()[BASES.get(name, name)].build().save_pretrained(folder / name)
    nets = [folder / f"{name}-{number}" for number in range(2)]
    for number, target in enumerate(nets):
        net = case.build().controlnet
        torch.manual_seed(number)
        with torch.no_grad():
            for values in net.parameters():
                values.add_(torch.randn_like(values) * 0.05)
        net.save_pretrained(target)
    return Places(folder / name, nets)


def repository(name: str, places: Places, store: Store) -> Repository:
    """What ``darkroom models add --part controlnet=A --part controlnet=B`` finds."""
    return inspect_repository(str(places.base), None, store, parts=places.parts, pipeline=name)


def entry_of(repo: Repository) -> CatalogEntry:
    call = read_call(repo.pipeline, repo.index)
    check_control_nets(call, repo.control_nets)
    entry = complete_entry(propose(call, repo.config, nets=repo.control_nets), repo)
    return build_stored(BUILDER, StoredEntry("house/x", entry), strict=True)


def in_float32(entry: CatalogEntry) -> Endpoint:
    endpoint = entry.endpoint
    return replace(endpoint, options={**endpoint.options, "dtype": "float32"})


def with_two(name: str, case: Case) -> dict[str, Any]:
    """Arguments of the case's call, for two ControlNets."""
    arguments = case.arguments(WISHES[0])
    taken = read_call(name).arguments
    control = "control_image" if "control_image" in taken else "image"
    images = [inputs.image(WISHES[0]), inputs.mask(WISHES[0]).convert("RGB")]
    arguments |= {control: images, "controlnet_conditioning_scale": [0.7, 0.4]}
    if "control_guidance_end" in taken:
        arguments["control_guidance_end"] = [1.0, 0.8]
    if "control_mode" in taken:
        arguments["control_mode"] = [0, 1] if "Union" in name else [-1, -1]
    return arguments


def plain(name: str, places: Places, arguments: Mapping[str, Any]) -> torch.Tensor:
    """What diffusers draws with a list of ControlNets."""
    source = cases()[name].build()
    nets = [type(source.controlnet).from_pretrained(net) for net in places.nets]
    settings = {key: source.config[key] for key in source.config if not key.startswith("_")}
    pipeline = type(source)(**{**settings, **source.components, "controlnet": nets})
    torch.manual_seed(WISHES[0].seed)  # some encode control images with the global random state
    return pipeline(**arguments).images.float()


def check_equal(name: str, folder: Path, store: Store) -> None:
    """Assert that the endpoint that one command makes draws what diffusers does."""
    places, case = places_of(name, folder), cases()[name]
    entry = entry_of(repository(name, places, store))
    pipeline = weights.load(store, GenericFamily(), in_float32(entry), "cpu")
    assert type(pipeline.controlnet).__name__ in TOGETHER.values()
    request = prepare_request(entry, with_two(name, case), pipeline)
    with Engine(pipeline, device="cpu", threads=1) as engine:
        images = engine.submit(view=request.call.view, **request.call.arguments).result(300).images
    usual = plain(name, places, with_two(name, case))
    assert torch.allclose(images.float(), usual, atol=1e-5)
    if name not in WITHOUT_EFFECT:
        single = {**with_two(name, case), "controlnet_conditioning_scale": [0.7, 0.0]}
        assert not torch.allclose(plain(name, places, single), usual, atol=1e-4)


@pytest.mark.variants(1)
@pytest.mark.parametrize("name", [SDXL, FLUX])
def test_two_control_nets_draw_what_diffusers_does(name: str, folder: Path, store: Store) -> None:
    check_equal(name, folder, store)


@pytest.mark.long
@pytest.mark.parametrize("name", OTHERS)
def test_so_they_do_in_every_class(name: str, folder: Path, store: Store) -> None:
    check_equal(name, folder, store)


@pytest.mark.long
def test_every_class_of_images_that_takes_several_is_among_them() -> None:
    taking = {
        name
        for name in dir(diffusers)
        if name.endswith("Pipeline")
        and not name.endswith(MODULAR)
        and "ControlNet" in name
        and read_call(name).control_nets & {*TOGETHER.values()}
        and read_call(name).output == "image"
    }
    assert taking == {SDXL, FLUX, *OTHERS}


def test_every_class_of_several_is_known_but_that_of_one_net() -> None:
    several = {name for name in dir(controlnets) if "Multi" in name and name.endswith("Model")}
    assert several - {*TOGETHER.values()} == {"QwenImageMultiControlNetModel"}


@pytest.mark.long
@pytest.mark.parametrize("name", [SDXL, "StableDiffusionXLControlNetUnionPipeline"])
def test_a_folder_that_diffusers_saved_with_several_is_served_too(
    name: str, folder: Path, store: Store, tmp_path: Path
) -> None:
    places, reference = places_of(name, folder), cases()[name].build()
    nets = [type(reference.controlnet).from_pretrained(net_folder) for net_folder in places.nets]
    type(reference)(**{**reference.components, "controlnet": nets}).save_pretrained(tmp_path)
    model = inspect_repository(str(tmp_path), None, store)
    assert model.sizes.keys() >= {"controlnet", "controlnet_1"}
    assert model.control_nets is not None
    assert model.control_nets.count == 2
    fields = entry_of(model).schema.fields
    assert fields >= {"control_image_urls", "controlnet_conditioning_scale"}
    pipeline = load_pipeline(Weights(str(tmp_path)))
    for net, place in zip(pipeline.controlnet.nets, places.nets, strict=True):
        for key, values in type(net).from_pretrained(place).state_dict().items():
            assert torch.equal(net.state_dict()[key], values)


@pytest.fixture(scope="module")
def entry(folder: Path, store: Store) -> CatalogEntry:
    return entry_of(repository(SDXL, places_of(SDXL, folder), store))


ASKED = {"prompt": "a red dog", "control_image_urls": URLS}


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"control_image_urls": URLS[:1]}, "control_image_urls"),
        ({"control_image_urls": [*URLS, *URLS]}, "control_image_urls"),
        ({"controlnet_conditioning_scale": [1.0]}, "controlnet_conditioning_scale"),
        ({"controlnet_conditioning_scale": 1.0}, "controlnet_conditioning_scale"),
        ({"control_guidance_start": [0.0, 0.0, 0.0]}, "control_guidance_start"),
        ({"control_guidance_end": [1.0, 1.5]}, "control_guidance_end"),
        ({"control_image_url": URLS[0]}, "control_image_url"),
    ],
)
def test_a_request_needs_a_value_for_each(
    entry: CatalogEntry, wrong: Mapping[str, Any], field: str
) -> None:
    checked, _ = entry.schema.validate(ASKED)
    assert checked["controlnet_conditioning_scale"] == [1.0, 1.0]
    with pytest.raises(InvalidInput) as caught:
        entry.schema.validate({**ASKED, **wrong})
    assert field in {str(problem.loc[1]) for problem in caught.value.problems}


def test_each_control_image_gets_the_size_of_the_output(entry: CatalogEntry, store: Store) -> None:
    pipeline = weights.load(store, GenericFamily(), in_float32(entry), "cpu")
    images = [Image.new("RGB", size, "white") for size in ((40, 30), (20, 90))]
    size = {"width": 24, "height": 16}
    arguments = {**ASKED, "control_image_urls": images, "image_size": size, "seed": 1}
    controls = GenericFamily().prepare(entry.endpoint, arguments, pipeline, 0).arguments["image"]
    assert [image.size for image in controls] == [(24, 16), (24, 16)]


def test_loaded_weights_are_tried_with_an_image_for_each(entry: CatalogEntry) -> None:
    assert len(warm_up_input(entry.endpoint)["control_image_urls"]) == 2


@pytest.mark.long
def test_the_memory_of_each_counts_in_the_dtype_of_the_component(
    entry: CatalogEntry, store: Store
) -> None:
    (_, *others), sizes = entry.endpoint.weights.parts, list[int]()
    fewer = replace(in_float32(entry), weights=replace(entry.endpoint.weights, parts=(*others,)))
    halved = {**in_float32(entry).options, "dtypes": {"controlnet": "float16"}}
    for variant in (in_float32(entry), fewer, replace(entry.endpoint, options=halved)):
        weights.load(store, GenericFamily(), variant, "cpu", on_found=sizes.append)
    both, single, in_half = sizes
    assert both - single == one_net(entry) * 4
    assert both - in_half == one_net(entry) * 2 * 2


def one_net(entry: CatalogEntry) -> int:
    """Parameters of one ControlNet."""
    net = diffusers.ControlNetModel.from_pretrained(entry.endpoint.weights.parts[0].source)
    return net.num_parameters()


def test_other_orders_are_other_weights(entry: CatalogEntry) -> None:
    turned = replace(entry.endpoint.weights, parts=entry.endpoint.weights.parts[::-1])
    other = replace(entry.endpoint, weights=turned)
    assert weights_name(entry.endpoint, None) != weights_name(other, None)


def net_of(folder: Path, name: str, class_name: str, **settings: Any) -> tuple[str, str]:
    """Part with a ControlNet of a class, without weights."""
    (folder / name).mkdir()
    config = {"_class_name": class_name, **settings}
    (folder / name / "config.json").write_text(json.dumps(config))
    (folder / name / "diffusion_pytorch_model.safetensors").write_bytes(b"")
    return "controlnet", str(folder / name)


@pytest.mark.parametrize(
    ("classes", "words"),
    [
        (
            ("ControlNetModel", "ControlNetUnionModel"),
            "of the classes ControlNetModel, ControlNetUnionModel, which do not run together",
        ),
        (("AutoencoderKL",) * 2, "diffusers takes one AutoencoderKL. Name one part"),
        (("QwenImageControlNetModel",) * 2, "diffusers takes one QwenImageControlNetModel"),
    ],
)
def test_parts_that_do_not_run_together_are_refused(
    folder: Path, store: Store, tmp_path: Path, classes: Sequence[str], words: str
) -> None:
    parts = [net_of(tmp_path, f"{number}", class_name) for number, class_name in enumerate(classes)]
    with pytest.raises(WeightsUnavailable, match=words):
        inspect_repository(
            str(places_of(SDXL, folder).base), None, store, parts=parts, pipeline=SDXL
        )


@pytest.mark.parametrize(
    ("name", "class_name", "words"),
    [
        (BASES[SDXL], "ControlNetModel", "does not take 2 ControlNets together"),
        (SDXL, "FluxControlNetModel", "does not take 2 ControlNets together"),
        ("StableDiffusionXLModularPipeline", "ControlNetModel", "does not take 2 ControlNets"),
        ("AnimateDiffControlNetPipeline", "ControlNetModel", "a control video for each of its 2"),
    ],
)
def test_a_class_that_does_not_run_them_is_refused(
    name: str, class_name: str, words: str, folder: Path, store: Store, tmp_path: Path
) -> None:
    parts = [net_of(tmp_path, letter, class_name) for letter in "ab"]
    motion = ("motion_adapter", net_of(tmp_path, "motion", "MotionAdapter")[1])  # of AnimateDiff
    base = str(places_of(SDXL, folder).base)
    model = inspect_repository(base, None, store, parts=[*parts, motion], pipeline=name)
    with pytest.raises(Misconfigured, match=words):
        check_control_nets(call_of(name), model.control_nets)


def test_a_modular_pipeline_of_a_file_is_refused_with_several(
    entry: CatalogEntry, store: Store
) -> None:
    named = replace(entry.endpoint.weights, pipeline="StableDiffusionXLModularPipeline")
    with pytest.raises(WeightsUnavailable, match="takes one model as its controlnet"):
        weights.load(store, GenericFamily(), replace(entry.endpoint, weights=named), "cpu")


def test_an_endpoint_of_fals_has_one_control_image(folder: Path, store: Store) -> None:
    model = repository(FLUX, places_of(FLUX, folder), store)
    with pytest.raises(Misconfigured, match="under an id of your own"):
        propose(read_call(FLUX), model.config, "fal-ai/flux-general", nets=model.control_nets)


def test_of_unions_each_needs_a_mode_that_both_know(
    folder: Path, store: Store, tmp_path: Path
) -> None:
    parts = [net_of(tmp_path, f"{n}", "FluxControlNetModel", num_mode=n) for n in (10, 7)]
    parts.append(net_of(tmp_path, "alone", "FluxControlNetModel", num_mode=None))
    base = str(places_of(FLUX, folder).base)
    schema = entry_of(inspect_repository(base, None, store, parts=parts, pipeline=FLUX)).schema
    arguments = {"prompt": "x", "control_image_urls": [*URLS, URLS[0]]}
    schema.validate({**arguments, "control_mode": [6, 0, 0]})
    for modes in (None, [7, 0, 0], [0, -1, 0], [0, 0]):
        with pytest.raises(InvalidInput, match="control_mode"):
            schema.validate(arguments if modes is None else {**arguments, "control_mode": modes})
