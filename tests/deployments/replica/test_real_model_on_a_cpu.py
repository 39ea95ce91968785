"""The built-in real model, from the hub to an image, on a replica that serves demo models too."""

from __future__ import annotations

from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import diffusers
import pytest
from PIL import Image

from serve_app.catalog.catalog import load
from serve_app.domain.endpoint import StoreConfig
from tests.engine.conformance import autoencoders
from tests.engine.conformance.families.sd import parts
from tests.weights.hub_server import HubServer, serving
from weights.hub import Hub
from weights.store import Store

pytestmark = [
    pytest.mark.engine,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
]

DEMO = Path(__file__).parents[3] / "deployments" / "demo"
CATALOG = load(None, demo=True, demo_dir=DEMO)
REAL, TINY = "darkroom/sdxs", "fal-ai/flux/schnell"
OF_THE_PIPELINE = ("scheduler", "text_encoder", "tokenizer", "unet")


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[HubServer]:
    """Hub with a repository of the real one's layout: without a safety checker, and with an
    autoencoder for previews beside a larger one that the pipeline does not name."""
    components = {name: part for name, part in parts().items() if name in OF_THE_PIPELINE}
    absent: dict[str, Any] = {"safety_checker": None, "feature_extractor": None}
    pipeline = diffusers.StableDiffusionPipeline(
        **components, **absent, vae=autoencoders.tiny(), requires_safety_checker=False
    )
    folder = tmp_path / "published"
    pipeline.save_pretrained(folder, safe_serialization=True)
    autoencoders.kl().save_pretrained(folder / "vae_large")
    weights = CATALOG.get(REAL).endpoint.weights
    assert weights.revision is not None
    server = HubServer()
    server.add(weights.source, weights.revision, folder)
    with serving(server):
        yield server


def store_of(hub: HubServer, tmp_path: Path) -> Store:
    return Store(StoreConfig(directory=tmp_path / "store"), lambda: Hub(hub.url, None))


async def outcome_of(rig: Any, name: str, endpoint_id: str) -> Any:
    body = {"prompt": "a red circle", "seed": 7, "image_size": {"width": 64, "height": 64}}
    checked = CATALOG.validate(endpoint_id, body).input
    lease = rig.lease(name, CATALOG.get(endpoint_id).endpoint, **checked)
    rig.port.offer(lease)
    outcome = await rig.outcome(lease.key)
    assert outcome.failure is None
    return outcome


async def test_what_was_pulled_is_drawn_with_by_a_replica_that_serves_demo_models_too(
    make_rig: Any, hub: HubServer, tmp_path: Path
) -> None:
    store = store_of(hub, tmp_path)
    with store.open(CATALOG.get(REAL).endpoint.weights) as folder:  # as `darkroom models pull` does
        assert not (folder / "vae_large").exists()
    hub.asked.clear()
    rig = await make_rig(store=store)
    for name, endpoint_id, demo in (("real", REAL, False), ("demo", TINY, True)):
        outcome = await outcome_of(rig, name, endpoint_id)
        assert bool(outcome.output.get("darkroom_demo")) is demo
        (image,) = outcome.output["images"]
        assert (image["width"], image["height"]) == (64, 64)
        Image.open(BytesIO(rig.storage.objects[f"{name}/1/0"])).verify()
    assert hub.asked == []


async def test_the_first_request_fetches_what_was_not_pulled(
    make_rig: Any, hub: HubServer, tmp_path: Path
) -> None:
    rig = await make_rig(store=store_of(hub, tmp_path))
    assert (await outcome_of(rig, "real", REAL)).output["images"]
    assert hub.downloads("unet/diffusion_pytorch_model.safetensors")
