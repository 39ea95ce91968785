"""The ControlNets that take several kinds of pictures."""

from __future__ import annotations

from deployments.engine.declarations import Declaration, ModelFamily

_ROWS_MEET = Declaration(solo="its rows attend to one another")

DECLARED: ModelFamily = {
    "ControlNetUnionModel": _ROWS_MEET,
    "MultiControlNetUnionModel": _ROWS_MEET,
}
