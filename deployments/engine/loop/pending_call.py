"""Calls for which generations are suspended, and their results."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, fields
from typing import Any

from deployments.engine.interception.isolation import Isolation
from deployments.engine.interception.proxy import ComponentCall
from deployments.engine.interception.step_caches import name_of
from deployments.engine.merging.arguments import tensors_in, versions_in
from deployments.engine.merging.plan import MergePlan

DETERMINISTIC = "deterministic"


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class PendingCall(ComponentCall):
    """Suspended call that waits for its turn. Calls with equal keys form a batch."""

    generation: int  # its number in the engine
    isolation: Isolation
    key: Hashable  # batch key; unique when there is no plan
    plan: MergePlan | None = None  # None: it runs alone
    alone_because: str = ""  # reason why there is no plan
    mix: str = ""  # mix of LoRAs; "": none

    @property
    def deterministic(self) -> bool:
        """Return whether no other call may change a bit of its output."""
        return self.alone_because == DETERMINISTIC

    @property
    def state_name(self) -> str:
        """Name under which a step cache stores its state."""
        return name_of(self.generation, self.cache)

    def description(self) -> str:
        """Describe the call for messages."""
        shapes = [list(tensor.shape) for tensor in self._tensors()]
        return f"a call of {type(self.module).__name__} with {shapes[:1]}"

    def versions(self) -> list[int | None]:
        """Version counters of its tensors; a counter changes when its tensor is written to."""
        return versions_in([self.arguments, self.keywords])

    def _tensors(self) -> list[Any]:
        return list(tensors_in([self.arguments, self.keywords]))


CALL_FIELDS = tuple(field.name for field in fields(ComponentCall))


@dataclass(frozen=True, slots=True, eq=False)
class CallResult:
    output: Any = None
    error: BaseException | None = None
    did_not_fit: bool = False  # out of memory, without side effects: the call can be repeated
