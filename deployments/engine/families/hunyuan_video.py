"""HunyuanVideo."""

from __future__ import annotations

from typing import Any

from deployments.engine.declarations import Declaration, Joins, ModelFamily

_GOES_ON = Declaration(solo="it goes on from the chunk before")


def _frames_of_the_picture(pipeline: Any) -> int:
    """Earlier weights make them beside the clip."""
    return 4 if pipeline.transformer.config.image_condition_type == "latent_concat" else 0


DECLARED: ModelFamily = {
    "HunyuanVideoPipeline": Declaration(decodes_last=True),
    "HunyuanSkyreelsImageToVideoPipeline": Declaration(decodes_last=True),
    "HunyuanVideoImageToVideoPipeline": Declaration(
        decodes_last=True, leaves_out=_frames_of_the_picture
    ),
    "AutoencoderKLHunyuanVideo": Declaration(chunked=True, joins=Joins.LAPPED_WITHOUT_FIRST),
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
