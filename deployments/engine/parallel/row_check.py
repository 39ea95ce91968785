"""Comparison of a call that was divided by rows with the same call undivided, on rank 0."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any

from deployments.engine.accelerator.errors import is_out_of_memory
from deployments.engine.errors import release_frames
from deployments.engine.lora.rows import RowMixes
from deployments.engine.merging.parts import RowPart, rows_of
from deployments.engine.merging.plan import MergePlan
from deployments.engine.merging.stack import Splitter, stack
from deployments.engine.merging.verification import agree, low_precision_dtype


@dataclass(frozen=True, slots=True)
class Checked:
    """Result of a comparison."""

    whole: Any  # output of the undivided call
    equal: bool


def agrees_with_whole(
    plan: MergePlan,
    parts: Sequence[RowPart],
    outputs: Sequence[Any],
    whole: Callable[[], Any],
    compute: Callable[..., Any],
    module: Any,
    mixes: RowMixes,
    use: Callable[[RowMixes], AbstractContextManager[None]],
) -> Checked | None:
    """Compare the ``outputs`` of parts with the undivided call.

    ``compute``: the forward of ``module``, the denoiser. ``mixes``: of the undivided call; ``use``
    sets those of another one. None if the undivided call does not fit in memory.
    """
    try:
        undivided = whole()
        rows, listed = plan.rows.count, plan.rows.listed
        dtype = low_precision_dtype(outputs, module)
        among_copies = dict[int, Any]()
        if dtype is not None:
            # One part for each mix of LoRAs: they round, too, the more the larger they are.
            first = {mixes.of(part.rows): number for number, part in reversed([*enumerate(parts)])}
            for its, number in first.items():
                with use(its.repeat_rows(len(parts))):
                    among_copies[number] = _among_copies(plan, parts[number], len(parts), compute)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        release_frames(error)
        return None
    pieces = [rows_of(undivided, part.rows, rows, listed=listed) for part in parts]
    return Checked(undivided, agree(pieces, outputs, dtype, among_copies))


def _among_copies(plan: MergePlan, part: RowPart, copies: int, compute: Callable[..., Any]) -> Any:
    """Output of a part in a call that has only copies of it: how much a larger call changes."""
    its_rows = replace(plan.rows, count=part.count)
    plans = [replace(plan, arguments=part.arguments, rows=its_rows)] * copies
    return Splitter.of(plans).split(stack(plans).call(compute))[0]
