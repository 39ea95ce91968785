"""fal's lists of ControlNets and IP-Adapters: each object chooses a part that its endpoint has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from deployments.engine.engine import Engine
from deployments.engine.loop.options import GenerationOptions
from deployments.families.generic import GenericFamily
from deployments.families.object_inputs import part_values
from deployments.replica import weights
from serve_app.catalog.catalog import CatalogEntry, StoredEntry, build_stored
from serve_app.cli.inspection.fal_parts import parts_of
from serve_app.cli.inspection.pipeline_call import read_call
from serve_app.cli.inspection.proposal import complete_entry, propose
from serve_app.cli.inspection.repository import inspect_repository
from serve_app.domain.endpoint import StoreConfig
from serve_app.domain.errors import InvalidInput, Misconfigured
from serve_app.options.inputs import declared_inputs
from tests.cli.inspection.test_proposal import BUILDER
from tests.engine.conformance.zoo import cases
from tests.engine.ip_adapters import BLUE, FILE, RED, adapter_of, save_parts
from weights.store import Store

pytestmark = [pytest.mark.engine, pytest.mark.filterwarnings("ignore")]

FLUX, GENERAL = "FluxControlNetPipeline", "fal-ai/flux-general"
URL = "https://example.org/a.png"
EDGES = {"path": "edges", "control_image_url": URL}
DEPTH = {"path": "depth", "control_image_url": URL, "conditioning_scale": 0.4}
ENCODER = {"image_encoder_path": "image_encoder"}
STYLE = {"path": "adapter", **ENCODER, "image_url": URL, "scale": 0.7}
FACE = {"path": f"adapter_1/{FILE}", **ENCODER, "image_url": URL, "scale": 1.0}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(StoreConfig(directory=tmp_path_factory.mktemp("store")))


@pytest.fixture(scope="module")
def entry(tmp_path_factory: pytest.TempPathFactory, store: Store) -> CatalogEntry:
    """FLUX with two ControlNets and two IP-Adapters."""
    directory = tmp_path_factory.mktemp("general")
    named = save_parts(
        directory,
        cases()["FluxPipeline"].build(),
        [adapter_of(cases()["FluxPipeline"].build(), seed=seed) for seed in (1, 2)],
    )
    parts = [(part.component, str(Path(part.source) / part.file)) for part in named.parts]
    for number, name in enumerate(("edges", "depth")):
        net = cases()[FLUX].build().controlnet
        torch.manual_seed(number)
        with torch.no_grad():
            for values in net.parameters():
                values.add_(torch.randn_like(values) * 0.05)
        net.save_pretrained(directory / name)
        parts.append(("controlnet", str(directory / name)))
    repository = inspect_repository(named.source, None, store, parts=parts, pipeline=FLUX)
    proposed = propose(
        read_call(FLUX),
        repository.config,
        GENERAL,
        adapters=repository.adapters,
        nets=repository.control_nets,
        parts=parts_of(repository.weights),
    )
    stored = StoredEntry(GENERAL, complete_entry(proposed, repository))
    entry = build_stored(BUILDER, stored, strict=True)
    exact = {**entry.endpoint.options, "dtype": "float32"}
    return replace(entry, endpoint=replace(entry.endpoint, options=exact))


@pytest.fixture(scope="module")
def pipeline(entry: CatalogEntry, store: Store) -> Any:
    return weights.load(store, GenericFamily(), entry.endpoint, "cpu")


def generate(entry: CatalogEntry, pipeline: Any, **body: Any) -> torch.Tensor:
    size = {"width": 64, "height": 64}
    checked, _ = entry.schema.validate({"prompt": "x", "num_inference_steps": 2, "seed": 1})
    requested = {**checked, "image_size": size, **body}
    call = GenericFamily().prepare(entry.endpoint, requested, pipeline, 1)
    options = GenerationOptions(set_up=call.set_up)
    with Engine(pipeline, device="cpu", threads=1) as engine:
        arguments = call.arguments
        return engine.submit(options=options, view=call.view, **arguments).result(300).images


def with_images(item: Mapping[str, Any], image: Any) -> Mapping[str, Any]:
    """An object with a decoded image in place of its URL, and the schema's default scale."""
    files = {name: image for name in ("image_url", "control_image_url") if name in item}
    return (
        {"conditioning_scale": 1, **item, **files}
        if "control_image_url" in item
        else {**item, **files}
    )


@pytest.mark.long
def test_an_object_is_the_image_and_the_scale_of_the_part_that_it_names(
    entry: CatalogEntry, pipeline: Any
) -> None:
    black = Image.new("RGB", BLUE.size)
    of_depth = generate(entry, pipeline, controlnets=[with_images(DEPTH, BLUE)])
    own = {"control_image_urls": [black, BLUE], "controlnet_conditioning_scale": [0.0, 0.4]}
    assert torch.equal(of_depth, generate(entry, pipeline, **own))
    of_style = generate(entry, pipeline, ip_adapters=[with_images(STYLE, RED)])
    own = {"ip_adapter_image_urls": [RED, black], "ip_adapter_scale": [0.7, 0.0]}
    assert torch.equal(of_style, generate(entry, pipeline, **own))
    of_all = generate(
        entry,
        pipeline,
        controlnets=[with_images(DEPTH, BLUE), with_images(EDGES, RED)],
        ip_adapters=[with_images(FACE, BLUE), with_images(STYLE, RED)],
    )
    own = {
        "control_image_urls": [RED, BLUE],
        "controlnet_conditioning_scale": [1.0, 0.4],
        "ip_adapter_image_urls": [RED, BLUE],
        "ip_adapter_scale": [0.7, 1.0],
    }
    assert torch.equal(of_all, generate(entry, pipeline, **own))
    assert len({image.numpy().tobytes() for image in (of_depth, of_style, of_all)}) == 3


