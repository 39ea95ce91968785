"""A ControlNet beside its model: an entry names both, and requests follow a control image."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from deployments.engine.engine import Engine
from deployments.families.generic import GenericFamily
from deployments.replica import weights
from deployments.replica.resources import weights_name
from serve_app.catalog.catalog import StoredEntry, build_stored
from serve_app.cli.inspection.pipeline_call import read_call
from serve_app.cli.inspection.proposal import complete_entry, propose
from serve_app.cli.inspection.repository import inspect_repository
from serve_app.domain.endpoint import Endpoint, StoreConfig
from serve_app.domain.errors import Misconfigured
from tests.cli.inspection.test_proposal import BUILDER
from tests.engine.conformance.zoo import cases
from weights.links import fingerprint
from weights.store import Store

pytestmark = [
    pytest.mark.engine,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
]

CLASS = "FluxControlNetPipeline"


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Folders of a FLUX.1 without a ControlNet, and of a ControlNet for it."""
    folder = tmp_path_factory.mktemp("parts")
    cases()["FluxPipeline"].build().save_pretrained(folder / "flux")
    cases()[CLASS].build().controlnet.save_pretrained(folder / "control")
    return folder / "flux", folder / "control"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(StoreConfig(directory=tmp_path_factory.mktemp("store")))


@pytest.fixture(scope="module")
def endpoint(places: tuple[Path, Path], store: Store) -> Endpoint:
    """What ``darkroom models add --part controlnet=… --pipeline …`` makes of them."""
    base, control = places
    model = inspect_repository(
        str(base), None, store, parts=[("controlnet", str(control))], pipeline=CLASS
    )
    assert model.sizes.keys() >= {"controlnet", "transformer"}
    entry = complete_entry(propose(read_call(model.pipeline, model.index), model.config), model)
    assert entry["weights"] == {
        "directory": str(base),
        "pipeline": CLASS,
        "parts": {"controlnet": {"directory": str(control)}},
        "version": fingerprint(base, control),
    }
    built = build_stored(BUILDER, StoredEntry("house/x", entry), strict=True).endpoint
    return replace(built, options={**built.options, "dtype": "float32"})


def call(endpoint: Endpoint, pipeline: Any, image: Image.Image) -> Any:
    arguments = {
        "prompt": "a red dog",
        "control_image_url": image,
        "image_size": {"width": 16, "height": 16},
        "num_inference_steps": 4,
        "max_sequence_length": 16,
        "seed": 1,
    }
    return GenericFamily().prepare(endpoint, arguments, pipeline, 0)


def test_the_control_image_changes_what_is_drawn(endpoint: Endpoint, store: Store) -> None:
    pipeline = weights.load(store, GenericFamily(), endpoint, "cpu")
    assert type(pipeline).__name__ == CLASS
    images = [Image.new("RGB", (16, 16), colour) for colour in ("black", "white")]
    with Engine(pipeline, device="cpu", threads=1) as engine:
        drawn = [
            engine.submit(**call(endpoint, pipeline, image).arguments).result(60).images
            for image in images
        ]
    assert drawn[0].shape == (1, 3, 16, 16)
    assert not torch.equal(*drawn)


def test_the_memory_of_the_parts_counts(endpoint: Endpoint, store: Store) -> None:
    bare = replace(endpoint, weights=replace(endpoint.weights, parts=(), pipeline=""))
    sizes: list[int] = []
    weights.load(store, GenericFamily(), endpoint, "cpu", on_found=sizes.append)
    with pytest.raises(Misconfigured, match=r"FluxPipeline has no argument .*control_image"):
        weights.load(store, GenericFamily(), bare, "cpu", on_found=sizes.append)
    assert sizes[0] > sizes[1] > 0


def test_endpoints_with_other_parts_are_other_weights(endpoint: Endpoint) -> None:
    bare = replace(endpoint, weights=replace(endpoint.weights, parts=(), pipeline=""))
    moved = replace(endpoint.weights.parts[0], folder="canny")
    other = replace(endpoint, weights=replace(endpoint.weights, parts=(moved,)))
    assert len({weights_name(variant, None) for variant in (endpoint, bare, other)}) == 3


def test_a_part_that_is_nowhere_is_refused(places: tuple[Path, Path], store: Store) -> None:
    with pytest.raises(Misconfigured, match=r"There is no folder /nowhere .* for controlnet"):
        inspect_repository(
            str(places[0]), None, store, parts=[("controlnet", "/nowhere")], pipeline=CLASS
        )


def test_another_class_is_loaded_without_parts_too(endpoint: Endpoint, store: Store) -> None:
    named = replace(endpoint.weights, parts=(), pipeline="FluxImg2ImgPipeline")
    inputs = {"prompt": {"type": "text"}, "image_url": {"type": "image", "argument": "image"}}
    options = {**endpoint.options, "inputs": inputs}
    other = replace(endpoint, weights=named, options=options)
    pipeline = weights.load(store, GenericFamily(), other, "cpu")
    assert type(pipeline).__name__ == "FluxImg2ImgPipeline"
    plain = replace(other, weights=replace(named, pipeline=""))
    assert weights_name(other, None) != weights_name(plain, None)
