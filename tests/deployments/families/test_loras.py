"""LoRAs named in inputs, through a replica, the real engine and tiny real pipelines."""

import asyncio
import base64
from dataclasses import replace
from io import BytesIO

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from deployments.families.base import GenerationResult, load_families
from deployments.families.registry import FAMILIES
from serve_app.domain.progress import Stage
from tests.deployments.served import CATALOG, from_folder
from tests.deployments.waiting import until
from tests.engine.gate import Gate
from tests.engine.loras import save_lora
from tests.engine.tiny import tiny_flux, tiny_sdxl
from tests.engine.tiny_qwen import tiny_qwen_image
from tests.samples import sample_params

pytestmark = [
    pytest.mark.engine,
    pytest.mark.usefixtures("one_torch_thread"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
]

FLUX = "fal-ai/flux-lora"
ENDPOINTS = {
    FLUX: tiny_flux,
    "fal-ai/fast-sdxl": tiny_sdxl,
    "fal-ai/fast-sdxl/inpainting": tiny_sdxl,
    "fal-ai/qwen-image": tiny_qwen_image,
}
IMAGES = ("image_url", "mask_url")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Folders of the tiny pipelines, each with two LoRAs."""
    saved = {}
    for make in dict.fromkeys(ENDPOINTS.values()):
        folder, pipeline = tmp_path_factory.mktemp(make.__name__), make()
        pipeline.save_pretrained(folder / "weights", safe_serialization=True)
        saved[make] = folder
        for seed in (1, 2):
            save_lora(folder, pipeline, seed)
    return saved


def inline(file):
    return "data:;base64," + base64.b64encode(file.read_bytes()).decode()


def make_image():
    image = Image.effect_noise((64, 64), 60).convert("RGB")
    buffer = BytesIO()
    image.save(buffer, "PNG")
    return image, "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def make_input(endpoint_id, *loras, seed=3, steps=4):
    """A validated client's body, and the image that it names."""
    schema = CATALOG.get(endpoint_id).schema
    image, url = make_image()
    fields = set(schema.json_schema()["properties"])
    body = {
        "prompt": "a red circle",
        "image_size": {"width": 64, "height": 64},
        "num_inference_steps": steps,
        "seed": seed,
        "loras": [{"path": inline(file), "scale": scale} for file, scale in loras],
        **{name: url for name in IMAGES if name in fields},
    }
    checked, _ = schema.validate(body)
    return checked, image


def by_diffusers(endpoint, make, lora, checked, image):
    """The file that diffusers makes with the LoRA loaded into the pipeline."""
    family, pipeline = load_families(FAMILIES)[endpoint.family], make()
    file, scale = lora
    pipeline.load_lora_weights(file.parent, weight_name=file.name, adapter_name="lora")
    pipeline.set_adapters(["lora"], [scale])
    as_read = {"image_url": image, "mask_url": image.convert("L")}
    images = {name: as_read[name] for name in IMAGES if name in checked}
    call = family.prepare(endpoint, {**checked, **images}, pipeline, 1)
    result = (call.view or pipeline)(**call.arguments)
    return result, family, call


def levels(body):
    image = Image.open(BytesIO(body)).convert("RGB")
    return torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).int()


@pytest.mark.variants(1)
@pytest.mark.parametrize(
    "endpoint_id", sample_params(ENDPOINTS, FLUX, "fal-ai/fast-sdxl/inpainting")
)
async def test_two_requests_with_loras_share_forwards_and_get_what_diffusers_makes(
    make_rig, folders, endpoint_id
):
    make = ENDPOINTS[endpoint_id]
    folder = folders[make]
    endpoint = from_folder(endpoint_id, folder / "weights", dtype="float32")
    loras = [(folder / "1.safetensors", 0.6), (folder / "2.safetensors", -0.4)]
    rig = await make_rig(slots=3)

    def offer(name, lora, **more):
        checked, image = make_input(endpoint_id, lora, **more)
        lease = rig.lease(name, endpoint, **checked)
        rig.port.offer(lease)
        return lease.key, checked, image

    # Loaded first, so that the requests under test run together.
    first = [offer(f"first {n}", lora, steps=2)[0] for n, lora in enumerate(loras)]
    assert [(await rig.outcome(key)).failure for key in first] == [None, None]
    engine = rig.resources.engine
    before = engine.counts()["merged_calls"]
    gate = Gate(engine)
    both = [offer(f"second {n}", lora, seed=n) for n, lora in enumerate(loras)]
    await until(lambda: all(_looked(rig, key) for key, _, _ in both))
    await asyncio.to_thread(gate.open)
    for (lease_key, checked, image), lora in zip(both, loras, strict=True):
        assert (await rig.outcome(lease_key)).failure is None
        stored = rig.storage.objects[f"{lease_key.request_id}/1/0"]
        result, family, call = by_diffusers(endpoint, make, lora, checked, image)
        ticket = rig.storage.ticket("expected")
        (file,) = family.deliver(endpoint, call, GenerationResult(result, 1.0, 1), [ticket]).files
        assert (levels(stored) - levels(file.body)).abs().max() <= 1
    assert engine.counts()["merged_calls"] > before


def _looked(rig, lease_key):
    attempt = rig.replica._attempts.get(lease_key)
    generation = attempt and attempt.state.generation
    return generation is not None and generation._loras.files.done()


