"""CogVideoX."""

from __future__ import annotations

from deployments.engine.declarations import Declaration, Joins, ModelFamily

_GOES_ON = Declaration(solo="it goes on from the chunk before")

_MADE = Declaration(decodes_last=True)

DECLARED: ModelFamily = {
    "CogVideoXPipeline": _MADE,
    "CogVideoXImageToVideoPipeline": _MADE,
    "CogVideoXVideoToVideoPipeline": _MADE,
    "CogVideoXFunControlPipeline": _MADE,
    "AutoencoderKLCogVideoX": Declaration(chunked=True, joins=Joins.IN_LINE),
    "CogVideoXDecoder3D": _GOES_ON,
    "CogVideoXEncoder3D": _GOES_ON,
}
