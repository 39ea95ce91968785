"""The rule for half precision: sharing a forward changes an image, a video or audio no more than
other kernels do.

In bfloat16 two right ways to add the same numbers differ visibly in the third digit, so no fixed
bound says whether merging is harmless. What says it is the pipeline's own noise: two plain runs of
which one computes attention by other kernels.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel

from deployments.engine.loading.loader import load_pipeline
from deployments.engine.lora.format import Lora
from deployments.engine.merging.verification import low_precision_dtype
from serve_app.domain.endpoint import Weights
from tests.engine.demo_calls import CALLS, DEMO, call, made_of
from tests.engine.gate import Gate, merging_engine
from tests.engine.loops import Denoiser, Loop
from tests.engine.loras import attention_of, save_lora
from tests.samples import sample_params

pytestmark = [
    pytest.mark.engine,
    # torch, transformers and diffusers deprecate names of their own while they load.
    pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Should have t[ab]:UserWarning"),  # torchsde, of rounding
]


@pytest.mark.parametrize(
    ("module", "device", "dtype"),
    [
        (torch.nn.Conv2d(1, 1, 1), "cuda", torch.float16),
        (torch.nn.Linear(1, 1), "cuda", None),
        (torch.nn.Conv2d(1, 1, 1), "cpu", None),
    ],
)
def test_convolutions_of_a_gpu_in_float32_are_judged_by_the_10_bits_that_they_keep(
    module, device, dtype
):
    with FakeTensorMode():
        output = torch.empty(1, 1, device=device)
    assert low_precision_dtype([output], module) == dtype


WISHES = [
    ("a red circle moving left", 4),
    ("a green star moving right", 5),
    ("a yellow heart moving up", 4),
]


def wish(family: str, number: int) -> dict[str, Any]:
    prompt, steps = WISHES[number]
    return {**call(family, number, steps), "prompt": prompt}


def apart(some: list[Any], others: list[Any]) -> torch.Tensor:
    """Root of the mean square of what two sets differ by; 1 is white against black."""
    pairs = zip(some, others, strict=True)
    return torch.cat([(a.float() - b.float()).flatten() for a, b in pairs]).square().mean().sqrt()


@pytest.mark.long
@pytest.mark.parametrize("family", sample_params(CALLS, "flux"))
def test_merging_changes_what_a_demo_model_makes_no_more_than_other_kernels_do(
    family: str,
) -> None:
    pipeline = load_pipeline(Weights(str(DEMO / family)), dtype="bfloat16")
    plain = [made_of(pipeline(**wish(family, number))) for number in range(len(WISHES))]
    with sdpa_kernel(SDPBackend.MATH):
        otherwise = [made_of(pipeline(**wish(family, number))) for number in range(len(WISHES))]
    with merging_engine(pipeline, max_batch=4, threads=1, verify_merges=True) as engine:
        gate = Gate(engine)
        generations = [engine.submit(**wish(family, number)) for number in range(len(WISHES))]
        gate.open()
        merged = [made_of(generation.result(100)) for generation in generations]
        counts = engine.counts()
        assert counts["merged_calls"] >= 8
        assert "differs when merged" not in counts["not_merged"]
        single = engine.submit(**wish(family, 0)).result(100)
    assert torch.equal(made_of(single), plain[0])
    noise = apart(plain, otherwise)
    assert noise > 1e-4  # or the comparison would say nothing
    assert apart(plain, merged) <= noise


class Kernels(Denoiser):
    """Takes others for several rows, which round otherwise: by a hundredth, here and there."""

    def compute(self, latents: Any, timestep: Any) -> Any:
        output = super().compute(latents, timestep)
        if len(latents) == 1:
            return output
        return output * (1 + 0.01 * torch.linspace(-1, 1, latents.shape[1]).to(output.dtype))


class MixesALittle(Denoiser):
    """Lets rows see each other, by less than kernels differ elsewhere."""

    def compute(self, latents: Any, timestep: Any) -> Any:
        return super().compute(latents + 0.02 * (latents.mean(0) - latents), timestep)


class AddsUp(Denoiser):
    """Lets rows see each other, also those that are alike."""

    def compute(self, latents: Any, timestep: Any) -> Any:
        return super().compute(latents + 0.1 * (latents.sum(0) - latents), timestep)


@pytest.mark.parametrize(
    ("denoiser", "merges"), [(Kernels, True), (MixesALittle, False), (AddsUp, False)]
)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_first_merge_may_differ_as_much_as_a_call_among_copies_of_itself_and_no_more(
    denoiser: type[Denoiser], merges: bool, dtype: torch.dtype
) -> None:
    starts = [
        torch.randn(1, 64, generator=torch.Generator().manual_seed(n)).to(dtype) for n in range(3)
    ]
    with merging_engine(Loop(denoiser()), threads=1, verify_merges=True) as engine:
        gate = Gate(engine)
        generations = [engine.submit(start=start) for start in starts]
        gate.open()
        outputs = [generation.result(60) for generation in generations]
        counts = engine.counts()
    assert counts["merged_calls"] == (9 if merges else 0)
    if not merges:
        assert counts["single_calls"] == 9
        assert counts["not_merged"]["differs when merged"] >= 8  # the last has nobody else
        for start, output in zip(starts, outputs, strict=True):
            assert torch.equal(output, Loop(denoiser())(start))


@pytest.mark.parametrize("scale", sample_params([0.1, 10.0], 10.0))
@pytest.mark.parametrize("order", sample_params([(0, 1), (None, 0), (0, None)], (0, 1)))
def test_loras_of_any_scale_share_forwards(
    order: tuple[int | None, ...], scale: float, tmp_path: Path
) -> None:
    """They round as well, the more the larger they are, and those of each row otherwise."""
    pipeline = load_pipeline(Weights(str(DEMO / "flux")), dtype="bfloat16")
    layers = attention_of(pipeline.transformer)
    files = [save_lora(tmp_path, pipeline, seed, 16, layers) for seed in range(2)]
    loras = [[] if number is None else [Lora(files[number], scale)] for number in order]
    with merging_engine(pipeline, max_batch=4, threads=1, verify_merges=True) as engine:
        for its in loras:
            engine.submit(loras=its, **wish("flux", 0)).result(100)
        gate = Gate(engine)
        running = [engine.submit(loras=its, **wish("flux", n)) for n, its in enumerate(loras)]
        gate.open()
        for generation in running:
            generation.result(100)
        counts = engine.counts()
    assert counts["merged_calls"] >= 8
    assert "differs when merged" not in counts["not_merged"]
