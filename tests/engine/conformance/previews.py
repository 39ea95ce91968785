"""Previews of a case's generation, held against what its pipeline decodes of the same latents."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch

from deployments.engine.drafting.draft import Draft, DraftPoint
from deployments.engine.drafting.fork import Fork
from deployments.engine.engine import Engine
from deployments.engine.interception.components import is_autoencoder, modules_of
from deployments.engine.loop.options import GenerationOptions
from deployments.engine.preview.projection import fit_projection
from deployments.engine.snapshot.state import StateDecoder
from serve_app.domain.errors import ForkRefused, Unsupported
from tests.engine.conformance.case import WISHES, Case
from tests.engine.conformance.outputs import same_bits
from tests.engine.gate import Gate

_PATIENCE_S = 300.0

AUDIO = "does not encode images"
NO_IMAGE = "has no image autoencoder"
REFUSED: Mapping[str, str] = {
    "AceStepPipeline": AUDIO,
    "AllegroPipeline": "Encoding without tiling has not been implemented",
    "AnyFlowFARPipeline": "calls its transformer between its last step and its decoder",
    "AudioLDM2Pipeline": AUDIO,
    "DiffusionGemmaPipeline": NO_IMAGE,
    "KandinskyPriorPipeline": NO_IMAGE,
    "KandinskyV22PriorEmb2EmbPipeline": NO_IMAGE,
    "KandinskyV22PriorPipeline": NO_IMAGE,
    "LLaDA2Pipeline": NO_IMAGE,
    "MiniMaxMusic3ModularPipeline": NO_IMAGE,
    "ShapEImg2ImgPipeline": NO_IMAGE,
    "ShapEPipeline": NO_IMAGE,
    "StableAudio3AudioToAudioPipeline": AUDIO,
    "StableAudio3InpaintPipeline": AUDIO,
    "StableAudio3Pipeline": AUDIO,
    "StableAudioPipeline": AUDIO,
}
"""Classes without previews, and what their refusal says."""


def check(case: Case) -> None:
    """Assert that a preview changes nothing of the result, and shows what the pipeline decodes of
    the same estimate."""
    pipeline, wish = case.build(), WISHES[0]
    with Engine(pipeline, "cpu", threads=1) as engine:
        plain = _submit(engine, case).result(_PATIENCE_S)
        gate = Gate(engine)
        running = _submit(engine, case)
        request = running.request_preview(after=1)
        gate.open()
        assert same_bits(running.result(_PATIENCE_S), plain)
        if (why := REFUSED.get(case.name)) is not None:
            with pytest.raises(Unsupported, match=why):
                request.result(_PATIENCE_S)
            return
        preview = request.result(_PATIENCE_S)
        preview.ready()
        point = DraftPoint(preview.step / running.steps_done)
        decoded = _decoded(engine, case, point, pipeline)
    expected = [pixels for pixels in decoded if pixels.shape == preview.pixels.shape]
    if not decoded or "Inpaint" in case.name or wish.steps != running.steps_done:
        return  # the image round the mask is put back after the step
    assert any((pixels - preview.pixels).abs().max() <= 1 for pixels in expected)


def check_of_draft(case: Case) -> None:
    """Assert that a preview of a draft is made of the draft's estimate. The case shows latents."""
    with Engine(case.build(), "cpu", threads=1) as engine:
        drafted = _submit(engine, case, draft=DraftPoint(0.5)).result(_PATIENCE_S)
        draft = Draft.of_bytes(drafted.to_bytes())
        shown = vars(_submit(engine, case, fork=Fork(draft, preview=True)).result(_PATIENCE_S))
    clean = StateDecoder(draft.tensors, "cpu").put(None, draft.solvers[0].clean)
    assert torch.equal(shown["frames" if "frames" in shown else "images"], clean)


def _submit(engine: Engine, case: Case, **options: Any) -> Any:
    more = {"options": GenerationOptions(**options)} if options else {}
    return engine.submit(**more, **case.arguments(WISHES[0]))


def _decoded(engine: Engine, case: Case, point: DraftPoint, pipeline: Any) -> list[torch.Tensor]:
    """Colours of what a fork of a draft decodes at once; empty if the class has no drafts, or
    decodes without an autoencoder."""
    given: list[tuple[Any, torch.Tensor]] = []
    autoencoders = {
        module  # once: pipelines inside the pipeline share it
        for _, module in modules_of(pipeline)
        if is_autoencoder(type(module)) and hasattr(module, "decode")
    }
    for module in autoencoders:
        module.decode = _noting(module, given)
    try:
        draft = _submit(engine, case, draft=point).result(_PATIENCE_S)
        fork = Fork(Draft.of_bytes(draft.to_bytes()), preview=True)
        _submit(engine, case, fork=fork).result(_PATIENCE_S)
    except (ForkRefused, Unsupported):
        return []
    finally:
        for module in autoencoders:
            del module.decode
    return [
        colours
        for module, latents in given[:1]
        for colours in _colours(module if hasattr(module, "encode") else pipeline.vae, latents)
    ]


def _noting(module: Any, given: list[tuple[Any, torch.Tensor]]) -> Any:
    decode = module.decode

    def note(latents: torch.Tensor, *arguments: Any, **keywords: Any) -> Any:
        given.append((module, latents.detach().clone()))
        return decode(latents, *arguments, **keywords)

    return note


def _colours(module: Any, latents: torch.Tensor) -> list[torch.Tensor]:
    """Colours of the first video's middle, or of each image."""
    middle = latents[:1, :, latents.shape[2] // 2] if latents.ndim == 5 else latents
    projection = fit_projection(module)
    return [projection(image).mul(255).round().to(torch.int16) for image in middle]
