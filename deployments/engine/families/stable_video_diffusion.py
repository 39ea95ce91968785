"""Stable Video Diffusion."""

from __future__ import annotations

from deployments.engine.declarations import Declaration, ModelFamily

DECLARED: ModelFamily = {
    "AutoencoderKLTemporalDecoder": Declaration(solo="its rows are frames of one clip"),
}
