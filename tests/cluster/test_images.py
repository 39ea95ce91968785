"""The whole way: a prompt through the public API becomes an image that shows it."""

import base64
import concurrent.futures
import io
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image, ImageChops
from safetensors import safe_open
from safetensors.numpy import save

from tests.cluster.darkroom import CALL_S, Darkroom, eventually
from training.image.checker import read

pytestmark = pytest.mark.cluster

FLUX = "/run/fal-ai/flux/schnell"
SDXL = "/run/fal-ai/fast-sdxl"
WANTED = [
    ("red", "circle"),
    ("blue", "square"),
    ("green", "triangle"),
    ("yellow", "star"),
    ("purple", "square"),
    ("orange", "circle"),
]


def _ask(darkroom: Darkroom, path: str = FLUX, **body: object) -> dict[str, object]:
    answer = darkroom.http.post(path, json={"image_size": "square", **body})
    assert answer.status_code == 200, answer.text
    return answer.json()


def _image(output: dict[str, object], number: int = 0) -> Image.Image:
    content = httpx.get(output["images"][number]["url"], timeout=CALL_S).content  # type: ignore[index]
    return Image.open(io.BytesIO(content)).convert("RGB")


def test_a_prompt_becomes_an_image_that_shows_it(darkroom: Darkroom) -> None:
    darkroom.all_ready()
    right = 0
    for colour, shape in WANTED[:3]:
        output = _ask(darkroom, prompt=f"a {colour} {shape}", output_format="png", seed=1)
        image = _image(output)
        assert image.size == (512, 512)
        seen = read(image).sights
        right += [(sight.colour, sight.shape) for sight in seen] == [(colour, shape)]
    # tests/engine/demo asks for many more; here it matters that it is the model's answer.
    assert right >= 2


def test_two_families_in_one_process_draw_by_turns(darkroom: Darkroom) -> None:
    darkroom.all_ready()

    def draw(number: int) -> bool:
        path = FLUX if number % 2 else SDXL
        fields = {"output_format" if path == FLUX else "format": "png"}
        colour, shape = WANTED[number % len(WANTED)]
        output = _ask(darkroom, path, prompt=f"a {colour} {shape}", seed=number, **fields)
        seen = read(_image(output)).sights
        return [(sight.colour, sight.shape) for sight in seen] == [(colour, shape)]

    darkroom.http  # noqa: B018 made here, once, for all threads
    with concurrent.futures.ThreadPoolExecutor(4) as threads:
        assert sum(threads.map(draw, range(len(WANTED)))) >= 5


def test_the_demo_model_says_that_it_is_one(darkroom: Darkroom) -> None:
    output = _ask(darkroom, prompt="a red circle")
    assert output["darkroom_demo"] is True
    (model,) = darkroom.http.get("/v1/models?endpoint_id=fal-ai/flux/schnell").json()["models"]
    assert model["darkroom_demo"] is True
    assert "demo model" in darkroom.output.read_text()


def test_a_seed_makes_the_same_image_alone_and_in_company(darkroom: Darkroom) -> None:
    darkroom.all_ready()
    alone = _ask(darkroom, prompt="a green star", seed=7, output_format="png")
    company = [darkroom.submit(steps=200, step_ms=10) for _ in range(2)]
    busy = _ask(darkroom, prompt="a green star", seed=7, output_format="png")
    assert _image(alone).tobytes() == _image(busy).tobytes()
    two = _ask(darkroom, prompt="a green star", seed=7, output_format="png", num_images=2)
    # Two at once go through one forward, whose sums a processor may order differently.
    difference = ImageChops.difference(_image(alone), _image(two)).getextrema()
    assert max(high for _, high in difference) <= 3
    assert _image(two, 1).tobytes() != _image(two).tobytes()
    for request_id in company:
        darkroom.in_state(request_id, "succeeded")


def test_a_lora_in_the_request_draws_otherwise_and_a_wrong_one_is_named(
    darkroom: Darkroom,
) -> None:
    darkroom.all_ready()
    fields = {"prompt": "a red circle", "seed": 5, "format": "png", "num_inference_steps": 10}
    plain = _image(_ask(darkroom, SDXL, **fields))
    for scale, changes in ((0.0, False), (1.0, True)):
        loras = [{"path": _lora(), "scale": scale}]
        drawn = _image(_ask(darkroom, SDXL, **fields, loras=loras))
        difference = ImageChops.difference(plain, drawn).getextrema()
        assert (max(high for _, high in difference) > 3) == changes
    body = {**fields, "loras": [{"path": _lora()}, {"path": _lora(width=7)}]}
    wrong = darkroom.http.post(SDXL, json=body)
    assert wrong.status_code == 422
    assert wrong.json()["detail"][0]["loc"] == ["body", "loras", 1, "path"]
    assert "another size" in wrong.json()["detail"][0]["msg"]


