"""Comparison of a call that was divided by rows with the same call undivided, on rank 0."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any

from deployments.engine.accelerator.errors import is_out_of_memory
from deployments.engine.errors import release_frames
from deployments.engine.merging.plan import MergePlan
from deployments.engine.merging.stack import Splitter, stack
from deployments.engine.merging.verification import agree, low_precision_dtype
from deployments.engine.parallel.row_division import RowPart, rows_of


@dataclass(frozen=True, slots=True)
class Checked:
    """Result of a comparison."""

    whole: Any  # output of the undivided call
    equal: bool


@dataclass(frozen=True, slots=True)
class RowMixes:
    """Mixes of LoRAs of a call."""

    mixes: Sequence[str]  # one per row, or one for all
    use: Callable[[Sequence[str]], AbstractContextManager[None]]

    def beside_itself(self, part: RowPart, copies: int) -> AbstractContextManager[None]:
        """Use the mixes of a part in a call that has copies of it."""
        if len(self.mixes) == 1:
            return self.use(self.mixes)
        return self.use([mix for mix in self.mixes[part.rows] for _ in range(copies)])


def agrees_with_whole(
    plan: MergePlan,
    parts: Sequence[RowPart],
    outputs: Sequence[Any],
    whole: Callable[[], Any],
    compute: Callable[..., Any],
    module: Any,
    loras: RowMixes,
) -> Checked | None:
    """Compare the ``outputs`` of parts with the undivided call.

    ``compute``: the forward of ``module``, the denoiser. None if the undivided call does not fit in
    memory.
    """
    try:
        undivided = whole()
        rows, listed = plan.rows.count, plan.rows.listed
        dtype = low_precision_dtype(outputs, module)
        noisy = None
        if dtype is not None:
            with loras.beside_itself(parts[0], len(parts)):
                noisy = _beside_itself(plan, parts[0], len(parts), compute)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        release_frames(error)
        return None
    pieces = [rows_of(undivided, each.rows, rows, listed=listed) for each in parts]
    return Checked(undivided, agree(pieces, outputs, dtype, noisy))


def _beside_itself(plan: MergePlan, part: RowPart, copies: int, compute: Callable[..., Any]) -> Any:
    """Output of a part in a call that has only copies of it: how much a larger call changes."""
    its_rows = replace(plan.rows, count=part.count)
    plans = [replace(plan, arguments=part.arguments, rows=its_rows)] * copies
    return Splitter.of(plans).split(stack(plans).call(compute))[0]
