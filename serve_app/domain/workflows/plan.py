"""What a workflow does next, from the steps that have run so far. Pure: the same steps give the
same answer, so that any process, and two at once, may ask at any time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, cast

from serve_app.domain.json_size import MAX_VALUES, JsonRoom
from serve_app.domain.workflows.definition import MAX_ITEMS, Node, Workflow, holds
from serve_app.domain.workflows.references import (
    INDEX,
    INPUT,
    ITEM,
    Lookup,
    NotThere,
    resolve,
)


@dataclass(frozen=True, slots=True)
class StepId:
    """A step, and the number of the element that it runs for; 0 if it runs once."""

    node: str
    item: int = 0


@dataclass(frozen=True, slots=True)
class StepFailure:
    """A step that failed, or cannot start."""

    node: str
    message: str
    code: str = "pipeline_failed"


@dataclass(frozen=True, slots=True)
class StepCall:
    """A step to be started."""

    step: StepId
    app: str
    input: Mapping[str, Any]


StepOutputs = Mapping[StepId, "Any | StepFailure | None"]
"""Steps that were started: output, failure, or None while it has not ended."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do now: start ``calls``; or the workflow has ended, with an ``output`` or a
    ``failure``. None of it: wait for the steps that run. ``more``: further steps can start, whose
    inputs are too large to be looked at together with these."""

    calls: Sequence[StepCall] = ()
    more: bool = False
    output: Mapping[str, Any] | None = None
    failure: StepFailure | None = None
    skipped: frozenset[str] = field(default_factory=frozenset[str])


class _Mark(Enum):
    WAITING = "waiting"
    SKIPPED = "skipped"


def plan(workflow: Workflow, input: Mapping[str, Any], steps: StepOutputs, max_bytes: int) -> Plan:
    """What the workflow does next. A failed step ends it, unless it compares. ``max_bytes``: most
    of the input of a step, and of the output."""
    looked = _Look(workflow, input, steps, max_bytes)
    if workflow.compares:
        return _compare(workflow, looked)
    for step, result in steps.items():
        if isinstance(result, StepFailure) and step.node in workflow.nodes:
            return Plan(failure=result)
    try:
        for name in workflow.nodes:
            looked.value_of(name)
        skipped = frozenset(name for name, mark in looked.values.items() if mark is _Mark.SKIPPED)
        if looked.calls or any(mark is _Mark.WAITING for mark in looked.values.values()):
            return Plan(looked.calls, looked.more, skipped=skipped)
        return Plan(output=looked.output(), skipped=skipped)
    except _Failed as failed:
        return Plan(failure=failed.failure)


def _compare(workflow: Workflow, looked: _Look) -> Plan:
    """All steps at once. It fails if all of them do."""
    outcomes: dict[str, Any | StepFailure] = {}
    for name in workflow.nodes:
        try:
            outcomes[name] = looked.value_of(name)
        except _Failed as failed:
            outcomes[name] = failed.failure
    if any(outcome is _Mark.WAITING for outcome in outcomes.values()):
        return Plan(looked.calls, looked.more)
    failures = [outcome for outcome in outcomes.values() if isinstance(outcome, StepFailure)]
    if len(failures) == len(outcomes):
        first = failures[0]
        message = f"No endpoint of the comparison succeeded. {first.message}"
        return Plan(failure=StepFailure(first.node, message, first.code))
    results = {
        name: _result(workflow.nodes[name].app, outcome) for name, outcome in outcomes.items()
    }
    return Plan(output={"results": results})


def _result(app: str, outcome: Any | StepFailure) -> dict[str, Any]:
    if isinstance(outcome, StepFailure):
        return {"endpoint": app, "output": None, "error": outcome.message, "code": outcome.code}
    return {"endpoint": app, "output": outcome, "error": None, "code": None}


class _Failed(Exception):
    def __init__(self, failure: StepFailure) -> None:
        super().__init__(failure.message)
        self.failure = failure


class _Look:
    """One look at all steps."""

    def __init__(
        self, workflow: Workflow, input: Mapping[str, Any], steps: StepOutputs, max_bytes: int
    ) -> None:
        self._workflow = workflow
        self._input = input
        self._steps = steps
        self._max_bytes = max_bytes
        self._together = JsonRoom(max_bytes)
        self.values: dict[str, Any] = {}  # by step: its output, or a mark
        self.calls: list[StepCall] = []
        self.more = False

    def value_of(self, name: str) -> Any:
        if name not in self.values:
            self.values[name] = self._value_of(self._workflow.nodes[name])
        return self.values[name]

    def output(self) -> Mapping[str, Any]:
        """Output of the workflow. What only a skipped step would have made is null."""
        output = {name: self._or_null(value) for name, value in self._workflow.output.items()}
        if not JsonRoom(self._max_bytes).take(output):
            raise _Failed(StepFailure("", f"The output of the workflow has {self._too_much}."))
        return output

    @property
    def _too_much(self) -> str:
        return f"more than {self._max_bytes} bytes (DARKROOM_MAX_BODY_BYTES) or {MAX_VALUES} values"

    def _or_null(self, value: Any) -> Any:
        try:
            return resolve(value, self._source)
        except NotThere:
            return None

    def _source(self, name: str) -> Any:
        value = self._input if name == INPUT else self.value_of(name)
        if value is _Mark.SKIPPED:
            raise NotThere(f"`{name}` was skipped")
        return value

    def _value_of(self, node: Node) -> Any:
        needs = [self.value_of(name) for name in sorted(node.needs())]
        if any(value is _Mark.WAITING for value in needs):
            return _Mark.WAITING
        if self._refers_to_skipped(node):
            return _Mark.SKIPPED
        if node.when is not None and not holds(node.when, self._source):
            return _Mark.SKIPPED
        if node.for_each is None:
            return self._run(node, StepId(node.id), self._source)
        return self._run_each(node, self._elements(node))

    def _refers_to_skipped(self, node: Node) -> bool:
        return any(
            self.values.get(reference.source) is _Mark.SKIPPED
            for _, reference in node.references()
            if not reference.optional
        )

    def _elements(self, node: Node) -> Sequence[Any]:
        value = self._resolve_value(node, node.for_each, self._source, "for_each")
        if not isinstance(value, list):
            raise self._step_failure(node, "`for_each` does not stand for a list")
        elements = cast("list[Any]", value)
        if len(elements) > MAX_ITEMS:
            raise self._step_failure(
                node, f"`for_each` has {len(elements)} elements, and at most {MAX_ITEMS} may be"
            )
        return elements

    def _run_each(self, node: Node, elements: Sequence[Any]) -> Any:
        outputs: list[Any] = []
        for number, element in enumerate(elements):
            own = {ITEM: element, INDEX: number}

            def lookup(name: str, own: Mapping[str, Any] = own) -> Any:
                return own[name] if name in own else self._source(name)

            outputs.append(self._run(node, StepId(node.id, number), lookup))
        return _Mark.WAITING if any(output is _Mark.WAITING for output in outputs) else outputs

    def _run(self, node: Node, step: StepId, lookup: Lookup) -> Any:
        if step in self._steps:
            result = self._steps[step]
            return _Mark.WAITING if result is None else result
        if self.more:
            return _Mark.WAITING
        resolved = self._resolve_value(node, node.input, lookup, "input")
        if not isinstance(resolved, Mapping):
            raise self._step_failure(node, "`input` does not stand for an object")
        resolved = cast("Mapping[str, Any]", resolved)
        # A null, as of `$first` with skipped steps only, leaves the field to its default.
        arguments = {name: value for name, value in resolved.items() if value is not None}
        if not JsonRoom(self._max_bytes).take(arguments):
            raise self._step_failure(node, f"its input has {self._too_much}")
        if not self._together.take(arguments):
            self.more = True
            return _Mark.WAITING
        self.calls.append(StepCall(step, node.app, arguments))
        return _Mark.WAITING

    def _resolve_value(self, node: Node, value: Any, lookup: Lookup, field: str) -> Any:
        try:
            return resolve(value, lookup)
        except NotThere as error:
            raise self._step_failure(node, f"{field}: {error}") from None

    @staticmethod
    def _step_failure(node: Node, why: str) -> _Failed:
        return _Failed(StepFailure(node.id, f"The step `{node.id}` cannot start: {why}."))
