"""HiDream."""

from __future__ import annotations

from deployments.engine.declarations import Declaration, ModelFamily

DECLARED: ModelFamily = {
    "HiDreamImageTransformer2DModel": Declaration(
        solo="one of its texts has a row in its second dimension"
    ),
}
