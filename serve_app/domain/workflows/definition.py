"""Workflows as they are run: steps, conditions, and the output."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from serve_app.domain.workflows.references import (
    INPUT,
    Lookup,
    NotThere,
    Place,
    Reference,
    parse,
    references_in,
    resolve,
)

POOL = "workflows"
"""Pool of the requests to workflows. It has no replicas: the leading ingress runs them."""
FAMILY = "workflow"
OWNER = "workflows"
"""First segment of the ids of workflows."""
OPTION = "workflow"
"""Option of an endpoint with its definition."""

MAX_NODES = 100
MAX_ITEMS = 256  # of a list that a step runs for
MAX_NAME = 64  # characters


def endpoint_id(tenant: str, name: str) -> str:
    """Id of a workflow's endpoint."""
    return f"{OWNER}/{tenant}/{name}"


@dataclass(frozen=True, slots=True)
class Node:
    """A step. It runs once, or for each element of the list that ``for_each`` stands for."""

    id: str
    app: str  # id of an endpoint
    input: Mapping[str, Any] = field(default_factory=dict)
    depends: tuple[str, ...] = ()  # steps that end before it, besides those that it refers to
    for_each: Any = None
    when: Any = None  # condition; None: it always runs

    def references(self) -> Iterator[tuple[Place, Reference]]:
        """All references of the step, each with its place inside the step."""
        yield from references_in(self.input, ("input",))
        yield from references_in(self.for_each, ("for_each",))
        yield from references_in(self.when, ("if",), optional=True)

    def needs(self) -> frozenset[str]:
        """Steps that end before this one."""
        named = {reference.source for _, reference in self.references()}
        return frozenset((*named, *self.depends)) - {INPUT, "item", "index"}


@dataclass(frozen=True, slots=True)
class Workflow:
    """Definition of a workflow. Its parts fit each other, as ``catalog.workflows`` has checked."""

    nodes: Mapping[str, Node]
    output: Mapping[str, Any]
    compares: bool = False  # it ends with the result of each step, whether that failed or not

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Workflow:
        nodes = {
            name: Node(
                name,
                node["app"],
                node.get("input") or {},
                tuple(node.get("depends") or ()),
                node.get("for_each"),
                node.get("if"),
            )
            for name, node in stored["nodes"].items()
        }
        return cls(nodes, stored["output"], stored.get("compares", False))

    def to_json(self) -> dict[str, Any]:
        """The definition as it is stored."""
        nodes: dict[str, Any] = {}
        for name, node in self.nodes.items():
            nodes[name] = {"app": node.app, "input": dict(node.input)}
            if node.depends:
                nodes[name]["depends"] = [*node.depends]
            if node.for_each is not None:
                nodes[name]["for_each"] = node.for_each
            if node.when is not None:
                nodes[name]["if"] = node.when
        compares = {"compares": True} if self.compares else {}
        return {"nodes": nodes, "output": dict(self.output), **compares}

    def cycle(self) -> Sequence[str]:
        """Steps that wait for each other, in their order; empty: there are none."""
        done: set[str] = set()
        for start in self.nodes:
            path: list[str] = []
            if ring := self._visit(start, path, done):
                return ring
        return ()

    def _visit(self, name: str, path: list[str], done: set[str]) -> Sequence[str]:
        if name in done or name not in self.nodes:
            return ()
        if name in path:
            return [*path[path.index(name) :], name]
        path.append(name)
        for need in sorted(self.nodes[name].needs()):
            if cycle := self._visit(need, path, done):
                return cycle
        path.pop()
        done.add(name)
        return ()


# Conditions: a value that is true or false, or an object with one comparison.

COMPARISONS = ("equals", "not_equals", "greater_than", "less_than", "in", "exists")
ALL, ANY, NOT = "all", "any", "not"
VALUE = "value"


def condition_problem(condition: Any) -> str:
    """What is wrong with a condition, as the end of a sentence; empty: nothing."""
    if not isinstance(condition, Mapping):
        if isinstance(condition, bool) or parse(condition) is not None:
            return ""
        return "should be a reference, true, false, or an object with a comparison"
    fields = cast("Mapping[str, Any]", condition)
    if len(fields) == 1 and (name := next(iter(fields))) in (ALL, ANY, NOT):
        inner = [fields[name]] if name == NOT else fields[name]
        if not isinstance(inner, list) or not inner:
            return f"needs a list of conditions for `{name}`"
        return next(filter(None, map(condition_problem, cast("list[Any]", inner))), "")
    return _comparison_problem(fields)


def _comparison_problem(fields: Mapping[str, Any]) -> str:
    if VALUE not in fields or len(fields) != 2:
        return (
            f"should have `{VALUE}` and one of {', '.join(COMPARISONS)}, or one of {ALL}, {ANY} "
            f"and {NOT}"
        )
    (name,) = fields.keys() - {VALUE}
    if name not in COMPARISONS:
        return f"has `{name}`, which is none of {', '.join(COMPARISONS)}"
    listed = name != "in" or isinstance(fields[name], list)
    return "" if listed else "needs a list for `in`"


def holds(condition: Any, lookup: Lookup) -> bool:
    """Return whether a condition is true. A reference that stands for nothing is null."""
    if not isinstance(condition, Mapping):
        return bool(_value(condition, lookup))
    fields = cast("Mapping[str, Any]", condition)
    if ALL in fields:
        return all(holds(operand, lookup) for operand in fields[ALL])
    if ANY in fields:
        return any(holds(operand, lookup) for operand in fields[ANY])
    if NOT in fields:
        return not holds(fields[NOT], lookup)
    (name,) = fields.keys() - {VALUE}
    value = _value(fields[VALUE], lookup)
    if name == "in":
        return value in [_value(candidate, lookup) for candidate in fields[name]]
    return _compare(value, name, _value(fields[name], lookup))


def _compare(value: Any, name: str, other: Any) -> bool:
    match name:
        case "equals":
            return bool(value == other)
        case "not_equals":
            return bool(value != other)
        case "exists":
            return (value is not None) == bool(other)
        case _:
            both = (value, other)
            numbers = all(isinstance(x, (int, float)) and not isinstance(x, bool) for x in both)
            if not numbers and not all(isinstance(x, str) for x in both):
                return False  # they have no order
            return bool(value > other if name == "greater_than" else value < other)


def _value(value: Any, lookup: Lookup) -> Any:
    try:
        return resolve(value, lookup)
    except NotThere:
        return None
