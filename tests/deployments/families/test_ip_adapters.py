"""IP-Adapters of an endpoint: each has its own images and scale in a request."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import CLIPVisionModelWithProjection

from deployments.engine.engine import Engine
from deployments.engine.loop.options import GenerationOptions
from deployments.families.base import Family
from deployments.families.generic import GenericFamily
from deployments.families.video import VideoFamily
from deployments.families.warm_up import warm_up_input
from deployments.replica import weights
from serve_app.catalog.catalog import CatalogEntry, StoredEntry, build_stored
from serve_app.cli.inspection.pipeline_call import read_call
from serve_app.cli.inspection.proposal import complete_entry, propose
from serve_app.cli.inspection.repository import inspect_repository
from serve_app.domain.endpoint import StoreConfig
from serve_app.domain.errors import InvalidInput
from tests.cli.inspection.test_proposal import BUILDER
from tests.engine.conformance.zoo import cases
from tests.engine.ip_adapters import BLUE, FILE, RED, adapter_of, save_parts
from weights.store import Store

pytestmark = [pytest.mark.engine, pytest.mark.filterwarnings("ignore")]

FAMILIES: Mapping[str, Family] = {"generic": GenericFamily(), "video": VideoFamily()}
CLASSES = (
    "StableDiffusionXLPipeline",
    "StableDiffusionPipeline",
    "FluxPipeline",
    "FluxImg2ImgPipeline",
    "FluxControlNetPipeline",
    "AnimateDiffPipeline",
)
URLS = ["https://example.org/subject.png", "https://example.org/style.png"]
ASKED = {"prompt": "a red dog", "ip_adapter_image_urls": URLS}
BOUND = 1e-4


@dataclass(frozen=True)
class Served:
    """What ``darkroom models add --part ip_adapter=A --part ip_adapter=B`` serves."""

    directory: Path
    entry: CatalogEntry
    pipeline: Any

    @property
    def family(self) -> Family:
        return FAMILIES[self.entry.endpoint.family]

    def arguments(self, **more: Any) -> dict[str, Any]:
        """Arguments of the call of a request, with a ``set_up``, if it has one."""
        size = {"width": 64, "height": 64}
        body = {"prompt": "a red dog", "num_inference_steps": 2, "image_size": size, "seed": 1}
        fields = self.entry.endpoint.options["inputs"]
        body |= {"control_image_url": RED} if "control_image_url" in fields else {}
        body |= {"image_url": RED} if "image_url" in fields else {}
        body |= {"num_frames": 2, "frames_per_second": 8} if "num_frames" in fields else {}
        call = self.family.prepare(self.entry.endpoint, body | more, self.pipeline, 1)
        return {**call.arguments, "options": GenerationOptions(set_up=call.set_up)}

    def generate(self, **more: Any) -> torch.Tensor:
        with Engine(self.pipeline, device="cpu", threads=1) as engine:
            return values_of(engine.submit(**self.arguments(**more)).result(300))


def values_of(result: Any) -> torch.Tensor:
    values = result.frames if hasattr(result, "frames") else result.images
    return torch.as_tensor(values).float()


def serve(directory: Path, name: str, count: int) -> Served:
    pipeline = cases()[name].build()
    tensors = [adapter_of(pipeline, seed=number) for number in range(count)]
    named = save_parts(directory, pipeline, tensors)
    parts = [(part.component, str(Path(part.source) / part.file)) for part in named.parts]
    store = Store(StoreConfig(directory=directory / "store"))
    repository = inspect_repository(named.source, None, store, parts=parts)
    call = read_call(repository.pipeline, repository.index)
    proposed = propose(call, repository.config, adapters=repository.adapters)
    stored = StoredEntry("house/x", complete_entry(proposed, repository))
    entry = build_stored(BUILDER, stored, strict=True)
    exact = {**entry.endpoint.options, "dtype": "float32"}
    endpoint = replace(entry.endpoint, options=exact)
    loaded = weights.load(store, FAMILIES[endpoint.family], endpoint, "cpu")
    return Served(directory, replace(entry, endpoint=endpoint), loaded)


def plain(served: Served, images: Any, scales: list[float]) -> torch.Tensor:
    """What diffusers makes with its own adapters."""
    source = cases()[type(served.pipeline).__name__].build()
    encoder = served.directory / "adapter" / "image_encoder"
    source.register_modules(image_encoder=CLIPVisionModelWithProjection.from_pretrained(encoder))
    places = [str(served.directory / folder) for folder in ("adapter", "adapter_1")][: len(scales)]
    source.load_ip_adapter(places, subfolder="", weight_name=[FILE] * len(places))
    source.set_ip_adapter_scale(scales if len(scales) > 1 else scales[0])
    arguments = served.arguments()
    del arguments["options"]
    if "negative_ip_adapter_image" in read_call(type(source).__name__).arguments:
        # In some classes, diffusers' own default is one image, also for two adapters.
        arguments["negative_ip_adapter_image"] = [Image.new("RGB", (64, 64))] * len(scales)
    return values_of(source(**arguments, ip_adapter_image=images))


@pytest.fixture(scope="module")
def sdxl(tmp_path_factory: pytest.TempPathFactory) -> Served:
    return serve(tmp_path_factory.mktemp("two"), CLASSES[0], 2)


@pytest.mark.long
@pytest.mark.parametrize("name", CLASSES)
def test_two_adapters_make_what_they_make_in_diffusers(name: str, tmp_path: Path) -> None:
    served = serve(tmp_path, name, 2)
    images = [RED, BLUE]
    for scales in ([1.0, 1.0], [0.3, 0.9]):
        ours = served.generate(ip_adapter_image_urls=images, ip_adapter_scale=scales)
        assert torch.allclose(ours, plain(served, images, scales), atol=BOUND)
    without = served.generate()
    assert torch.equal(
        served.generate(ip_adapter_image_urls=images, ip_adapter_scale=[0, 0]), without
    )
    assert not torch.allclose(ours, without, atol=BOUND)


@pytest.mark.long
@pytest.mark.parametrize("name", CLASSES)
def test_one_adapter_looks_at_all_images_of_a_request(name: str, tmp_path: Path) -> None:
    served = serve(tmp_path, name, 1)
    both = plain(served, [[RED, BLUE]], [0.8])
    for images in (
        {"ip_adapter_image_urls": [RED, BLUE]},
        {"ip_adapter_image_url": RED, "ip_adapter_image_urls": [BLUE]},
    ):
        ours = served.generate(**images, ip_adapter_scale=0.8)
        assert torch.allclose(ours, both, atol=BOUND)
    single = served.generate(ip_adapter_image_url=RED, ip_adapter_scale=0.8)
    assert torch.allclose(single, plain(served, RED, [0.8]), atol=BOUND)
    assert not torch.allclose(single, both, atol=BOUND)


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"ip_adapter_image_urls": URLS[:1]}, "ip_adapter_image_urls"),
        ({"ip_adapter_image_urls": [*URLS, *URLS]}, "ip_adapter_image_urls"),
        ({"ip_adapter_scale": [1.0]}, "ip_adapter_scale"),
        ({"ip_adapter_scale": 1.0}, "ip_adapter_scale"),
        ({"ip_adapter_scale": [0.5, 1.5]}, "ip_adapter_scale"),
        ({"ip_adapter_image_url": URLS[0]}, "ip_adapter_image_url"),
    ],
)
def test_a_request_needs_a_value_for_each(
    sdxl: Served, wrong: Mapping[str, Any], field: str
) -> None:
    schema = sdxl.entry.schema
    checked, _ = schema.validate(ASKED)
    assert checked["ip_adapter_scale"] == [1.0, 1.0]
    assert schema.validate({"prompt": "x"})
    with pytest.raises(InvalidInput) as caught:
        schema.validate({**ASKED, **wrong})
    assert field in {str(problem.loc[1]) for problem in caught.value.problems}


def test_the_images_keep_their_size_and_the_output_is_not_theirs(sdxl: Served) -> None:
    arguments = sdxl.arguments(ip_adapter_image_urls=[RED, BLUE])
    assert [image.size for image in arguments["ip_adapter_image"]] == [RED.size, BLUE.size]
    assert (arguments["width"], arguments["height"]) == (64, 64)


def test_loaded_weights_are_tried_without_images(sdxl: Served) -> None:
    assert not warm_up_input(sdxl.entry.endpoint).get("ip_adapter_image_urls")
