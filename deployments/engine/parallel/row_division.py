"""Division of a forward by rows: each device computes some rows of a call.

The rows are those of several requests, and those with and without the prompt, which pipelines with
guidance pass together. The devices exchange nothing during the forward, and each one computes what
it would compute for a smaller call. So a model needs no plan for it.

Roles of arguments are found as for merging. A wrong role, or a model that mixes rows, is found by a
comparison with the undivided forward, and then calls of this pattern are not divided by rows again.
"""

from __future__ import annotations

import logging
from collections.abc import Hashable
from typing import Any

import torch

from deployments.engine.interception.model_traits import ModelTraits
from deployments.engine.interception.proxy import ComponentCall
from deployments.engine.merging.plan import MergePlan, NotMergeable, plan_merge
from deployments.engine.merging.trust import MergeTrust, PatternTrust, pattern_of

log = logging.getLogger(__name__)


class RowDivision:
    """Calls of one denoiser that are divided by rows, and those that are not, with the reason."""

    def __init__(self, module: Any, traits: ModelTraits) -> None:
        self._module = module
        self._traits = traits
        self._refused: dict[Hashable, str] = {}  # by pattern
        self._patterns: dict[Hashable, PatternTrust] = {}
        self._sizes: dict[Hashable, MergeTrust] = {}  # by signature

    def plan(self, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> MergePlan | str:
        """Plan of a call with several rows, or the reason why it cannot be divided by them."""
        call = ComponentCall(self._module, arguments, keywords)
        try:
            plan = plan_merge(call, _NO_DIGESTS, self._traits.of(type(self._module)))
        except NotMergeable as refused:
            return str(refused)
        if plan.rows.count == 1:
            return ONE_ROW
        return self._refused.get(pattern_of(plan)) or plan

    def trust(self, plan: MergePlan) -> MergeTrust:
        """Trust in this division of calls of this size."""
        if (trust := self._sizes.get(plan.signature)) is None:
            if len(self._sizes) >= _MAX_SIZES:
                self._sizes.clear()
            pattern = self._patterns.setdefault(pattern_of(plan), PatternTrust())
            trust = self._sizes[plan.signature] = MergeTrust(pattern)
        return trust

    def refuse(self, plan: MergePlan, reason: str, error: BaseException | None = None) -> None:
        self._refused[pattern_of(plan)] = reason
        log.warning(
            "Calls of %s with %d rows are no longer divided by rows: %s. No output was lost.",
            type(self._module).__name__,
            plan.rows.count,
            reason,
            exc_info=error,
        )


ONE_ROW = "one row"
_MAX_SIZES = 4096


class _NoDigests:
    """A call is not compared with others, so contents need not be read from the device."""

    def of(self, tensor: torch.Tensor) -> bytes:
        del tensor
        return b""


_NO_DIGESTS: Any = _NoDigests()
