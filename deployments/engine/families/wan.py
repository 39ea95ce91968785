"""Wan 2.1 and 2.2."""

from __future__ import annotations

from deployments.engine.declarations import Declaration, ModelFamily

_GOES_ON = Declaration(solo="it goes on from the chunk before")

DECLARED: ModelFamily = {
    "WanPipeline": Declaration(decodes_last=True),
    "WanImageToVideoPipeline": Declaration(decodes_last=True),
    "WanVACETransformer3DModel": Declaration(shared=frozenset({"control_hidden_states_scale"})),
    "AutoencoderKLWan": Declaration(chunked=True, lines_up=True),
    "WanDecoder3d": _GOES_ON,
    "WanEncoder3d": _GOES_ON,
}
