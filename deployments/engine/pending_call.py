"""A call that waits for its turn in the engine, and the answer to it."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

from deployments.engine.adapter_layers import AdapterRows
from deployments.engine.call_arguments import tensors_in
from deployments.engine.content import version_of
from deployments.engine.merge_plan import MergePlan
from deployments.engine.stand_in import DenoiserCall
from deployments.engine.step_caches import entered
from deployments.engine.surroundings import Surroundings

DETERMINISTIC = "deterministic"
"""Why it runs alone: its caller asked that nobody else changes a bit."""


@dataclass(frozen=True, slots=True, eq=False)
class PendingCall:
    """A call that waits for its turn, and what is known about merging it."""

    call: DenoiserCall
    generation: int  # its number in the engine
    surroundings: Surroundings
    plan: MergePlan | None  # None: it runs alone
    key: Hashable  # the batch key; of nobody else where there is no plan
    alone_because: str = ""
    mix: str = ""  # of adapters; "": none

    def required_plan(self) -> MergePlan:
        """Of one that may be merged."""
        if self.plan is None:
            raise RuntimeError("A call that runs alone was to be merged.")
        return self.plan

    def told(self) -> str:
        """For messages."""
        shapes = [list(each.shape) for each in self._tensors()]
        return f"a call of {type(self.call.module).__name__} with {shapes[:1]}"

    def versions(self) -> list[int | None]:
        """Of its tensors; another, when somebody has written into one."""
        return [version_of(each) for each in self._tensors()]

    def _tensors(self) -> list[Any]:
        return list(tensors_in([self.call.arguments, self.call.keywords]))

    @property
    def deterministic(self) -> bool:
        """Its caller asked that nobody else changes a bit."""
        return self.alone_because == DETERMINISTIC

    def run(self, rows: AdapterRows) -> Any:
        """The real module's output for this generation alone, under what it set up."""
        call = self.call
        with (
            self.surroundings.in_place(),
            rows.having([self.mix]),
            entered(call.module, self.generation, call.cache),
        ):
            return call.compute()


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    output: Any = None
    error: BaseException | None = None
    did_not_fit: bool = False  # in memory, which has changed nothing: it can be asked again
