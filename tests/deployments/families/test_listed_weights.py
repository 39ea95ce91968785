"""Built-in endpoints, from weights on disk in the layout of diffusers' repositories to the files
of a replica."""

from __future__ import annotations

import base64
from io import BytesIO
from typing import Any

import pytest
import torch
from diffusers import LCMScheduler
from PIL import Image
from safetensors.torch import save_file

from deployments.families.base import load_families
from deployments.families.registry import FAMILIES
from serve_app.domain.errors import Misconfigured
from tests.deployments.served import CATALOG, from_folder
from tests.engine.tiny import tiny_sdxl
from tests.engine.tiny_qwen import tiny_flux2_klein, tiny_qwen_image, tiny_z_image
from weights.selection import LORA_FILE

pytestmark = [
    pytest.mark.engine,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
]

LCM, Z_IMAGE = "fal-ai/fast-lcm-diffusion", "fal-ai/z-image/turbo"
QWEN_IMAGE, FLUX2 = "fal-ai/qwen-image", "fal-ai/flux-2/klein/realtime"
LAYER = "mid_block.attentions.0.proj_in"
MAKE = {
    LCM: tiny_sdxl,
    Z_IMAGE: tiny_z_image,
    QWEN_IMAGE: tiny_qwen_image,
    FLUX2: tiny_flux2_klein,
}


@pytest.fixture(scope="module")
def weights_folder(tmp_path_factory):
    """Folder with the weights of an endpoint, written once."""
    folders: dict[str, Any] = {}

    def folder(endpoint_id: str) -> Any:
        if endpoint_id not in folders:
            folders[endpoint_id] = tmp_path_factory.mktemp("weights")
            pipeline = MAKE[endpoint_id]()
            pipeline.save_pretrained(folders[endpoint_id], safe_serialization=True)
        return folders[endpoint_id]

    return folder


@pytest.fixture
def adapter(tmp_path):
    """LCM LoRA, named by the endpoint's options."""
    width = tiny_sdxl().unet.get_submodule(LAYER).in_features
    key = "lora_unet_" + LAYER.replace(".", "_")
    down, up = torch.ones(2, width), torch.full((width, 2), 0.01)
    state = {f"{key}.lora_down.weight": down, f"{key}.lora_up.weight": up}
    save_file(state, tmp_path / LORA_FILE)
    return {"directory": str(tmp_path)}


def test_latent_consistency_is_in_the_weights_and_steps_with_its_solver(weights_folder, adapter):
    endpoint = from_folder(LCM, weights_folder(LCM), adapter=adapter, dtype="float32")
    pipeline = load_families(FAMILIES)[endpoint.family].load(endpoint, "cpu")
    assert isinstance(pipeline.scheduler, LCMScheduler)
    added = pipeline.unet.get_submodule(LAYER).weight - tiny_sdxl().unet.get_submodule(LAYER).weight
    assert torch.allclose(added, torch.full_like(added, 0.02), atol=1e-6)


@pytest.mark.parametrize("endpoint_id", [Z_IMAGE, QWEN_IMAGE, FLUX2])
def test_weights_are_loaded_in_the_precision_that_the_catalogue_says(weights_folder, endpoint_id):
    endpoint = from_folder(endpoint_id, weights_folder(endpoint_id))
    pipeline = load_families(FAMILIES)[endpoint.family].load(endpoint, "cpu")
    assert pipeline.transformer.dtype is torch.bfloat16
    assert type(pipeline) is type(MAKE[endpoint_id]())


def test_weights_of_another_kind_are_refused_with_the_family_that_serves_them(weights_folder):
    endpoint = from_folder(FLUX2, weights_folder(Z_IMAGE))
    with pytest.raises(Misconfigured, match=r"a ZImagePipeline\. Use the family `generic`"):
        load_families(FAMILIES)["flux2"].load(endpoint, "cpu")


@pytest.mark.long
@pytest.mark.parametrize("endpoint_id", [LCM, Z_IMAGE, QWEN_IMAGE])
async def test_a_replica_makes_a_file_of_a_clients_body(
    make_rig, weights_folder, adapter, endpoint_id
):
    options = {"adapter": adapter} if endpoint_id == LCM else {}
    endpoint = from_folder(endpoint_id, weights_folder(endpoint_id), dtype="float32", **options)
    body = {"prompt": "a red circle", "image_size": {"width": 64, "height": 80}, "seed": 3}
    fields, _ = CATALOG.get(endpoint_id).schema.validate(body | {"num_inference_steps": 2})
    rig = await make_rig(call_timeout_s=20.0)
    lease = rig.lease("one", endpoint, **fields)
    rig.port.offer(lease)
    outcome = await rig.outcome(lease.key)
    assert outcome.failure is None
    assert outcome.output["seed"] == 3
    assert outcome.usage.steps == 2
    (artifact,) = outcome.artifacts
    assert Image.open(BytesIO(rig.storage.objects[artifact.key])).size == (64, 80)


async def test_a_replica_sends_a_frame_inside_the_output(make_rig, weights_folder):
    endpoint = from_folder(FLUX2, weights_folder(FLUX2), dtype="float32")
    buffer = BytesIO()
    Image.new("RGB", (80, 64), (200, 30, 30)).save(buffer, "PNG")
    uri = "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
    fields, _ = CATALOG.get(FLUX2).schema.validate({"image_url": uri, "num_inference_steps": 1})
    rig = await make_rig(call_timeout_s=20.0)
    # The endpoint's own sizes are too large for a test.
    lease = rig.lease("one", endpoint, **fields | {"image_size": {"width": 64, "height": 64}})
    rig.port.offer(lease)
    outcome = await rig.outcome(lease.key)
    assert outcome.failure is None
    assert outcome.artifacts == ()
    (frame,) = outcome.output["images"]
    assert Image.open(BytesIO(base64.b64decode(frame["content"]))).size == (64, 64)
