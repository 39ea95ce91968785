"""Checks of a workflow against the endpoints of its steps: what can be known before it runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, cast

from serve_app.catalog.entries import CatalogEntry
from serve_app.catalog.workflows.reader import Mistakes, WrittenWorkflow
from serve_app.domain.errors import DarkroomError, InvalidInput
from serve_app.domain.workflows.definition import FAMILY, Node
from serve_app.domain.workflows.references import (
    EACH,
    INDEX,
    INPUT,
    ITEM,
    Place,
    Reference,
    parse,
    references_in,
)

Find = Callable[[str], CatalogEntry]
"""Served entry of an endpoint. A ``DarkroomError`` says why there is none."""
Schema = Mapping[str, Any]

ANYTHING: Schema = {}
_MAX_REFERENCES = 20  # of a schema to its own definitions, one inside the other


def check(written: WrittenWorkflow, find: Find) -> None:
    """Check that endpoints, references and inputs fit. ``InvalidInput`` names every mistake."""
    _Check(written, find, Mistakes()).run()


class _Check:
    def __init__(self, written: WrittenWorkflow, find: Find, mistakes: Mistakes) -> None:
        self._written = written
        self._find = find
        self._mistakes = mistakes
        self._entries: dict[str, CatalogEntry] = {}  # by step

    def run(self) -> None:
        nodes = self._written.workflow.nodes
        for name, node in nodes.items():
            self._look_up(name, node)
        for name, node in nodes.items():
            for place, reference in node.references():
                if not reference.optional and reference.source not in (ITEM, INDEX):
                    self._leads_to(reference, (*self._written.place, name, *place))
            if name in self._entries:
                self._check_input(node, self._entries[name])
        output = (*self._written.place[:-1], "output")
        for place, reference in references_in(self._written.workflow.output, output):
            if not reference.optional:
                self._leads_to(reference, place)
        self._mistakes.raise_any()

    def _look_up(self, name: str, node: Node) -> None:
        at = (*self._written.place, name, "app")
        try:
            entry = self._find(node.app)
        except DarkroomError as error:
            self._mistakes.add(at, error.message.rstrip("."))
            return
        if entry.endpoint.family == FAMILY:
            self._mistakes.add(at, "a step cannot be a workflow; name its steps here instead")
            return
        self._entries[name] = entry

    # References.

    def _leads_to(self, reference: Reference, place: Place) -> Schema:
        """Schema of what a reference stands for; a mistake if it can stand for nothing."""
        schema, root = self._source(reference.source)
        walked = reference.source
        for part in reference.path:
            inner = _part(schema, root, part)
            if inner is None:
                known = (
                    ", ".join(f"`{field}`" for field in _properties(schema, root)) or "no fields"
                )
                self._mistakes.add(
                    place, f"`{reference}`: `{walked}` has no `{part}`; it has {known}"
                )
                return ANYTHING
            schema, walked = inner, f"{walked}.{part}"
        if EACH in reference.path:
            return {"type": "array"}
        return schema if root is None else _with_definitions(schema, root)

    def _source(self, name: str) -> tuple[Schema, Schema | None]:
        if name == INPUT:
            return self._written.input_schema, self._written.input_schema
        entry = self._entries.get(name)
        if entry is None:
            return ANYTHING, None
        schema = entry.schema.output_schema()
        node = self._written.workflow.nodes[name]
        if node.for_each is not None:
            return {"type": "array", "items": schema}, schema
        return schema, schema

    # Inputs.

    def _check_input(self, node: Node, entry: CatalogEntry) -> None:
        at = (*self._written.place, node.id, "input")
        schema = entry.schema.json_schema()
        fields = cast("Mapping[str, Any]", schema.get("properties") or {})
        unknown = [name for name in node.input if fields and name not in fields]
        if not entry.schema.is_open:
            for name in unknown:
                known = ", ".join(sorted(fields)[:12])
                self._mistakes.add((*at, name), f"{node.app} has no such field; it has {known}")
        fixed = {k: v for k, v in node.input.items() if not any(references_in(v))}
        later = node.input.keys() - fixed.keys()
        self._check_fixed(fixed, later, at, entry)
        for name in sorted(later - {*unknown}):
            self._check_kind(node, name, fields.get(name), schema, at)

    def _check_fixed(
        self, fields: Mapping[str, Any], later: Any, at: Place, entry: CatalogEntry
    ) -> None:
        """Check the fields that do not depend on a reference, and that none is missing."""
        try:
            entry.schema.validate({name: _unescape(value) for name, value in fields.items()})
        except InvalidInput as error:
            for problem in error.problems:
                field = problem.loc[1:]
                if field and field[0] in later:
                    continue
                if problem.type == "missing" and field:
                    message = f"{entry.endpoint.id} needs this field"
                else:
                    message = problem.message
                self._mistakes.add((*at, *field), message)

    def _check_kind(self, node: Node, name: str, field: Any, schema: Schema, at: Place) -> None:
        """Compare the types of a field and of the reference that fills it. Numbers and texts are
        converted by many endpoints, so only lists and objects are told from them."""
        reference = parse(node.input[name])
        if reference is None or not isinstance(field, Mapping):
            return
        expected = _kinds(cast("Schema", field), schema)
        if reference.source in (ITEM, INDEX):
            return
        before = len(self._mistakes.problems)
        produced = self._leads_to(reference, (*at, name))
        if len(self._mistakes.problems) > before:
            del self._mistakes.problems[before:]  # it is named already
            return
        kinds = _kinds(produced, produced)
        if not kinds or not expected or kinds & expected:
            return
        hint = ""
        if kinds == frozenset({"object"}) and "url" in _properties(produced, produced):
            hint = f"; for its URL, write `{reference}.url`"
        self._mistakes.add(
            (*at, name),
            f"`{reference}` is {_kinds_text(kinds)}, and {node.app} wants "
            f"{_kinds_text(expected)}{hint}",
        )


def _unescape(value: Any) -> Any:
    if isinstance(value, str):
        return value[1:] if value.startswith("$$") else value
    if isinstance(value, Mapping):
        fields = cast("Mapping[str, Any]", value)
        return {name: _unescape(inner) for name, inner in fields.items()}
    if isinstance(value, list):
        return [_unescape(item) for item in cast("list[Any]", value)]
    return value


_KINDS = {"object": "an object", "list": "a list", "value": "a text, number or boolean"}


def _kinds_text(kinds: frozenset[str]) -> str:
    return " or ".join(_KINDS[kind] for kind in sorted(kinds))


# Schemas. What is not understood may be anything.


def _resolve_references(schema: Any, root: Schema | None) -> Schema:
    for _ in range(_MAX_REFERENCES):
        if not isinstance(schema, Mapping):
            return ANYTHING
        fields = cast("Schema", schema)
        pointer = fields.get("$ref")
        if not isinstance(pointer, str) or root is None:
            return fields
        schema = root
        for part in pointer.removeprefix("#/").split("/"):
            schema = cast("Any", schema).get(part) if isinstance(schema, Mapping) else None
    return ANYTHING


def _branches(schema: Any, root: Schema | None) -> Iterator[Schema]:
    """Forms that a value may have; ``ANYTHING`` for one that is not understood."""
    resolved = _resolve_references(schema, root)
    for keyword in ("anyOf", "oneOf"):
        if isinstance(resolved.get(keyword), list):
            for branch in resolved[keyword]:
                yield from _branches(branch, root)
            return
    if "allOf" in resolved or "if" in resolved:
        yield ANYTHING
    else:
        yield resolved


def _kinds(schema: Schema, root: Schema | None) -> frozenset[str]:
    """Kinds of values: object, array, or value. Empty: any."""
    kinds: set[str] = set()
    for branch in _branches(schema, root):
        names = branch.get("type")
        for name in names if isinstance(names, list) else [names]:
            if not isinstance(name, str):
                return frozenset()
            if name != "null":
                kinds.add("list" if name == "array" else name if name == "object" else "value")
    return frozenset(kinds)


def _properties(schema: Schema, root: Schema | None) -> list[str]:
    names = [name for branch in _branches(schema, root) for name in branch.get("properties") or ()]
    return list(dict.fromkeys(names))[:12]


def _part(schema: Schema, root: Schema | None, part: str) -> Schema | None:
    """Schema of a part of a value; None if no value of the schema has it."""
    schemas: list[Schema] = []
    possible = False
    for branch in _branches(schema, root):
        inner = _part_of(branch, part)
        if inner is not None:
            possible = True
            schemas.append(inner)
    if not possible:
        return None
    return schemas[0] if len(schemas) == 1 else {"anyOf": schemas}


def _part_of(schema: Schema, part: str) -> Schema | None:
    kind = schema.get("type")
    if not isinstance(kind, str):
        return ANYTHING if "properties" not in schema else _field(schema, part)
    if kind == "array":
        if part != EACH and not part.isdecimal():
            return None
        return cast("Schema", schema.get("items") or ANYTHING)
    return _field(schema, part) if kind == "object" else None


def _field(schema: Schema, part: str) -> Schema | None:
    fields = cast("Mapping[str, Any]", schema.get("properties") or {})
    if part in fields:
        return cast("Schema", fields[part])
    extra = schema.get("additionalProperties")
    if isinstance(extra, Mapping):
        return cast("Schema", extra)
    open_ = extra is True or not fields or "patternProperties" in schema
    return ANYTHING if open_ else None


def _with_definitions(schema: Schema, root: Schema) -> Schema:
    """Schema with the definitions that it refers to."""
    definitions = root.get("$defs")
    return {**schema, "$defs": definitions} if definitions else schema
