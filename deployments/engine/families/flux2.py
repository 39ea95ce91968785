"""FLUX.2."""

from __future__ import annotations

from deployments.engine.declarations import Declaration, ModelFamily

DECLARED: ModelFamily = {
    "AutoencoderKLFlux2": Declaration(unused=frozenset({"generator"})),
    "Flux2KleinKVPipeline": Declaration(
        undividable="it remembers keys and values of whole pictures, of which each has a part"
    ),
}