@pytest.mark.long
def test_without_objects_no_part_counts(entry: CatalogEntry, pipeline: Any) -> None:
    plain = generate(entry, pipeline)
    own = {"control_image_urls": [RED, BLUE], "ip_adapter_image_urls": [RED, BLUE]}
    counts = {"controlnet_conditioning_scale": [0.0, 0.0], "ip_adapter_scale": [0.0, 0.0]}
    assert torch.allclose(generate(entry, pipeline, **own, **counts), plain, atol=1e-5)
    assert not torch.allclose(generate(entry, pipeline, **own), plain, atol=1e-2)


@pytest.mark.parametrize(
    ("wrong", "place", "words"),
    [
        ({"controlnets": [{**EDGES, "path": "x"}]}, "controlnets.0.path", "edges or depth"),
        ({"controlnets": [{"path": "edges"}]}, "controlnets.0.control_image_url", "required"),
        ({"controlnets": [EDGES, {**DEPTH, "variant": "fp16"}]}, "controlnets.1.variant", "Not"),
        ({"controlnets": [EDGES] * 3}, "controlnets", "at most 2"),
        ({"ip_adapters": [STYLE, {**FACE, "scale": 2}]}, "ip_adapters.1.scale", "less"),
        ({"ip_adapters": [{**STYLE, "weight_name": "x"}]}, "ip_adapters.0.weight_name", FILE),
        (
            {"ip_adapters": [{**STYLE, "image_encoder_path": "openai/clip"}]},
            "ip_adapters.0.image_encoder_path",
            "image_encoder",
        ),
        ({"controlnet_unions": [{"path": "edges"}]}, "controlnet_unions", "Not supported"),
        ({"real_cfg_scale": 2}, "real_cfg_scale", "Not supported"),
    ],
)
def test_what_names_no_part_is_refused_with_those_that_are_there(
    entry: CatalogEntry, wrong: Mapping[str, Any], place: str, words: str
) -> None:
    with pytest.raises(InvalidInput) as caught:
        entry.schema.validate({"prompt": "x", **wrong})
    problem = caught.value.problems[0]
    assert ".".join(map(str, problem.loc[1:])) == place
    assert words in problem.message


def test_what_names_parts_is_valid_and_has_fals_defaults(entry: CatalogEntry) -> None:
    body = {"prompt": "x", "controlnets": [EDGES], "ip_adapters": [STYLE, FACE]}
    checked, warnings = entry.schema.validate(body)
    assert checked["controlnets"][0]["conditioning_scale"] == 1
    assert (checked["image_size"], warnings) == ({"width": 1024, "height": 768}, ())


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"controlnets": [EDGES, EDGES]}, "Another object names this part"),
        (
            {"controlnets": [EDGES], "control_image_urls": [RED, BLUE]},
            "control_image_urls and controlnets cannot both be set",
        ),
    ],
)
def test_a_part_has_one_value(entry: CatalogEntry, more: Mapping[str, Any], words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        part_values(declared_inputs(entry.endpoint), more)


def test_adapters_of_one_repository_are_told_apart_by_the_name_of_the_file() -> None:
    place = {"hub": "h94/IP-Adapter", "revision": "0" * 40}
    files = [{**place, "file": f"models/{name}.safetensors"} for name in ("plus", "plain")]
    parts = {"ip_adapter": files, "image_encoder": [{**place, "folder": "models/image_encoder"}]}
    written = propose(read_call("FluxPipeline"), lambda _: {}, GENERAL, adapters=2, parts=parts)
    stored = StoredEntry(GENERAL, {**written, "weights": {"directory": "/srv/x"}})
    schema = build_stored(BUILDER, stored, strict=True).schema
    item = {
        "path": "h94/IP-Adapter",
        "image_encoder_path": "h94/IP-Adapter",
        "image_encoder_subfolder": "models/image_encoder",
        "image_url": URL,
        "scale": 1,
    }
    named = {**item, "weight_name": "plain.safetensors", "subfolder": "models"}
    schema.validate({"prompt": "x", "ip_adapters": [named]})
    both = r"h94/IP-Adapter/models/plus.safetensors or h94/IP-Adapter/models/plain.safetensors"
    with pytest.raises(InvalidInput, match=both):
        schema.validate({"prompt": "x", "ip_adapters": [item]})


def test_parts_of_a_folder_that_no_request_can_name_need_an_id_of_ones_own() -> None:
    with pytest.raises(Misconfigured, match="under an id of your own"):
        propose(read_call(FLUX), lambda _: {}, GENERAL)