def _lora(width: int = 0) -> str:
    """For the demo model, as a data URI. ``width``: for one that has so many instead."""
    file = Path("deployments/demo/sdxl/unet/diffusion_pytorch_model.safetensors")
    layer = "mid_block.attentions.0.transformer_blocks.0.attn2.to_v"
    with safe_open(file, framework="np") as unet:
        out, into = unet.get_slice(f"{layer}.weight").get_shape()
    noise = np.random.default_rng(1)
    state = {
        f"unet.{layer}.lora_A.weight": noise.standard_normal((4, width or into), np.float32),
        f"unet.{layer}.lora_B.weight": noise.standard_normal((out, 4), np.float32),
    }
    return "data:;base64," + base64.b64encode(save(state)).decode()


def test_a_fine_tune_becomes_a_private_endpoint_by_one_call(darkroom: Darkroom) -> None:
    darkroom.all_ready()
    fields: dict[str, Any] = {"prompt": "a red circle", "seed": 5, "output_format": "png"}
    plain = _image(_ask(darkroom, **fields))
    body = {"name": "dark", "base": "fal-ai/flux/schnell", "endpoint": "dark"}
    body["source"] = _uploaded(darkroom, _fine_tune())
    added = darkroom.http.post("/v1/weights", json=body)
    assert added.status_code == 202, added.text

    def checked() -> dict[str, Any] | None:
        weights = darkroom.http.get("/v1/weights/dark").json()
        assert weights["state"] != "refused", weights["problem"]
        return weights if weights["state"] == "ready" else None

    weights = eventually(checked, "the fine-tune is checked")
    assert weights is not None
    assert (weights["kind"], weights["endpoint"]) == ("finetune", "default/dark")
    (file,) = weights["files"]
    assert file["path"] == TRANSFORMER
    drawn = _image(_ask(darkroom, "/run/default/dark", **fields))
    assert drawn.size == plain.size
    difference = ImageChops.difference(plain, drawn).getextrema()
    assert max(high for _, high in difference) > 3
    assert _image(_ask(darkroom, **fields)).tobytes() == plain.tobytes(), "the base is as it was"
    assert darkroom.http.delete("/v1/weights/dark").status_code == 204
    gone = darkroom.http.post("/run/default/dark", json=fields)
    assert gone.status_code == 404, gone.text


TRANSFORMER = "transformer/diffusion_pytorch_model.safetensors"


def _fine_tune() -> bytes:
    """The demo's transformer, trained further: its last layer gives less."""
    from safetensors.torch import load_file  # noqa: PLC0415  # only this test needs torch
    from safetensors.torch import save as save_tensors  # noqa: PLC0415

    state = load_file(Path("deployments/demo/flux") / TRANSFORMER)
    state["proj_out.weight"] = state["proj_out.weight"] * 0.5
    return save_tensors(state)


def _uploaded(darkroom: Darkroom, content: bytes) -> str:
    kind = "application/octet-stream"
    named = {"file_name": "tuned.safetensors", "content_type": kind}
    place = darkroom.http.post("/rest/storage/upload/initiate", json=named).json()
    sent = httpx.put(
        place["upload_url"], content=content, headers={"content-type": kind}, timeout=CALL_S
    )
    assert sent.status_code == 200, sent.text
    return str(place["file_url"])


@pytest.mark.parametrize(("asked", "format"), [("png", "PNG"), ("jpeg", "JPEG"), ("webp", "WEBP")])
def test_the_image_has_the_format_and_size_that_was_asked_for(
    darkroom: Darkroom, asked: str, format: str
) -> None:
    output = _ask(
        darkroom,
        prompt="a red circle",
        num_inference_steps=1,
        output_format=asked,
        image_size={"width": 640, "height": 360},
    )
    (image,) = output["images"]  # type: ignore[misc]
    content = httpx.get(image["url"], timeout=CALL_S)
    assert content.headers["content-type"] == f"image/{asked}"
    assert Image.open(io.BytesIO(content.content)).format == format
    assert (image["width"], image["height"]) == (640, 360)
    assert Image.open(io.BytesIO(content.content)).size == (640, 360)


def test_a_field_out_of_range_is_named_and_an_unknown_one_is_only_warned_of(
    darkroom: Darkroom,
) -> None:
    wrong = darkroom.http.post(FLUX, json={"prompt": "x", "num_inference_steps": 13})
    assert wrong.status_code == 422
    assert wrong.json()["detail"][0]["loc"] == ["body", "num_inference_steps"]
    right = darkroom.http.post(FLUX, json={"prompt": "a red circle", "num_inference_stepz": 3})
    assert right.status_code == 200
    log = darkroom.request(right.headers["x-fal-request-id"])["log"]
    assert any("num_inference_stepz" in line["message"] for line in log)
