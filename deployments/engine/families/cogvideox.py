"""CogVideoX."""

from __future__ import annotations

from deployments.engine.declarations import Declaration, ModelFamily

_GOES_ON = Declaration(solo="it goes on from the chunk before")

DECLARED: ModelFamily = {
    "AutoencoderKLCogVideoX": Declaration(chunked=True),
    "CogVideoXDecoder3D": _GOES_ON,
    "CogVideoXEncoder3D": _GOES_ON,
}
