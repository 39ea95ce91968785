"""Z-Image."""

from __future__ import annotations

from deployments.engine.declarations import Declaration, ModelFamily

DECLARED: ModelFamily = {
    "ZImageTransformer2DModel": Declaration(ragged=frozenset({"cap_feats"})),
}
