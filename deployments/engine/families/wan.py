"""Wan 2.1 and 2.2, and SkyReels V2, which is made of it."""

from __future__ import annotations

from deployments.engine.declarations import Declaration, Joins, ModelFamily

_GOES_ON = Declaration(solo="it goes on from the chunk before")

_MADE = Declaration(decodes_last=True)

DECLARED: ModelFamily = {
    "WanPipeline": _MADE,
    "WanImageToVideoPipeline": _MADE,
    "WanVideoToVideoPipeline": _MADE,
    "WanVACEPipeline": _MADE,
    "SkyReelsV2Pipeline": _MADE,
    "SkyReelsV2ImageToVideoPipeline": _MADE,
    "SkyReelsV2DiffusionForcingPipeline": _MADE,
    "WanVACETransformer3DModel": Declaration(shared=frozenset({"control_hidden_states_scale"})),
    "AutoencoderKLWan": Declaration(chunked=True, joins=Joins.IN_LINE),
    "WanDecoder3d": _GOES_ON,
    "WanEncoder3d": _GOES_ON,
}
