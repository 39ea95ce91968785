"""Workflows as they are written: fal's three forms of JSON, and Darkroom's own for YAML.

- ``{name, title, contents: {nodes, output, schema}}``, of fal's platform API,
- ``{name, schema, nodes, output, version}``, of fal's Python SDK,
- a map of nodes, some of them of the types ``input`` and ``display``, of fal's tutorials,
- ``{name, input, steps, output}``, Darkroom's own, or a comparison: ``{name, input, compare}``.

Every mistake names its place. Endpoints are not looked up here; see ``check``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, cast

from serve_app.catalog.fields.workflow_fields import object_schema, schema_by_values
from serve_app.domain.errors import FieldProblem, InvalidInput
from serve_app.domain.json_depth import is_deep
from serve_app.domain.workflows.definition import (
    MAX_NAME,
    MAX_NODES,
    Node,
    Workflow,
    condition_problem,
)
from serve_app.domain.workflows.references import (
    FIRST,
    INDEX,
    INPUT,
    ITEM,
    NODE_ID,
    Place,
    Reference,
    is_first,
    parse,
    references_in,
)

NAME = re.compile(rf"[a-z0-9][a-z0-9._-]{{0,{MAX_NAME - 1}}}")
RUN, DISPLAY, INPUT_NODE = "run", "display", "input"
RESERVED_IDS = frozenset({INPUT, ITEM, INDEX})
RESERVED_NAMES = frozenset({"realtime", "requests", "stream"})
"""Names that would be read as a part of a call's path."""
MAX_PROBLEMS = 20
MAX_DEPTH = 40
_STEP_KEYS = frozenset({"app", "input", "depends", "for_each", "if"})
_FAL_KEYS = _STEP_KEYS | {"id", "type", "metadata", "title", "description"}
_EXAMPLE = "such as $draw.images.0.url"
COMPARE, RESULTS = "compare", "results"
MAX_COMPARED = 16
_COMPARISON_KEYS = frozenset({"name", "title", "description", "public", INPUT, COMPARE})


@dataclass(frozen=True, slots=True)
class WrittenWorkflow:
    """A workflow that was read. ``place``: of its nodes in what was sent."""

    name: str
    title: str
    description: str
    workflow: Workflow
    input_schema: Mapping[str, Any]
    output_schema: Mapping[str, Any]
    place: Place


class Mistakes:
    """Mistakes that were found so far."""

    def __init__(self) -> None:
        self.problems: list[FieldProblem] = []

    def add(self, place: Place, message: str) -> None:
        self.problems.append(FieldProblem(("body", *place), message, "value_error"))

    def rename(self, begins: str, to: str) -> None:
        """Name the key ``to`` where mistakes name ``begins``: what was sent had that one."""
        self.problems = [
            replace(problem, loc=("body", to, *problem.loc[2:]))
            if problem.loc[1:2] == (begins,)
            else problem
            for problem in self.problems
        ]

    def raise_any(self) -> None:
        """``InvalidInput`` with all of them, if there are any."""
        if self.problems:
            problems = tuple(self.problems[:MAX_PROBLEMS])
            raise InvalidInput.of_problems(problems, len(self.problems))


def read(document: Mapping[str, Any]) -> WrittenWorkflow:
    """Read a workflow in any of the forms. ``InvalidInput`` names every mistake."""
    reader, compares = _Reader(Mistakes()), COMPARE in document
    written = reader.read(_as_steps(document) if compares else document)
    if compares:
        reader.check_independent(written.workflow)
        reader.mistakes.rename("steps", COMPARE)
        written = replace(
            written,
            workflow=replace(written.workflow, compares=True),
            output_schema={"type": "object", "properties": {RESULTS: {"type": "object"}}},
            place=(COMPARE,),
        )
    reader.mistakes.raise_any()
    return written


