"""Pipeline classes that cannot make drafts."""

from __future__ import annotations

from collections.abc import Mapping

_MOMENTUM = "its guidance keeps a momentum from step to step"
_STAGES = "its first stage has a scheduler of its own"
_KEEPS = "it keeps keys and values from its first step"
_EACH_FRAME = "it has a scheduler for each frame"
_TEXT = "it makes text, of which there are no previews"

REFUSALS: Mapping[str, str] = {
    "AceStepPipeline": _MOMENTUM,
    "DiffusionGemmaPipeline": _TEXT,
    "EchoModularPipeline": "it has no scheduler",
    "Flux2KleinKVPipeline": _KEEPS,
    "HunyuanImagePipeline": _MOMENTUM,
    "KandinskyCombinedPipeline": _STAGES,
    "KandinskyImg2ImgCombinedPipeline": _STAGES,
    "KandinskyInpaintCombinedPipeline": _STAGES,
    "KandinskyV22CombinedPipeline": _STAGES,
    "KandinskyV22Img2ImgCombinedPipeline": _STAGES,
    "KandinskyV22InpaintCombinedPipeline": _STAGES,
    "LLaDA2Pipeline": _TEXT,
    "MiniMaxH3ModularPipeline": "its audio has a scheduler of its own",
    "QwenImage21ModularPipeline": _KEEPS,
    "QwenImage21TurboModularPipeline": _KEEPS,
    "SkyReelsV2DiffusionForcingPipeline": _EACH_FRAME,
    "SkyReelsV2DiffusionForcingImageToVideoPipeline": _EACH_FRAME,
    "SkyReelsV2DiffusionForcingVideoToVideoPipeline": _EACH_FRAME,
    "StableUnCLIPPipeline": _STAGES,
}
"""Pipeline classes that cannot make drafts, and why. Of all others that diffusers exports, the
conformance tests know that a generation goes on from its draft with the same bits."""
