"""What expressions of JavaScript and TypeScript are, where that stands in the code."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from tree_sitter import Node

from serve_app.cli.migration.call import COMPUTED, Object, Value
from serve_app.cli.migration.javascript_names import (
    Names,
    line_of,
    parts_of,
    string_of,
    text_of,
)

MOST_STEPS = 20  # from a name to what it stands for, and on
WRAPPERS = frozenset(
    {
        "as_expression",
        "await_expression",
        "non_null_expression",
        "parenthesized_expression",
        "satisfies_expression",
        "template_substitution",
    }
)
"""Nodes whose first child is what they are worth."""

LITERALS: dict[str, bool | None] = {"true": True, "false": False, "null": None}


def value_of(node: Node | None, names: Names, steps: int = MOST_STEPS) -> Value:
    """``COMPUTED`` for what is not written down."""
    if node is None or steps == 0:
        return COMPUTED
    if node.type in LITERALS:
        return LITERALS[node.type]
    read = READERS.get(node.type)
    return read(node, names, steps - 1) if read else COMPUTED


def _named(node: Node, names: Names, steps: int) -> Value:
    name = text_of(node)
    owner = names.owner(node)
    if owner is None:
        return None if name == "undefined" else COMPUTED
    bound = owner.bound[name]
    if len(bound) != 1:
        return COMPUTED
    found = value_of(bound[0], names, steps)
    if isinstance(found, Object):
        for key, value in owner.stored.get(name, ()):
            if key is None:
                found.whole = False
            else:
                found.put(key, value_of(value, names, steps), line_of(value))
        if name in owner.changed:
            found.whole = False
    return found


def _wrapped(node: Node, names: Names, steps: int) -> Value:
    inside = parts_of(node)
    return value_of(inside[0], names, steps) if inside else COMPUTED


def _negative(node: Node, names: Names, steps: int) -> Value:
    inner = value_of(node.child_by_field_name("argument"), names, steps)
    minus = text_of(node.child_by_field_name("operator")) == "-"
    return -inner if minus and isinstance(inner, int | float) else COMPUTED


def _array(node: Node, names: Names, steps: int) -> Value:
    return [value_of(each, names, steps) for each in parts_of(node)]


def _sum(node: Node, names: Names, steps: int) -> Value:
    if text_of(node.child_by_field_name("operator")) != "+":
        return COMPUTED
    sides = (node.child_by_field_name(side) for side in ("left", "right"))
    return _joined([value_of(each, names, steps) for each in sides])


def _member(node: Node, names: Names, steps: int) -> Value:
    whole = value_of(node.child_by_field_name("object"), names, steps)
    if not isinstance(whole, Object):
        return COMPUTED
    if node.type == "member_expression":
        key: Value = text_of(node.child_by_field_name("property"))
    else:
        key = value_of(node.child_by_field_name("index"), names, steps)
    return whole.fields.get(key, COMPUTED) if isinstance(key, str) else COMPUTED


def _object(node: Node, names: Names, steps: int) -> Object:
    made = Object()
    for each in parts_of(node):
        if each.type == "pair":
            key = _key(each.child_by_field_name("key"), names, steps)
            if isinstance(key, str):
                value = value_of(each.child_by_field_name("value"), names, steps)
                made.put(key, value, line_of(each))
            else:
                made.whole = False
        elif each.type == "shorthand_property_identifier":
            made.put(text_of(each), _named(each, names, steps), line_of(each))
        elif each.type == "spread_element":
            for part in _alternatives(parts_of(each)[0]):
                made.merge(value_of(part, names, steps))
        else:
            made.whole = False
    return made


def _alternatives(node: Node) -> Iterator[Node]:
    """What may be spread by ``...(seed && { seed })`` or ``...(small ? { size } : {})``: each of
    these fields is sent at times, so each counts."""
    inside = parts_of(node)
    operator = text_of(node.child_by_field_name("operator"))
    if node.type == "parenthesized_expression":
        yield from _alternatives(inside[0])
    elif node.type == "binary_expression" and operator == "&&":
        yield from _alternatives(inside[1])
    elif node.type == "ternary_expression":
        yield from (found for each in inside[1:] for found in _alternatives(each))
    else:
        yield node


def _key(node: Node | None, names: Names, steps: int) -> Value:
    if node is None:
        return COMPUTED
    if node.type == "computed_property_name":
        return value_of(parts_of(node)[0], names, steps)
    return string_of(node) if node.type == "string" else text_of(node)


def _string(node: Node, _names: Names, _steps: int) -> Value:
    return string_of(node)


def _template(node: Node, names: Names, steps: int) -> Value:
    pieces: list[Value] = []
    for each in node.named_children:
        if each.type == "string_fragment":
            pieces.append(text_of(each))
        elif each.type == "template_substitution":
            pieces.append(value_of(each, names, steps))
        else:
            return COMPUTED
    return _joined(pieces)


def _number(node: Node, _names: Names, _steps: int) -> Value:
    try:
        plain = text_of(node).replace("_", "").lower()
        return int(plain, 0) if plain.isdigit() or plain[:2] in {"0x", "0b", "0o"} else float(plain)
    except ValueError:
        return COMPUTED


def _joined(parts: list[Value]) -> Value:
    words = [each for each in parts if isinstance(each, str)]
    return "".join(words) if len(words) == len(parts) else COMPUTED


READERS: dict[str, Callable[[Node, Names, int], Value]] = {
    "array": _array,
    "binary_expression": _sum,
    "identifier": _named,
    "member_expression": _member,
    "number": _number,
    "object": _object,
    "string": _string,
    "subscript_expression": _member,
    "template_string": _template,
    "unary_expression": _negative,
    **dict.fromkeys(WRAPPERS, _wrapped),
}