def _as_steps(document: Mapping[str, Any]) -> Mapping[str, Any]:
    """A comparison in Darkroom's own form: steps that are independent, of which none ends it."""
    unknown = sorted(map(str, document.keys() - _COMPARISON_KEYS))
    if unknown:
        known = ", ".join(sorted(_COMPARISON_KEYS))
        raise InvalidInput.of_field(unknown[0], f"is not known; a comparison has {known}")
    compared, fields = document[COMPARE], document.get(INPUT)
    if not isinstance(fields, Mapping):
        message = "should have the fields that all endpoints get, such as {prompt: {type: string}}"
        raise InvalidInput.of_field(INPUT, message)
    if not isinstance(compared, Mapping) or not 2 <= len(cast("Any", compared)) <= MAX_COMPARED:
        message = f"should name 2 to {MAX_COMPARED} endpoints, such as {{own: acme/own}}"
        raise InvalidInput.of_field(COMPARE, message)
    # Optional, so that a field that a request leaves out has each endpoint's own default.
    same = {str(name): {FIRST: [f"${INPUT}.{name}"]} for name in cast("Mapping[Any, Any]", fields)}
    named = cast("Mapping[str, Any]", compared)
    steps = {
        name: {"app": step, "input": same} if isinstance(step, str) else step
        for name, step in named.items()
    }
    outside = {name: value for name, value in document.items() if name != COMPARE}
    return {**outside, "steps": steps, "output": {RESULTS: f"${INPUT}"}}


