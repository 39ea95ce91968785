"""IP-Adapters: the image of a request, each with its own scale."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline
from transformers import CLIPVisionModelWithProjection

from deployments.engine.engine import Engine
from deployments.engine.loading.ip_adapter import ScaledValues, with_scale
from deployments.engine.loading.loader import weights_bytes
from deployments.engine.loop.options import GenerationOptions
from deployments.engine.reading.unread import UnreadWeight, reading_later
from serve_app.domain.endpoint import Weights
from serve_app.domain.errors import WeightsUnavailable
from serve_app.domain.progress import Progress, Stage
from tests.engine.conformance.vision_encoders import clip, siglip
from tests.engine.conformance.zoo import cases
from tests.engine.gate import Gate, merging_engine, together
from tests.engine.ip_adapters import (
    BLUE,
    FILE,
    RED,
    adapter_of,
    load_adapter_pipeline,
    save_with_adapter,
)
from tests.engine.tiny import tiny_flux, tiny_sd3, tiny_sdxl
from weights.selection import select

pytestmark = [
    pytest.mark.engine,
    # diffusers' discrete solvers and numpy 2
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    # about the offset of steps in the settings of a tiny solver
    pytest.mark.filterwarnings("ignore:.*The configuration file of this scheduler:FutureWarning"),
]

BOUND = 1e-4
MAKERS = {"sdxl": tiny_sdxl, "flux": tiny_flux}


@pytest.fixture(scope="module", params=[*MAKERS, "sdxl plus"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("adapter")
    kind, _, plus = request.param.partition(" ")
    pipeline = MAKERS[kind]()
    return save_with_adapter(directory, pipeline, adapter_of(pipeline, patches=bool(plus)))


@pytest.fixture(scope="module")
def pipeline(folder: Path) -> Any:
    return load_adapter_pipeline(folder)


def wish(seed: int, image: Any = None, **more: Any) -> dict[str, Any]:
    fields = {} if image is None else {"ip_adapter_image": image}
    return {
        "prompt": "a red circle",
        "num_inference_steps": 3,
        "width": 32,
        "height": 32,
        "output_type": "pt",
        "generator": torch.Generator().manual_seed(seed),
        **fields,
        **more,
    }


Scale = float | Sequence[float]


def options_with_scale(scale: Scale) -> GenerationOptions:
    return GenerationOptions(set_up=with_scale(scale))


def generate_alone(pipeline: Any, seed: int, image: Any = None, scale: Scale = 1.0) -> torch.Tensor:
    with Engine(pipeline, threads=1, max_batch=1) as engine:
        options = GenerationOptions() if image is None else options_with_scale(scale)
        return engine.submit(options=options, **wish(seed, image)).result(60).images


def directory_of(folder: Path) -> Path:
    """Directory in which a folder was composed."""
    return folder.parents[2]


def without_adapter(folder: Path, seed: int) -> torch.Tensor:
    plain: Any = DiffusionPipeline.from_pretrained(str(directory_of(folder) / "base"))
    plain.set_progress_bar_config(disable=True)
    return plain(**wish(seed)).images


@pytest.mark.variants(1)
def test_the_image_changes_what_is_made_and_scale_0_or_no_image_change_no_bit(
    folder: Path, pipeline: Any
) -> None:
    plain = without_adapter(folder, 1)
    assert torch.equal(generate_alone(pipeline, 1), plain)
    assert torch.equal(generate_alone(pipeline, 1, RED, scale=0), plain)
    red, blue = generate_alone(pipeline, 1, RED), generate_alone(pipeline, 1, BLUE)
    assert (red - plain).abs().max() > 0.01
    assert (red - blue).abs().max() > 0.01
    weak = generate_alone(pipeline, 1, RED, scale=0.3)
    assert 0 < (weak - plain).abs().mean() < (red - plain).abs().mean()


@pytest.mark.long
def test_requests_with_other_images_and_scales_share_forwards_and_make_what_each_makes_alone(
    pipeline: Any,
) -> None:
    inputs: Sequence[tuple[int, Any, float]] = [(1, RED, 1.0), (2, BLUE, 0.4), (3, RED, 0.0)]
    expected = [generate_alone(pipeline, *arguments) for arguments in inputs]
    calls = [
        {**wish(seed, image), "options": options_with_scale(scale)} for seed, image, scale in inputs
    ]
    with merging_engine(pipeline, threads=1) as engine:
        results = together(engine, [*calls, wish(4)])
        counts = engine.counts()
    for result, its in zip(results, expected, strict=False):
        assert (result.images - its).abs().max() <= BOUND
    assert (results[3].images - generate_alone(pipeline, 4)).abs().max() <= BOUND
    assert max(counts["batch_sizes"]) == 3
    assert "failed when merged" not in counts["not_merged"]


@pytest.mark.long
def test_an_embedding_without_a_scale_counts_whole(pipeline: Any) -> None:
    with Engine(pipeline, threads=1, max_batch=1) as engine:
        plain = engine.submit(**wish(1, RED)).result(60).images
    assert torch.equal(plain, generate_alone(pipeline, 1, RED))


@pytest.mark.long
def test_the_result_is_that_of_diffusers_own_adapter(tmp_path: Path) -> None:
    ours = load_adapter_pipeline(save_with_adapter(tmp_path, tiny_sdxl()))
    theirs = diffusers_own(tmp_path, "adapter")
    for scale in (1.0, 0.35):
        theirs.set_ip_adapter_scale(scale)
        expected = theirs(**wish(5, BLUE)).images
        result = generate_alone(ours, 5, BLUE, scale)
        assert (
            torch.equal(result, expected) if scale == 1 else (result - expected).abs().max() < BOUND
        )


def diffusers_own(directory: Path, *adapters: str) -> Any:
    """Pipeline that diffusers has loaded adapters into, from these folders."""
    theirs: Any = DiffusionPipeline.from_pretrained(str(directory / "base"))
    theirs.image_encoder = CLIPVisionModelWithProjection.from_pretrained(
        directory / "adapter" / "image_encoder"
    )
    places = [str(directory / adapter) for adapter in adapters]
    theirs.load_ip_adapter(places, subfolder="", weight_name=[FILE] * len(places))
    theirs.set_progress_bar_config(disable=True)
    return theirs


TWO = {
    "sd": (cases()["StableDiffusionPipeline"].build, {"patches": True}),
    "sdxl": (tiny_sdxl, {"patches": True}),
    "flux": (tiny_flux, {"seed": 8}),
}
"""Pipeline, and how its second adapter differs from the first."""


@pytest.fixture(scope="module", params=TWO)
def folder_of_two(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    make, second = TWO[request.param]
    pipeline = make()
    tensors = adapter_of(pipeline), adapter_of(pipeline, **second)
    return save_with_adapter(tmp_path_factory.mktemp("two"), pipeline, *tensors)


@pytest.fixture(scope="module")
def two(folder_of_two: Path) -> Any:
    return load_adapter_pipeline(folder_of_two)


@pytest.mark.variants(1)
def test_of_two_adapters_each_has_its_image_and_its_scale_as_in_diffusers(
    folder_of_two: Path, two: Any
) -> None:
    theirs = diffusers_own(directory_of(folder_of_two), "adapter", "adapter_1")
    images = [RED, BLUE]
    plain = generate_alone(two, 5)
    assert torch.equal(generate_alone(two, 5, images, [0, 0]), plain)
    for scales in ([1.0, 1.0], [1.0, 0.0], [0.0, 1.0], [0.35, 0.8]):
        theirs.set_ip_adapter_scale(scales)
        expected = theirs(**wish(5, images)).images
        result = generate_alone(two, 5, images, scales)
        assert (result - plain).abs().max() > 0.005
        if {*scales} == {1.0}:
            assert torch.equal(result, expected)
        assert (result - expected).abs().max() < BOUND
    assert not torch.equal(generate_alone(two, 5, [BLUE, RED]), generate_alone(two, 5, images))


@pytest.mark.long
def test_rows_with_other_images_and_scales_of_two_adapters_share_forwards(two: Any) -> None:
    inputs: Sequence[tuple[int, Any, Scale]] = [
        (1, [RED, BLUE], [1.0, 0.5]),
        (2, [BLUE, RED], [0.0, 1.0]),
        (3, [RED, RED], [0.2, 0.0]),
    ]
    check_merged(two, inputs)


def check_merged(pipeline: Any, inputs: Sequence[tuple[int, Any, Scale]]) -> None:
    """Assert that the generations share forwards, and make what each makes alone."""
    expected = [generate_alone(pipeline, *arguments) for arguments in inputs]
    calls = [
        {**wish(seed, image), "options": options_with_scale(scale)} for seed, image, scale in inputs
    ]
    with merging_engine(pipeline, threads=1) as engine:
        results = together(engine, calls)
        counts = engine.counts()
    for result, its in zip(results, expected, strict=True):
        assert (result.images - its).abs().max() <= BOUND
    assert max(counts["batch_sizes"]) == len(inputs)
    assert counts["not_merged"].keys().isdisjoint({"failed when merged", "differs when merged"})


@pytest.mark.long
def test_an_adapter_looks_at_several_images_as_in_diffusers(folder: Path, pipeline: Any) -> None:
    theirs = diffusers_own(directory_of(folder), "adapter")
    images = [[RED, BLUE]]
    result = generate_alone(pipeline, 5, images)
    assert torch.equal(result, theirs(**wish(5, images)).images)
    assert not torch.equal(result, generate_alone(pipeline, 5, RED))
    check_merged(pipeline, [(1, images, 0.5), (2, [[BLUE, BLUE]], 1.0)])


@pytest.mark.long
def test_images_of_other_numbers_run_apart(pipeline: Any) -> None:
    inputs: Sequence[tuple[int, Any, Scale]] = [(1, [[RED, BLUE]], 0.5), (2, RED, 1.0)]
    expected = [generate_alone(pipeline, *arguments) for arguments in inputs]
    calls = [
        {**wish(seed, image), "options": options_with_scale(scale)} for seed, image, scale in inputs
    ]
    with merging_engine(pipeline, threads=1) as engine:
        results = together(engine, calls)
        assert engine.counts()["not_merged"]["other shapes or values"] > 0
    for result, its in zip(results, expected, strict=True):
        assert (result.images - its).abs().max() <= BOUND


@pytest.mark.long
def test_a_second_adapter_for_stable_diffusion_3_is_refused(tmp_path: Path) -> None:
    original = tiny_sd3()
    tensors = [adapter_of(original, seed=seed) for seed in (7, 8)]
    folder = save_with_adapter(tmp_path, original, *tensors, encoder=siglip())
    with pytest.raises(WeightsUnavailable, match="loads one IP-Adapter into StableDiffusion3Pipe"):
        load_adapter_pipeline(folder)


@pytest.mark.long
def test_a_generation_resumes_with_its_image_and_scale(pipeline: Any) -> None:
    expected = generate_alone(pipeline, 6, RED, 0.5)
    box: list[Any] = []
    snapshots: list[Any] = []

    def ask(progress: Progress) -> None:
        if progress.stage is Stage.DENOISING and progress.step == 1:
            snapshots.append(box[0].request_snapshot())

    with Engine(pipeline, threads=1, max_batch=1) as engine:
        gate = Gate(engine)
        box.append(engine.submit(options=options_with_scale(0.5), on_progress=ask, **wish(6, RED)))
        gate.open()
        assert torch.equal(box[0].result(60).images, expected)
        snapshot = snapshots[0].result(60).to_bytes()
        resumed = engine.submit(options=options_with_scale(0.5), snapshot=snapshot, **wish(6, RED))
        assert torch.equal(resumed.result(60).images, expected)
        assert resumed.steps_done == 3


@pytest.mark.long
def test_its_weights_are_read_later_and_counted(folder: Path, pipeline: Any) -> None:
    with reading_later():
        unread = load_adapter_pipeline(folder)
    assert all(isinstance(parameter, UnreadWeight) for parameter in _denoiser(unread).parameters())
    of_all = weights_bytes(Weights(str(folder)), {"default": "float32"}, select)
    modules = [value for value in vars(pipeline).values() if isinstance(value, torch.nn.Module)]
    parameters = {id(p): p.numel() * 4 for module in modules for p in module.parameters()}
    assert sum(parameters.values()) <= of_all
    layers = [e for e in _denoiser(pipeline).modules() if isinstance(e, ScaledValues)]
    assert layers
    assert all(layer.linear.weight.dtype == torch.float32 for layer in layers)


def _denoiser(pipeline: Any) -> Any:
    return getattr(pipeline, "unet", None) or pipeline.transformer


@pytest.mark.long
def test_its_layers_have_the_denoisers_dtype(folder: Path) -> None:
    pipeline = load_adapter_pipeline(folder, "bfloat16")
    assert {parameter.dtype for parameter in _denoiser(pipeline).parameters()} == {torch.bfloat16}
    assert generate_alone(pipeline, 1, RED, 0.5).isfinite().all()


@pytest.mark.long
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"width": 24}, "takes 24 values of an image, and image_encoder gives 32"),
        ({"without": "ip_adapter"}, "it is no IP-Adapter"),
        ({"without": "image_proj"}, "it is no IP-Adapter"),
        ({"without": "ip_adapter.1.to_k_ip"}, r"it has no 1.to_k_ip.weight, which the UNet2DCond"),
        (
            {"narrow": True},
            "its 1.to_k_ip.weight is 64×32, and the UNet2DConditionModel needs 64×64",
        ),
        ({"face": True}, "it is a Face ID adapter"),
    ],
)
def test_an_adapter_of_another_model_is_refused(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    original = tiny_sdxl()
    tensors = adapter_of(original, width=change.get("width", 32))
    if without := change.get("without"):
        tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith(without)}
    if change.get("narrow"):
        tensors = {
            name: tensor[:, :32].contiguous() if "_ip." in name else tensor
            for name, tensor in tensors.items()
        }
    if change.get("face"):
        del tensors["image_proj.proj.weight"], tensors["image_proj.proj.bias"]
        tensors["image_proj.proj.0.weight"] = torch.zeros(64, 512)
        tensors["image_proj.proj.2.weight"] = torch.zeros(256, 64)
    folder = save_with_adapter(tmp_path, original, tensors)
    with pytest.raises(WeightsUnavailable, match=message) as refused:
        load_adapter_pipeline(folder)
    assert f"The part ip_adapter, {FILE}, cannot be loaded" in str(refused.value)


@pytest.mark.long
def test_an_encoder_of_another_size_is_named(tmp_path: Path) -> None:
    folder = save_with_adapter(tmp_path, tiny_sdxl(), encoder=clip(width=64))
    with pytest.raises(WeightsUnavailable, match="--part image_encoder=owner/name/folder"):
        load_adapter_pipeline(folder)


@pytest.fixture(scope="module")
def sd3(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return load_adapter_pipeline(
        save_with_adapter(tmp_path_factory.mktemp("sd3"), tiny_sd3(), encoder=siglip())
    )


@pytest.mark.long
def test_of_stable_diffusion_3_requests_with_equal_scales_share_forwards(sd3: Any) -> None:
    inputs: Sequence[tuple[int, Any, float]] = [(1, RED, 0.8), (2, BLUE, 0.8), (3, BLUE, 0.2)]
    expected = [generate_alone(sd3, *arguments) for arguments in inputs]
    calls = [
        {**wish(seed, image), "options": options_with_scale(scale)} for seed, image, scale in inputs
    ]
    with merging_engine(sd3, threads=1) as engine:
        results = together(engine, calls)
        counts = engine.counts()
    for result, its in zip(results, expected, strict=True):
        assert (result.images - its).abs().max() <= BOUND
    assert max(counts["batch_sizes"]) == 2
    assert torch.equal(generate_alone(sd3, 1, RED, 0), generate_alone(sd3, 1))
    assert not torch.equal(expected[0], generate_alone(sd3, 1))
