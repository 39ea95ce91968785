"""Several ControlNets beside their model: each has its own control image and strength."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline
from PIL import Image

from deployments.engine.engine import Engine
from deployments.engine.loading.loader import load_pipeline
from deployments.families.generic import GenericFamily
from deployments.families.warm_up import warm_up_input
from deployments.replica import weights
from deployments.replica.resources import weights_name
from serve_app.catalog.catalog import CatalogEntry, StoredEntry, build_stored
from serve_app.cli.inspection.control_nets import check_control_nets
from serve_app.cli.inspection.pipeline_call import read_call
from serve_app.cli.inspection.proposal import completed, proposed
from serve_app.cli.inspection.repository import Repository, inspected
from serve_app.domain.endpoint import Endpoint, StoreConfig, Weights
from serve_app.domain.errors import InvalidInput, Misconfigured, WeightsUnavailable
from serve_app.domain.pipeline_index import TOGETHER
from tests.cli.inspection.test_proposal import BUILDER
from tests.engine.conformance import inputs
from tests.engine.conformance.case import WISHES, Case
from tests.engine.conformance.derived import prepared
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
URLS = ["https://example.org/edges.png", "https://example.org/depth.png"]


@dataclass(frozen=True)
class Places:
    """Folders of a pipeline, and of ControlNets for it."""

    base: Path
    nets: Sequence[Path]

    @property
    def parts(self) -> list[tuple[str, str]]:
        return [("controlnet", str(each)) for each in self.nets]


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
    for number, each in enumerate(nets):
        net = case.build().controlnet
        torch.manual_seed(number)
        with torch.no_grad():
            for values in net.parameters():
                values += torch.randn_like(values) * 0.05
        net.save_pretrained(each)
    return Places(folder / name, nets)


def repository(name: str, places: Places, store: Store) -> Repository:
    """What ``darkroom models add --part controlnet=A --part controlnet=B`` finds."""
    return inspected(str(places.base), None, store, parts=places.parts, pipeline=name)


def entry_of(found: Repository) -> CatalogEntry:
    call = read_call(found.pipeline, found.index)
    check_control_nets(call, found.control_nets)
    entry = completed(proposed(call, found.config, nets=found.control_nets), found)
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


def plain(name: str, places: Places) -> Any:
    """The pipeline as diffusers makes it of a list of ControlNets."""
    one = cases()[name].build()
    nets = [type(one.controlnet).from_pretrained(each) for each in places.nets]
    settings = {each: one.config[each] for each in one.config if not each.startswith("_")}
    return type(one)(**{**settings, **one.components, "controlnet": nets})


def check_equal(name: str, folder: Path, store: Store) -> None:
    """Assert that the endpoint that one command makes draws what diffusers does."""
    places, case = places_of(name, folder), cases()[name]
    entry = entry_of(repository(name, places, store))
    pipeline = weights.load(store, GenericFamily(), in_float32(entry), "cpu")
    assert type(pipeline.controlnet).__name__ in TOGETHER.values()
    asked = prepared(entry, with_two(name, case), pipeline)
    with Engine(pipeline, device="cpu", threads=1) as engine:
        made = engine.submit(view=asked.call.view, **asked.call.arguments).result(300).images
    usual = plain(name, places)(**with_two(name, case)).images
    assert torch.allclose(made.float(), usual.float(), atol=1e-5)
    one = {**with_two(name, case), "controlnet_conditioning_scale": [0.7, 0.0]}
    assert not torch.allclose(plain(name, places)(**one).images.float(), usual.float(), atol=1e-4)


@pytest.mark.parametrize("name", [SDXL, FLUX])
def test_two_control_nets_draw_what_diffusers_does(name: str, folder: Path, store: Store) -> None:
    check_equal(name, folder, store)


@pytest.mark.long
@pytest.mark.parametrize("name", OTHERS)
def test_so_they_do_in_every_class(name: str, folder: Path, store: Store) -> None:
    check_equal(name, folder, store)