@dataclass
class _Reader:
    mistakes: Mistakes
    _outputs: dict[str, Any] = field(default_factory=dict[str, Any])  # of display nodes

    def read(self, document: Mapping[str, Any]) -> WrittenWorkflow:
        self._check_text(document)
        form = self._form(document)
        place, contents = form
        own = "steps" in contents
        raw = contents.get("steps" if own else "nodes", None)
        at_nodes: Place = (*place, "steps" if own else "nodes")
        if raw is None:  # a map of nodes
            raw, at_nodes = {k: v for k, v in contents.items() if k not in _OUTSIDE}, place
        nodes = self._nodes(raw, at_nodes, own=own)
        output = self._output(contents, place)
        schema = self._mapping(contents.get("schema"), (*place, "schema"))
        fields = contents.get("input") if own else schema.get("input")
        workflow = Workflow(nodes, output)
        self._check_references(workflow, at_nodes, (*place, "output"))
        name = document.get("name") or contents.get("name") or ""
        self._check_name(name)
        return WrittenWorkflow(
            str(name),
            str(document.get("title") or contents.get("title") or ""),
            str(document.get("description") or contents.get("description") or ""),
            workflow,
            self._input_schema(
                fields, raw, workflow, (*place, "input") if own else (*place, "schema", "input")
            ),
            self._output_schema(None if own else schema.get("output"), output, place),
            at_nodes,
        )

    def check_independent(self, workflow: Workflow) -> None:
        """Note steps of a comparison that are more than a call of an endpoint."""
        for name, node in workflow.nodes.items():
            if node.needs() or node.for_each is not None or node.when is not None:
                self.mistakes.add(
                    (COMPARE, name), "should be an endpoint, or have `app` and `input` only"
                )

    def _check_text(self, document: Mapping[str, Any]) -> None:
        try:
            text = json.dumps(document, allow_nan=False)
        except (ValueError, RecursionError, TypeError):
            raise InvalidInput(
                "The workflow has values that JSON does not have, or is nested too deeply."
            ) from None
        if "\\u0000" in text:
            raise InvalidInput("The workflow has a text with a NUL character; remove it.")
        if is_deep(document, MAX_DEPTH):
            raise InvalidInput(f"The workflow is nested deeper than {MAX_DEPTH} levels.")

    def _form(self, document: Mapping[str, Any]) -> tuple[Place, Mapping[str, Any]]:
        if "contents" in document:
            return ("contents",), self._mapping(document["contents"], ("contents",))
        return (), document

    def _mapping(self, value: Any, place: Place) -> Mapping[str, Any]:
        if value is None:
            return {}
        if not isinstance(value, Mapping):
            self.mistakes.add(place, "should be an object")
            return {}
        return cast("Mapping[str, Any]", value)

    def _check_name(self, name: Any) -> None:
        if not isinstance(name, str) or NAME.fullmatch(name) is None:
            self.mistakes.add(
                ("name",),
                f"should be 1 to {MAX_NAME} lower-case letters, digits, dots, dashes or "
                "underscores, and begin with a letter or digit",
            )
        elif name in RESERVED_NAMES:
            self.mistakes.add(("name",), f"`{name}` is a part of other paths; choose another name")

    # Nodes.

    def _nodes(self, raw: Any, place: Place, *, own: bool) -> dict[str, Node]:
        nodes: dict[str, Node] = {}
        for name, value in self._mapping(raw, place).items():
            at = (*place, name)
            fields = self._mapping(value, at)
            if not own and fields.get("type") in (DISPLAY, INPUT_NODE):
                if fields["type"] == DISPLAY:
                    self._outputs[name] = self._mapping(fields.get("fields"), (*at, "fields"))
                continue
            if (node := self._node(name, fields, at, own=own)) is not None:
                nodes[name] = node
        if not nodes:
            self.mistakes.add(place, "has no step: name at least one, with its `app`")
        if len(nodes) > MAX_NODES:
            self.mistakes.add(place, f"has {len(nodes)} steps; at most {MAX_NODES} are possible")
        return nodes

    def _node(self, name: str, step: Mapping[str, Any], at: Place, *, own: bool) -> Node | None:
        before = len(self.mistakes.problems)
        if NODE_ID.fullmatch(name) is None:
            self.mistakes.add(at, "a step's name has 1 to 64 letters, digits, `_` and `-`")
        elif name in RESERVED_IDS:
            self.mistakes.add(at, f"`{name}` has a meaning of its own in references; rename it")
        unknown = sorted(map(str, step.keys() - (_STEP_KEYS if own else _FAL_KEYS)))
        if unknown:
            known = ", ".join(sorted(_STEP_KEYS))
            self.mistakes.add((*at, unknown[0]), f"is not known; a step has {known}")
        kind = step.get("type", RUN)
        if not own and kind != RUN:
            self.mistakes.add(
                (*at, "type"), f"`{kind}` is not known; types are {RUN}, {DISPLAY} and {INPUT_NODE}"
            )
        if not own and step.get("id", name) != name:
            self.mistakes.add((*at, "id"), f"should be `{name}`, the key of the node")
        app = step.get("app")
        if not isinstance(app, str) or not app:
            self.mistakes.add((*at, "app"), "should be the id of an endpoint")
        depends = self._depends(step.get("depends") or [], at)
        self._check_control(step, at)
        values = self._mapping(step.get("input"), (*at, "input"))
        if len(self.mistakes.problems) > before:
            return None
        return Node(name, str(app), values, depends, step.get("for_each"), step.get("if"))

    def _depends(self, value: Any, at: Place) -> tuple[str, ...]:
        names: list[Any] = cast("list[Any]", value) if isinstance(value, list) else [None]
        if not all(isinstance(name, str) for name in names):
            self.mistakes.add((*at, "depends"), "should be a list of names of steps")
            return ()
        return tuple(name for name in names if name != INPUT)

    def _check_control(self, step: Mapping[str, Any], at: Place) -> None:
        for_each = step.get("for_each")
        if for_each is not None and not (isinstance(for_each, list) or parse(for_each)):
            self.mistakes.add((*at, "for_each"), f"should be a list, or a reference, {_EXAMPLE}")
        if step.get("if") is not None and (problem := condition_problem(step["if"])):
            self.mistakes.add((*at, "if"), problem)

    # References.

    def _check_references(self, workflow: Workflow, nodes: Place, output: Place) -> None:
        known = workflow.nodes.keys()
        for name, node in workflow.nodes.items():
            for place, reference in node.references():
                elements = node.for_each is not None and place[0] != "for_each"
                self._check(reference, known, (*nodes, name, *place), elements=elements)
            for number, reference in enumerate(node.depends):
                if reference not in known and reference not in self._outputs:
                    self.mistakes.add(
                        (*nodes, name, "depends", number), f"there is no step `{reference[:64]}`"
                    )
            for inner in _firsts(node.input):
                self._check_first(inner, (*nodes, name, "input"))
        for place, reference in references_in(workflow.output, output):
            self._check(reference, known, place, elements=False)
        for inner in _firsts(workflow.output):
            self._check_first(inner, output)
        if not self.mistakes.problems and (cycle := workflow.cycle()):
            self.mistakes.add(
                (*nodes, cycle[0]), f"these steps wait for each other: {' -> '.join(cycle)}"
            )

    def _check(self, reference: Reference, known: Any, place: Place, *, elements: bool) -> None:
        shown = str(reference)[:100]
        if reference.source in known or reference.source == INPUT:
            if not all(reference.path):
                self.mistakes.add(place, f"`{shown}` has two dots in a row, or one at its end")
            return
        if reference.source in (ITEM, INDEX):
            if not elements:
                self.mistakes.add(
                    place, f"`{shown}` is known only in a step with `for_each`, and not in it"
                )
            return
        self.mistakes.add(
            place,
            f"`{shown}` refers to `{reference.source[:64]}`, which is no step and not `input`; for "
            f"a text that begins with $, write `${shown}`",
        )

    def _check_first(self, value: Mapping[str, Any], place: Place) -> None:
        if not isinstance(value[FIRST], list) or not value[FIRST]:
            self.mistakes.add(place, f"`{FIRST}` should have a list of values")

    # Input and output.

    def _output(self, contents: Mapping[str, Any], place: Place) -> Mapping[str, Any]:
        value = contents.get("output")
        is_node = isinstance(value, Mapping) and cast("Any", value).get("type") == DISPLAY
        if value is not None and not is_node:
            output = self._mapping(value, (*place, "output"))
        elif len(self._outputs) == 1:
            output = next(iter(self._outputs.values()))
        else:
            output = dict(self._outputs)
        if not output:
            self.mistakes.add((*place, "output"), f"names nothing; name a value, {_EXAMPLE}")
        return output

    def _input_schema(
        self, fields: Any, nodes: Any, workflow: Workflow, place: Place
    ) -> Mapping[str, Any]:
        referred = {
            reference.path[0]
            for node in workflow.nodes.values()
            for _, reference in node.references()
            if reference.source == INPUT and reference.path
        } | {
            reference.path[0]
            for _, reference in references_in(workflow.output)
            if reference.source == INPUT and reference.path
        }
        if fields is None:
            return schema_by_values(_values_of_input_node(nodes), referred)
        try:
            schema = object_schema(self._mapping(fields, place), required=True)
        except ValueError as error:
            name, _, message = str(error).partition(": ")
            self.mistakes.add((*place, name), message)
            return {"type": "object", "properties": {}}
        known = schema["properties"].keys()
        for name in sorted(referred - known):
            self.mistakes.add(place, f"has no field `{name}`, to which `${INPUT}.{name}` refers")
        return schema

    def _output_schema(
        self, fields: Any, output: Mapping[str, Any], place: Place
    ) -> Mapping[str, Any]:
        schemas = self._mapping(fields, (*place, "schema", "output"))
        named = {name: schemas.get(name) or {} for name in output}
        try:
            return object_schema(named, required=False)
        except ValueError as error:
            name, _, message = str(error).partition(": ")
            self.mistakes.add((*place, "schema", "output", name), message)
            return {"type": "object"}


_OUTSIDE = frozenset({"name", "title", "description", "public", "version", "schema"})


def _values_of_input_node(nodes: Any) -> Mapping[str, Any]:
    """Values of the tutorial's node ``input``: one for each field."""
    if isinstance(nodes, Mapping):
        for value in cast("Mapping[str, Any]", nodes).values():
            if isinstance(value, Mapping):
                node = cast("Mapping[str, Any]", value)
                if node.get("type") == INPUT_NODE and isinstance(node.get("input"), Mapping):
                    return cast("Mapping[str, Any]", node["input"])
    return {}


def _firsts(value: Any) -> list[Mapping[str, Any]]:
    """All objects with the key ``$first``."""
    if isinstance(value, Mapping):
        if is_first(value):
            return [cast("Mapping[str, Any]", value)]
        inner = cast("Mapping[str, Any]", value).values()
        return [first for item in inner for first in _firsts(item)]
    if isinstance(value, list):
        return [first for item in cast("list[Any]", value) for first in _firsts(item)]
    return []
