"""FLUX.1 Redux: an entry names FLUX.1 and the components of Redux, and requests send an image."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import diffusers
import pytest
import torch
from PIL import Image

from deployments.engine.engine import Engine
from deployments.families.generic import GenericFamily
from deployments.replica import weights
from serve_app.catalog.catalog import StoredEntry, build_stored
from serve_app.cli.inspection.pipeline_call import read_call
from serve_app.cli.inspection.proposal import complete_entry, propose
from serve_app.cli.inspection.repository import inspect_repository
from serve_app.domain.endpoint import Endpoint, StoreConfig
from serve_app.domain.errors import Misconfigured
from tests.cli.inspection.test_proposal import BUILDER
from tests.engine.conformance.zoo import cases
from weights.store import Store

pytestmark = [
    pytest.mark.engine,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
]

REDUX = "fal-ai/flux-1/dev/redux"
PARTS = ("image_encoder", "feature_extractor", "image_embedder")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(StoreConfig(directory=tmp_path_factory.mktemp("store")))


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Folders of FLUX.1 and of FLUX.1 Redux, as both are published."""
    folder = tmp_path_factory.mktemp("redux")
    cases()["FluxPipeline"].build().save_pretrained(folder / "flux")
    whole = cases()["FluxReduxPipeline"].build()
    prior = diffusers.FluxPriorReduxPipeline(**{name: getattr(whole, name) for name in PARTS})
    prior.save_pretrained(folder / "redux")
    return folder / "flux", folder / "redux"


@pytest.fixture(scope="module")
def endpoint(places: tuple[Path, Path], store: Store) -> Endpoint:
    """What ``darkroom models add --part image_encoder=… --pipeline FluxReduxPipeline`` makes."""
    base, prior = places
    parts = [(name, str(prior / name)) for name in PARTS]
    model = inspect_repository(str(base), None, store, parts=parts, pipeline="FluxReduxPipeline")
    entry = complete_entry(
        propose(read_call(model.pipeline, model.index), model.config, REDUX), model
    )
    built = build_stored(BUILDER, StoredEntry(REDUX, entry), strict=True)
    assert built.schema.fields >= {"image_url", "image_size", "guidance_scale", "num_images"}
    return replace(built.endpoint, options={**built.endpoint.options, "dtype": "float32"})


@pytest.mark.parametrize("count", [1, 2])
def test_it_draws_what_the_two_pipelines_of_diffusers_do(
    endpoint: Endpoint, store: Store, places: tuple[Path, Path], count: int
) -> None:
    image = Image.new("RGB", (16, 16), "red")
    pipeline = weights.load(store, GenericFamily(), endpoint, "cpu")
    size = {"width": 16, "height": 16}
    arguments = {"image_url": image, "image_size": size, "num_inference_steps": 2, "seed": 1}
    call = GenericFamily().prepare(endpoint, {**arguments, "num_images": count}, pipeline, 0)
    with Engine(pipeline, device="cpu", threads=1) as engine:
        drawn = engine.submit(view=call.view, **call.arguments).result(60).images

    base = diffusers.FluxPipeline.from_pretrained(places[0])
    texts = {name: getattr(base, name) for name in base.components if "text" in name}
    tokenizers = {name: getattr(base, name) for name in base.components if "tokenizer" in name}
    prior = diffusers.FluxPriorReduxPipeline.from_pretrained(places[1], **texts, **tokenizers)
    seeds = [torch.Generator("cpu").manual_seed(1 + number) for number in range(count)]
    for number, seed in enumerate(seeds):
        usual = base(
            **prior(image, prompt=""),
            **size,
            num_inference_steps=2,
            generator=seed,
            output_type="pt",
        ).images
        assert torch.allclose(drawn[number], usual[0], atol=1e-5)


def test_components_that_the_class_needs_are_named_before_anything_is_served(
    places: tuple[Path, Path], store: Store
) -> None:
    parts = [("image_encoder", str(places[1] / "image_encoder"))]
    with pytest.raises(Misconfigured) as raised:
        inspect_repository(str(places[0]), None, store, parts=parts, pipeline="FluxReduxPipeline")
    assert raised.value.message == (
        "FluxReduxPipeline cannot be served: needs feature_extractor, image_embedder, which these "
        "weights do not have. Add --part feature_extractor=… --part image_embedder=…."
    )


def test_without_the_other_stage_the_command_for_both_is_named(
    places: tuple[Path, Path], store: Store
) -> None:
    model = inspect_repository(str(places[1]), None, store)
    with pytest.raises(Misconfigured, match="Serve both stages as one") as raised:
        propose(read_call(model.pipeline, model.index), model.config)
    command = " ".join(("--pipeline FluxReduxPipeline", *(f"--part {name}=…" for name in PARTS)))
    assert command in raised.value.message
