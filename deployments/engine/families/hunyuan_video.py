"""HunyuanVideo."""

from __future__ import annotations

from deployments.engine.declarations import Declaration, ModelFamily

_GOES_ON = Declaration(solo="it goes on from the chunk before")

DECLARED: ModelFamily = {
    "AutoencoderKLHunyuanVideo": Declaration(chunked=True),
    "HunyuanVideoDecoder3D": _GOES_ON,
    "HunyuanVideoEncoder3D": _GOES_ON,
    "HunyuanVideoFramepackTransformer3DModel": Declaration(
        shared=frozenset(
            {
                "indices_latents",
                "indices_latents_clean",
                "indices_latents_history_2x",
                "indices_latents_history_4x",
            }
        )
    ),
}
