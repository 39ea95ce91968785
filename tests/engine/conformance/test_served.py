"""Every class, from a folder to a file: added by one command, and asked over HTTP."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from serve_app.options.inputs import InputType
from tests.cluster.darkroom import Darkroom
from tests.engine.conformance.derived import NOT_TRIED, refusal
from tests.engine.conformance.served import add_and_ask, as_url, deliver
from tests.engine.conformance.zoo import cases
from tests.engine.ip_adapters import BLUE, RED, adapter_of, save_parts

pytestmark = [pytest.mark.long, pytest.mark.engine, pytest.mark.filterwarnings("ignore")]

POOL = {"families": ["generic", "video", "audio"], "slots": 1, "num_cpus": 0.1}
ONE_SIZE = "its tiny denoiser makes one size, which is smaller than a request may ask for"
NOT_SERVED: Mapping[str, str] = {
    "FluxControlNetPipeline, two ControlNets": "diffusers cannot save the two in one folder",
    "HunyuanDiTControlNetPipeline": ONE_SIZE,
    "HunyuanDiTPAGPipeline": ONE_SIZE,
    "HunyuanDiTPipeline": ONE_SIZE,
    "HunyuanVideo15ModularPipeline, from an image": ONE_SIZE,
    "IFImg2ImgSuperResolutionPipeline": "diffusers insists on components that the tiny one lacks",
    "MotifVideoImage2VideoPipeline": "its tiny text encoder gets its eyes only after it is built",
}
"""Cases for which it cannot be tried."""

TITLES = sorted(
    title
    for title, case in cases().items()
    if case.name not in NOT_TRIED and title not in NOT_SERVED
)


@pytest.fixture(scope="module")
def darkroom(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Darkroom]:
    darkroom = Darkroom(tmp_path_factory.mktemp("served") / "data", pools={"studio": POOL})
    try:
        yield darkroom.start()
    finally:
        darkroom.clear_away()


@pytest.mark.timeout(900)
@pytest.mark.parametrize("title", TITLES)
def test_a_folder_is_served_by_one_command(title: str, darkroom: Darkroom, tmp_path: Path) -> None:
    case = cases()[title]
    if case.name.startswith("Cosmos"):
        pytest.importorskip("cosmos_guardrail")
    if (why := refusal(case)) is not None:
        pytest.skip(why)
    assert deliver(darkroom, case, tmp_path / case.name)


@pytest.mark.parametrize("title", [title for title in TITLES if title.endswith("CombinedPipeline")])
def test_two_stages_are_served_from_the_repository_of_each(
    title: str, darkroom: Darkroom, tmp_path: Path
) -> None:
    case = cases()[title]
    both = case.build()
    both.decoder_pipe.save_pretrained(tmp_path / "decoder")
    both.prior_pipe.save_pretrained(tmp_path / "prior")
    parts = ("--weights", str(tmp_path / "decoder"), "--part", f"prior={tmp_path / 'prior'}")
    refused = darkroom.command("models", "add", "house/x", *parts[:2])
    assert f"--pipeline {case.name} --part prior=" in refused.stderr
    assert add_and_ask(darkroom, case, *parts, "--pipeline", case.name)


def image_of(darkroom: Darkroom, endpoint_id: str, **body: Any) -> NDArray[np.float32]:
    """Pixels of the image that a request makes."""
    size = {"width": 64, "height": 64}
    body = {"prompt": "x", "num_inference_steps": 2, "image_size": size, "seed": 1, **body}
    ran = darkroom.http.post(f"/run/{endpoint_id}", json=body, timeout=300)
    assert ran.status_code == 200, ran.text
    content = httpx.get(ran.json()["images"][0]["url"]).raise_for_status().content
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"), dtype=np.float32)


@pytest.mark.parametrize("name", ["StableDiffusionXLPipeline", "FluxPipeline"])
def test_of_two_ip_adapters_a_request_chooses_the_scale_of_each(
    name: str, darkroom: Darkroom, tmp_path: Path
) -> None:
    pipeline = cases()[name].build()
    tensors = [adapter_of(pipeline, seed=seed) for seed in (1, 2)]
    weights = save_parts(tmp_path, pipeline, tensors)
    parts = [f"--part={e.component}={Path(e.source) / e.file}" for e in weights.parts]
    added = darkroom.command("models", "add", "house/two", "--weights", weights.source, *parts)
    assert added.returncode == 0, added.stderr
    red, blue = as_url(InputType.IMAGE, RED), as_url(InputType.IMAGE, BLUE)

    def image(scale: list[float]) -> NDArray[np.float32]:
        images = {"ip_adapter_image_urls": [red, blue], "ip_adapter_scale": scale}
        return image_of(darkroom, "house/two", **images)

    plain = image_of(darkroom, "house/two")
    assert np.array_equal(image([0, 0]), plain)
    of_one, of_other, of_both = image([1, 0]), image([0, 1]), image([1, 1])
    for changed in (of_one, of_other, of_both):
        assert np.abs(changed - plain).max() > 8
    assert not np.array_equal(of_one, of_other)
    refused = darkroom.http.post("/run/house/two", json={"prompt": "x", "ip_adapter_scale": [1]})
    assert refused.status_code == 422
    assert darkroom.command("models", "delete", "house/two").returncode == 0


def test_an_object_of_fals_chooses_a_control_net_and_an_ip_adapter(
    darkroom: Darkroom, tmp_path: Path
) -> None:
    name, endpoint_id = "FluxControlNetPipeline", "fal-ai/flux-general"
    pipeline = cases()["FluxPipeline"].build()
    weights = save_parts(tmp_path, pipeline, [adapter_of(pipeline)])
    cases()[name].build().controlnet.save_pretrained(tmp_path / "edges")
    parts = [f"--part={e.component}={Path(e.source) / e.file}" for e in weights.parts]
    command = ("--weights", weights.source, *parts, f"--part=controlnet={tmp_path / 'edges'}")
    added = darkroom.command("models", "add", endpoint_id, *command, "--pipeline", name)
    assert added.returncode == 0, added.stderr
    red, blue = as_url(InputType.IMAGE, RED), as_url(InputType.IMAGE, BLUE)

    def image(scale: float, control: float) -> NDArray[np.float32]:
        adapter = {"path": "adapter", "image_encoder_path": "image_encoder", "image_url": red}
        edges = {"path": "edges", "control_image_url": blue, "conditioning_scale": control}
        lists = {"ip_adapters": [{**adapter, "scale": scale}], "controlnets": [edges]}
        return image_of(darkroom, endpoint_id, **lists)

    plain = image_of(darkroom, endpoint_id)
    assert np.array_equal(image(0, 0), plain)
    assert np.abs(image(1, 0) - plain).max() > 8
    assert np.abs(image(0, 1) - plain).max() > 0
    other = {"prompt": "x", "controlnets": [{"path": "house/other", "control_image_url": blue}]}
    refused = darkroom.http.post(f"/run/{endpoint_id}", json=other)
    assert refused.status_code == 422
    (problem,) = refused.json()["detail"]
    assert problem["loc"] == ["body", "controlnets", 0, "path"]
    assert "edges" in problem["msg"]
    assert darkroom.command("models", "delete", endpoint_id).returncode == 0
