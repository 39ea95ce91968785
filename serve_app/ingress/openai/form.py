"""Parameters of a call that is a form: OpenAI's clients write objects and lists as bracketed names,
and every value as a text."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar, cast

from pydantic import BaseModel

from serve_app.domain.errors import InvalidInput
from serve_app.ingress.submission.model_lookup import EndpointFields

ParametersT = TypeVar("ParametersT", bound=BaseModel)

MAX_DEPTH = 8
"""Most brackets of a name."""

MAX_SHOWN = 100  # characters of a name
MAX_BRANCHES = 64
"""Most schemas that may describe one value. Those of an app can refer to each other again and
again."""

ITEM = ""
"""Part of a name in whose place the items of a list are: that of ``loras[][path]``."""

_NAME = re.compile(r"([^\[\]]+)((?:\[[^\[\]]*\])*)")
_PART = re.compile(r"\[([^\[\]]*)\]")
_WHOLE = re.compile(r"-?[0-9]{1,40}")
_NUMBER = re.compile(r"-?[0-9]{1,40}(?:\.[0-9]{1,40})?(?:[eE][+-]?[0-9]{1,4})?")
_TRUTH = {"true": True, "false": False}

_Node = dict[str, Any]  # part of a name → node, or the values that were sent with this name


def unfold(texts: Iterable[tuple[str, str]]) -> dict[str, Any]:
    """Parameters of the names and texts of a form, in the order sent.

    ``a[b]`` is a field of an object and ``a[]`` an item of a list. Items of ``a[][b]`` and
    ``a[][c]`` belong together by their order, so each item needs the same fields. Of a name without
    a list the last text counts. ``InvalidInput`` names the parameter that cannot be read.
    """
    root: _Node = {}
    for name, text in texts:
        *above, last = _parts(name)
        node = root
        for part in above:
            node = node.setdefault(part, {})
            if not isinstance(node, dict):
                raise _ambiguous_field(name)
        values = node.setdefault(last, [])
        if not isinstance(values, list):
            raise _ambiguous_field(name)
        cast("list[str]", values).append(text)
    return {name: _value(node, name) for name, node in root.items()}


def _parts(name: str) -> list[str]:
    """Parts of a name: ``loras``, nothing and ``path`` of ``loras[][path]``."""
    match = _NAME.fullmatch(name)
    if match is None:
        what = "The name is not well formed. Write `a[b]` for a field of an object and `a[]` for"
        raise InvalidInput.of_field(name[:MAX_SHOWN], f"{what} an item of a list")
    if match[2].count("[") > MAX_DEPTH:
        message = f"The name has more than {MAX_DEPTH} pairs of brackets: nest less deeply"
        raise InvalidInput.of_field(name[:MAX_SHOWN], message)
    parts = [match[1], *_PART.findall(match[2])]
    if parts.count(ITEM) > 1:
        message = "A form cannot say which items of a list in a list belong together: send one list"
        raise InvalidInput.of_field(name[:MAX_SHOWN], message)
    return parts


def _ambiguous_field(name: str) -> InvalidInput:
    message = "It was sent in two ways that exclude each other: as a text, a list or an object"
    return InvalidInput.of_field(name[:MAX_SHOWN], message)


def _value(node: Any, name: str) -> Any:
    if isinstance(node, list):
        return cast("list[str]", node)[-1]
    fields = cast("_Node", node)
    if ITEM not in fields:
        return {part: _value(inner, f"{name}[{part}]") for part, inner in fields.items()}
    if len(fields) > 1:
        raise _ambiguous_field(name)
    items = fields[ITEM]
    if isinstance(items, list):
        return cast("list[str]", items)
    counts = {*_counts(items)}
    if len(counts) > 1:
        message = "Its items have not the same fields, and a form cannot say which one lacks which"
        raise InvalidInput.of_field(name[:MAX_SHOWN], f"{message}: send all of them in each item")
    return [_value(_item(items, number), name) for number in range(counts.pop())]


def _counts(node: Any) -> Iterable[int]:
    """How often each name below ``node`` was sent."""
    if isinstance(node, list):
        yield len(cast("list[str]", node))
        return
    for inner in cast("_Node", node).values():
        yield from _counts(inner)


def _item(node: Any, number: int) -> Any:
    """``node`` with only this one of the values of each name."""
    if isinstance(node, list):
        return [node[number]]
    return {part: _item(inner, number) for part, inner in cast("_Node", node).items()}


def convert_types(parameters: ParametersT, fields: EndpointFields) -> ParametersT:
    """Return ``parameters`` with the types that the endpoint's schema has for its own fields, in
    place of texts. A text that does not fit stays, and the schema refuses it."""
    more = parameters.model_extra or {}
    schema = fields.schema
    own = {
        name: _convert_value(value, _inner([schema], name), schema) for name, value in more.items()
    }
    return parameters.model_copy(update=own)


_Schema = Mapping[str, Any]


def _convert_value(value: Any, schemas: Iterable[Any], root: _Schema) -> Any:
    """``schemas``: those that may describe the value."""
    branches = _branches(schemas, root)
    if isinstance(value, dict):
        fields = cast("Mapping[str, Any]", value)
        return {
            name: _convert_value(field, _inner(branches, name), root)
            for name, field in fields.items()
        }
    if isinstance(value, list):
        items = [schema.get("items") for schema in branches]
        return [_convert_value(item, items, root) for item in cast("list[Any]", value)]
    return _of_text(value, branches)


def _inner(branches: Iterable[_Schema], name: str) -> list[Any]:
    """Schemas of a field of an object."""
    return [
        branch.get("properties", {}).get(name, branch.get("additionalProperties"))
        for branch in branches
    ]


def _branches(schemas: Iterable[Any], root: _Schema) -> Sequence[_Schema]:
    """``schemas`` and those that they are made of."""
    pending, branches = [*schemas], list[_Schema]()
    while pending and len(branches) < MAX_BRANCHES:
        schema = pending.pop()
        if not isinstance(schema, Mapping):  # true and false are schemas too
            continue
        branch = cast("_Schema", schema)
        branches.append(branch)
        for keyword in ("anyOf", "oneOf", "allOf"):
            pending += branch.get(keyword, ())
        pending.append(_resolve_reference(branch.get("$ref"), root))
    return branches


def _resolve_reference(reference: Any, root: _Schema) -> Any:
    if not isinstance(reference, str) or not reference.startswith("#/"):
        return None
    schema: Any = root
    for part in reference[2:].split("/"):
        schema = schema.get(part) if isinstance(schema, Mapping) else None
    return cast("Any", schema)


def _of_text(text: str, branches: Sequence[_Schema]) -> Any:
    types = {kind for schema in branches for kind in _types(schema, text)}
    if "string" in types:
        return text
    if types & {"integer", "number"}:
        if _WHOLE.fullmatch(text):
            return int(text)
        if _NUMBER.fullmatch(text) and math.isfinite(float(text)):
            return float(text)
    return _TRUTH.get(text, text) if "boolean" in types else text


def _types(schema: _Schema, text: str) -> Iterable[str]:
    """Types that a schema allows for a text. It is a string only if it is among the choices."""
    choices = schema.get("enum", [schema["const"]] if "const" in schema else None)
    declared = schema.get("type", [])
    if not declared and choices is not None:
        declared = [_KINDS.get(type(choice), "") for choice in choices]
    for kind in [declared] if isinstance(declared, str) else declared:
        if kind != "string" or choices is None or text in choices:
            yield kind


_KINDS: Mapping[type, str] = {bool: "boolean", int: "integer", float: "number", str: "string"}