def _step(rig, lease_key):
    attempt = rig.replica._attempts.get(lease_key)
    generation = attempt and attempt.state.generation
    return 0 if generation is None else generation.steps_done


@pytest.fixture
def flux(folders):
    return folders[tiny_flux]


async def run_to_failure(rig, flux, *loras):
    checked, _ = make_input(FLUX)
    endpoint = from_folder(FLUX, flux / "weights", dtype="float32")
    lease = rig.lease("bad", endpoint, **{**checked, "loras": list(loras)})
    rig.port.offer(lease)
    return (await rig.outcome(lease.key)).failure


def change_lora(file, folder, change):
    save_file(change(load_file(file)), folder / "changed.safetensors")
    return inline(folder / "changed.safetensors")


ENCODER = "text_encoder.text_model.encoder.layers.9.self_attn.q_proj"
WRONG = {
    "has no text_encoder.text_model.encoder.layers.9": lambda state: {
        **state,
        f"{ENCODER}.lora_A.weight": torch.ones(2, 32),
        f"{ENCODER}.lora_B.weight": torch.ones(32, 2),
    },
    "for a model of another size": lambda state: {name: torch.ones(3, 3) for name in state},
    "is a DoRA that lacks lora_up": lambda state: {
        name.replace("lora_B.weight", "dora_scale"): tensor for name, tensor in state.items()
    },
}


@pytest.mark.long
@pytest.mark.parametrize("says", WRONG)
async def test_what_the_model_cannot_take_is_the_fault_of_its_field(rig, flux, tmp_path, says):
    good = {"path": inline(flux / "1.safetensors")}
    bad = {"path": change_lora(flux / "1.safetensors", tmp_path, WRONG[says])}
    failure = await run_to_failure(rig, flux, good, bad)
    assert says in failure.message
    assert (failure.field, failure.retryable) == ("loras.1.path", False)
    assert str(tmp_path) not in failure.message


async def test_what_of_a_lora_is_not_applied_is_a_line_in_the_requests_log(rig, flux, tmp_path):
    norm, reason = "transformer.transformer_blocks.0.norm_of_others.diff", "zeros change nothing"
    lora = change_lora(
        flux / "1.safetensors", tmp_path, lambda state: {**state, norm: torch.zeros(3)}
    )
    endpoint = from_folder(FLUX, flux / "weights", dtype="float32")
    lease = rig.lease("noted", endpoint, **{**make_input(FLUX)[0], "loras": [{"path": lora}]})
    rig.port.offer(lease)
    assert (await rig.outcome(lease.key)).failure is None
    reported = [lines for _, report in rig.port.reports for _, lines in report.lines]
    finished = [finish.lines for finish in rig.port.finishes]
    ((level, text),) = [line for lines in (*reported, *finished) for line in lines]
    assert level == "WARNING"
    assert text == f"loras.0.path: A tensor of the LoRA is not applied ({norm}): {reason}."


async def test_a_file_that_cannot_be_fetched_is_reported_before_any_weights_are_loaded(rig, flux):
    failure = await run_to_failure(rig, flux, {"path": "http://127.0.0.1:1/lora.safetensors"})
    assert "private address" in failure.message
    assert failure.field == "loras.0.path"
    assert rig.resources.loaded_endpoints == ()


async def test_the_status_says_that_files_are_fetched_and_a_cancelled_request_ends(rig, flux):
    rig.storage.closed = asyncio.Event()
    checked, _ = make_input(FLUX)
    endpoint = from_folder(FLUX, flux / "weights")
    loras = [{"path": "http://localhost/files/r/1/a"}]
    lease = rig.lease("slow", endpoint, **{**checked, "loras": loras})
    lease = replace(lease, files_url="http://ingress:8000")
    rig.port.offer(lease)
    await rig.port.until(
        lambda: any(
            progress.stage is Stage.FETCHING
            for _, report in rig.port.reports
            for _, progress in report.progress
        )
    )
    rig.port.cancelled.add(lease.key)
    assert (await rig.outcome(lease.key)).failure.code == "cancelled"
    rig.storage.closed.set()


@pytest.mark.long
async def test_another_replica_goes_on_from_a_snapshot_with_the_same_loras(make_rig, flux):
    checked, _ = make_input(FLUX, (flux / "1.safetensors", 0.6), steps=50)
    endpoint = from_folder(FLUX, flux / "weights", dtype="float32")
    first_rig = await make_rig(snapshot_interval_s=0.05, report_interval_s=0.05)
    first = first_rig.lease("long", endpoint, **checked)
    first_rig.port.offer(first)
    await until(lambda: _step(first_rig, first.key) > 0)
    generation = first_rig.replica._attempts[first.key].state.generation
    generation.pause()
    await first_rig.port.until(lambda: first.key in first_rig.port.snapshots)
    kept = first_rig.port.snapshots[first.key]
    body = first_rig.storage.objects[kept.key]
    generation.resume()
    assert (await first_rig.outcome(first.key)).failure is None
    other = await make_rig()
    other.storage.objects[kept.key] = body
    again = replace(
        other.lease("long", endpoint, attempt=2, **checked),
        snapshot_url=f"http://storage/files/{kept.key}",
        files_url="http://storage",
    )
    other.port.offer(again)
    assert (await other.outcome(again.key)).failure is None
    assert other.resources.engine.counts()["forwards"] == 50 - kept.step
    assert other.storage.objects["long/2/0"] == first_rig.storage.objects["long/1/0"]
