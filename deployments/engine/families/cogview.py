"""CogView."""

from __future__ import annotations

from deployments.engine.declarations import Declaration, ModelFamily

DECLARED: ModelFamily = {
    "CogView4ControlPipeline": Declaration(draws_globally=True),
}
