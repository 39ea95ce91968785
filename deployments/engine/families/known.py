"""All of them together."""

from __future__ import annotations

from deployments.engine.declarations import Declarations
from deployments.engine.families import (
    cogvideox,
    cogview,
    controlnet_union,
    flux2,
    hidream,
    hunyuan_video,
    ltx,
    qwen_image,
    stable_audio,
    stable_diffusion,
    stable_diffusion_3,
    stable_video_diffusion,
    wan,
    z_image,
)

KNOWN = Declarations({}).also(
    (
        cogvideox.DECLARED,
        cogview.DECLARED,
        controlnet_union.DECLARED,
        flux2.DECLARED,
        hidream.DECLARED,
        hunyuan_video.DECLARED,
        ltx.DECLARED,
        qwen_image.DECLARED,
        stable_audio.DECLARED,
        stable_diffusion.DECLARED,
        stable_diffusion_3.DECLARED,
        stable_video_diffusion.DECLARED,
        wan.DECLARED,
        z_image.DECLARED,
    )
)
