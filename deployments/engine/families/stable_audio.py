"""Stable Audio, and ACE-Step, which has its autoencoder."""

from __future__ import annotations

from deployments.engine.declarations import Declaration, ModelFamily

DECLARED: ModelFamily = {
    "AutoencoderOobleck": Declaration(chunked=True),
}
