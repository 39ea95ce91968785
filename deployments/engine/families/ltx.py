"""LTX-Video and LTX-2."""

from __future__ import annotations

from deployments.engine.declarations import Declaration, Joins, ModelFamily

_GOES_ON = Declaration(solo="it goes on from the chunk before")
_MASKED = Declaration(undividable="the mask of its text is for all heads, of which each has some")

_MADE = Declaration(decodes_last=True)
_CHUNKED = Declaration(chunked=True, joins=Joins.LAPPED_WITHOUT_LAST)

DECLARED: ModelFamily = {
    "LTXPipeline": _MADE,
    "LTXImageToVideoPipeline": _MADE,
    "LTXConditionPipeline": _MADE,
    "LTX2Pipeline": _MADE,
    "LTX2ImageToVideoPipeline": _MADE,
    "LTX2ConditionPipeline": _MADE,
    "LTXVideoTransformer3DModel": _MASKED,
    "LTX2VideoTransformer3DModel": _MASKED,
    "AutoencoderKLLTXVideo": _CHUNKED,
    "AutoencoderKLLTX2Video": _CHUNKED,
    "LTXVideoDecoder3d": _GOES_ON,
    "LTXVideoEncoder3d": _GOES_ON,
}
