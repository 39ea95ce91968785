"""LTX-Video and LTX-2."""

from __future__ import annotations

from deployments.engine.declarations import Declaration, ModelFamily

_GOES_ON = Declaration(solo="it goes on from the chunk before")
_MASKED = Declaration(undividable="the mask of its text is for all heads, of which each has some")

DECLARED: ModelFamily = {
    "LTXVideoTransformer3DModel": _MASKED,
    "LTX2VideoTransformer3DModel": _MASKED,
    "AutoencoderKLLTXVideo": Declaration(chunked=True),
    "AutoencoderKLLTX2Video": Declaration(chunked=True),
    "LTXVideoDecoder3d": _GOES_ON,
    "LTXVideoEncoder3d": _GOES_ON,
}
