"""What expressions of JavaScript and TypeScript are, where that stands in the code."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from tree_sitter import Node

from serve_app.cli.migration.call import COMPUTED, Object, Value

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
PARAMETERS = frozenset({"required_parameter", "optional_parameter"})


@dataclass(slots=True)
class Names:
    """What a file binds. A name that is bound twice, in whatever scopes, stands for nothing."""

    bound: dict[str, list[Node | None]] = field(default_factory=dict)  # None: by no expression
    stored: dict[str, list[tuple[str | None, Node]]] = field(default_factory=dict)
    """Name → keys (None: computed) and values of ``name.key = value``."""
    changed: set[str] = field(default_factory=set)


def text_of(node: Node | None) -> str:
    return node.text.decode() if node is not None and node.text is not None else ""


def line_of(node: Node) -> int:
    return node.start_point.row + 1


def walk(node: Node) -> Iterator[Node]:
    """It, and all below it, in the order of the text."""
    waiting = [node]
    while waiting:
        each = waiting.pop()
        yield each
        waiting += reversed(each.children)


def names_of(nodes: list[Node]) -> Names:
    names = Names()
    for node in nodes:
        _bind(node, names)
    return names


def value_of(node: Node | None, names: Names, steps: int = MOST_STEPS) -> Value:
    """``COMPUTED`` for what is not written down."""
    if node is None or steps == 0:
        return COMPUTED
    if node.type in LITERALS:
        return LITERALS[node.type]
    read = READERS.get(node.type)
    return read(node, names, steps - 1) if read else COMPUTED


def _parts(node: Node) -> list[Node]:
    return [each for each in node.named_children if each.type != "comment"]


def _bind(node: Node, names: Names) -> None:
    if node.type == "variable_declarator":
        _declare(node.child_by_field_name("name"), node.child_by_field_name("value"), names)
    elif node.type in PARAMETERS:
        _declare(node.child_by_field_name("pattern"), None, names)
    elif node.type == "arrow_function":
        _declare(node.child_by_field_name("parameter"), None, names)
    elif node.type == "for_in_statement":
        _declare(node.child_by_field_name("left"), None, names)
    elif node.type in {"assignment_expression", "augmented_assignment_expression"}:
        _assign(node, names)
    elif node.type == "call_expression":
        _change(node, names)


def _declare(target: Node | None, value: Node | None, names: Names) -> None:
    if target is None:
        return
    if target.type == "identifier":
        if value is not None or target.parent is None or target.parent.type in PARAMETERS:
            names.bound.setdefault(text_of(target), []).append(value)
        elif target.parent.type != "variable_declarator":  # `let x;` is assigned later, once
            names.bound.setdefault(text_of(target), []).append(None)
        return
    for each in walk(target):
        if each.type in {"identifier", "shorthand_property_identifier_pattern"}:
            names.bound.setdefault(text_of(each), []).append(None)


def _assign(node: Node, names: Names) -> None:
    left, right = node.child_by_field_name("left"), node.child_by_field_name("right")
    if left is None or right is None:
        return
    if left.type == "identifier":
        value = right if node.type == "assignment_expression" else None
        names.bound.setdefault(text_of(left), []).append(value)
        return
    if left.type not in {"member_expression", "subscript_expression"}:
        return
    whole = left.child_by_field_name("object")
    if whole is not None and whole.type == "identifier":
        key: str | None = None
        index = left.child_by_field_name("index")
        if left.type == "member_expression":
            key = text_of(left.child_by_field_name("property"))
        elif index is not None and index.type == "string":
            read = _string(index)
            key = read if isinstance(read, str) else None
        names.stored.setdefault(text_of(whole), []).append((key, right))


def _change(node: Node, names: Names) -> None:
    arguments = node.child_by_field_name("arguments")
    if text_of(node.child_by_field_name("function")) == "Object.assign" and arguments is not None:
        parts = _parts(arguments)
        if parts and parts[0].type == "identifier":
            names.changed.add(text_of(parts[0]))


def _named(node: Node, names: Names, steps: int) -> Value:
    name = text_of(node)
    if name == "undefined":
        return None
    bound = names.bound.get(name, [])
    if len(bound) != 1:
        return COMPUTED
    found = value_of(bound[0], names, steps)
    if isinstance(found, Object):
        for key, value in names.stored.get(name, ()):
            if key is None:
                found.whole = False
            else:
                found.put(key, value_of(value, names, steps), line_of(value))
        if name in names.changed:
            found.whole = False
    return found


def _wrapped(node: Node, names: Names, steps: int) -> Value:
    inside = _parts(node)
    return value_of(inside[0], names, steps) if inside else COMPUTED


def _negative(node: Node, names: Names, steps: int) -> Value:
    inner = value_of(node.child_by_field_name("argument"), names, steps)
    minus = text_of(node.child_by_field_name("operator")) == "-"
    return -inner if minus and isinstance(inner, int | float) else COMPUTED


def _array(node: Node, names: Names, steps: int) -> Value:
    return [value_of(each, names, steps) for each in _parts(node)]


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
    for each in _parts(node):
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
            made.merge(value_of(_parts(each)[0], names, steps))
        else:
            made.whole = False
    return made


def _key(node: Node | None, names: Names, steps: int) -> Value:
    if node is None:
        return COMPUTED
    if node.type == "computed_property_name":
        return value_of(_parts(node)[0], names, steps)
    return _string(node) if node.type == "string" else text_of(node)


def _string(node: Node, _names: Names | None = None, _steps: int = 0) -> Value:
    # The escapes that the two languages share; another makes the string unreadable, not wrong.
    if not any(each.type == "escape_sequence" for each in node.children):
        return text_of(node)[1:-1]
    try:
        return str(ast.literal_eval(text_of(node)))
    except (SyntaxError, ValueError):
        return COMPUTED


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
