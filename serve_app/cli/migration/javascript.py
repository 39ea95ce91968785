"""Finder of calls to fal's JavaScript client in JavaScript and TypeScript, without running them."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import tree_sitter_typescript
from tree_sitter import Language, Node, Parser

from serve_app.cli.migration.calls import (
    COMPUTED,
    ClientCall,
    ObjectLiteral,
    SourceLocation,
    Value,
    call,
)
from serve_app.cli.migration.javascript_scopes import (
    ScopeNames,
    line_of,
    names_of,
    parts_of,
    string_of,
    text_of,
    walk,
)

# Evaluation of JavaScript and TypeScript expressions whose values are written in the code.

MAX_DEPTH = 20  # maximum depth of nested expressions and resolved names
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
"""Node types that have the value of their first child."""

LITERALS: dict[str, bool | None] = {"true": True, "false": False, "null": None}


def value_of(node: Node | None, names: ScopeNames, steps: int = MAX_DEPTH) -> Value:
    """Value of an expression; ``COMPUTED`` if the code does not state it."""
    if node is None or steps == 0:
        return COMPUTED
    if node.type in LITERALS:
        return LITERALS[node.type]
    read = READERS.get(node.type)
    return read(node, names, steps - 1) if read else COMPUTED


def _identifier_value(node: Node, names: ScopeNames, steps: int) -> Value:
    name = text_of(node)
    owner = names.owner(node)
    if owner is None:
        return None if name == "undefined" else COMPUTED
    bound = owner.bound[name]
    if len(bound) != 1:
        return COMPUTED
    literal = value_of(bound[0], names, steps)
    if isinstance(literal, ObjectLiteral):
        for key, value in owner.stored.get(name, ()):
            if key is None:
                literal.complete = False
            else:
                literal.put(key, value_of(value, names, steps), line_of(value))
        if name in owner.changed:
            literal.complete = False
    return literal


def _unwrap(node: Node, names: ScopeNames, steps: int) -> Value:
    inside = parts_of(node)
    return value_of(inside[0], names, steps) if inside else COMPUTED


def _negative(node: Node, names: ScopeNames, steps: int) -> Value:
    inner = value_of(node.child_by_field_name("argument"), names, steps)
    minus = text_of(node.child_by_field_name("operator")) == "-"
    return -inner if minus and isinstance(inner, int | float) else COMPUTED


def _array(node: Node, names: ScopeNames, steps: int) -> Value:
    return [value_of(element, names, steps) for element in parts_of(node)]


def _sum(node: Node, names: ScopeNames, steps: int) -> Value:
    if text_of(node.child_by_field_name("operator")) != "+":
        return COMPUTED
    sides = (node.child_by_field_name(side) for side in ("left", "right"))
    return _join_text([value_of(operand, names, steps) for operand in sides])


def _member(node: Node, names: ScopeNames, steps: int) -> Value:
    whole = value_of(node.child_by_field_name("object"), names, steps)
    if not isinstance(whole, ObjectLiteral):
        return COMPUTED
    if node.type == "member_expression":
        key: Value = text_of(node.child_by_field_name("property"))
    else:
        key = value_of(node.child_by_field_name("index"), names, steps)
    return whole.fields.get(key, COMPUTED) if isinstance(key, str) else COMPUTED


def _object(node: Node, names: ScopeNames, steps: int) -> ObjectLiteral:
    literal = ObjectLiteral()
    for member in parts_of(node):
        if member.type == "pair":
            key = _key(member.child_by_field_name("key"), names, steps)
            if isinstance(key, str):
                value = value_of(member.child_by_field_name("value"), names, steps)
                literal.put(key, value, line_of(member))
            else:
                literal.complete = False
        elif member.type == "shorthand_property_identifier":
            literal.put(text_of(member), _identifier_value(member, names, steps), line_of(member))
        elif member.type == "spread_element":
            for part in _alternatives(parts_of(member)[0]):
                literal.merge(value_of(part, names, steps))
        else:
            literal.complete = False
    return literal


def _alternatives(node: Node) -> Iterator[Node]:
    """Objects that a spread may add: ``...(seed && { seed })`` or ``...(small ? { size } : {})``.

    All alternatives count, because each of them is sent in some calls.
    """
    inside = parts_of(node)
    operator = text_of(node.child_by_field_name("operator"))
    if node.type == "parenthesized_expression":
        yield from _alternatives(inside[0])
    elif node.type == "binary_expression" and operator == "&&":
        yield from _alternatives(inside[1])
    elif node.type == "ternary_expression":
        yield from (alternative for branch in inside[1:] for alternative in _alternatives(branch))
    else:
        yield node


def _key(node: Node | None, names: ScopeNames, steps: int) -> Value:
    if node is None:
        return COMPUTED
    if node.type == "computed_property_name":
        return value_of(parts_of(node)[0], names, steps)
    return string_of(node) if node.type == "string" else text_of(node)


def _string(node: Node, _names: ScopeNames, _steps: int) -> Value:
    return string_of(node)


def _template(node: Node, names: ScopeNames, steps: int) -> Value:
    pieces: list[Value] = []
    for child in node.named_children:
        if child.type == "string_fragment":
            pieces.append(text_of(child))
        elif child.type == "template_substitution":
            pieces.append(value_of(child, names, steps))
        else:
            return COMPUTED
    return _join_text(pieces)


def _number(node: Node, _names: ScopeNames, _steps: int) -> Value:
    try:
        plain = text_of(node).replace("_", "").lower()
        return int(plain, 0) if plain.isdigit() or plain[:2] in {"0x", "0b", "0o"} else float(plain)
    except ValueError:
        return COMPUTED


def _join_text(parts: list[Value]) -> Value:
    words = [part for part in parts if isinstance(part, str)]
    return "".join(words) if len(words) == len(parts) else COMPUTED


READERS: dict[str, Callable[[Node, ScopeNames, int], Value]] = {
    "array": _array,
    "binary_expression": _sum,
    "identifier": _identifier_value,
    "member_expression": _member,
    "number": _number,
    "object": _object,
    "string": _string,
    "subscript_expression": _member,
    "template_string": _template,
    "unary_expression": _negative,
    **dict.fromkeys(WRAPPERS, _unwrap),
}


MODULES = frozenset({"@fal-ai/client", "@fal-ai/serverless-client"})
DEFAULT_CLIENT_NAME = (
    "fal"  # usual name of the client, also in code that imports it from its own module
)
CLIENT_FACTORY = "createFalClient"
REALTIME = "realtime.connect"
METHODS = frozenset({"run", "subscribe", "stream", "stream.stream", "queue.submit", REALTIME})
TYPED = frozenset({".ts", ".mts", ".cts"})
"""Suffixes of TypeScript without JSX. The grammar with JSX also reads JavaScript."""

PARSE_ERROR = "A part of this file cannot be parsed, so calls in it may be missing."


def calls_in(text: str, file: str, suffix: str) -> list[ClientCall]:
    """Calls in ``text``. ``suffix`` is the file's suffix and selects the grammar."""
    typescript = tree_sitter_typescript
    grammar = typescript.language_typescript if suffix in TYPED else typescript.language_tsx
    root = Parser(Language(grammar())).parse(text.encode()).root_node
    nodes = list(walk(root))
    names = names_of(nodes)
    clients = _clients(nodes)
    calls = [
        _call(node, method, names, file)
        for node in nodes
        if node.type == "call_expression" and (method := _method(node, clients))
    ]
    if root.has_error:
        broken = next((part for part in nodes if part.is_error or part.is_missing), root)
        calls.append(
            ClientCall(SourceLocation(file, line_of(broken)), None, None, unread=(PARSE_ERROR,))
        )
    return calls


def _clients(nodes: list[Node]) -> set[str]:
    """Names of fal's client in this file."""
    clients = {DEFAULT_CLIENT_NAME}
    for node in nodes:
        if node.type == "import_statement" and _module(node.child_by_field_name("source")):
            clients |= _import_bindings(node)
        elif node.type == "public_field_definition":
            clients |= {f"this.{name}" for name in _client_bindings(node)}
        elif node.type in {"variable_declarator", "assignment_expression"}:
            clients |= _client_bindings(node)
    return clients


def _module(source: Node | None) -> bool:
    return text_of(source)[1:-1] in MODULES


def _import_bindings(statement: Node) -> set[str]:
    """Names that an import binds: ``fal`` for ``import { fal }``, ``f`` for
    ``import { fal as f }`` and ``import * as f``."""
    names: set[str] = set()
    for node in walk(statement):
        if node.type == "import_specifier":
            if text_of(node.child_by_field_name("name")) == DEFAULT_CLIENT_NAME:
                alias = node.child_by_field_name("alias") or node.child_by_field_name("name")
                names.add(text_of(alias))
        elif node.parent is not None and node.parent.type in {"namespace_import", "import_clause"}:
            names.add(text_of(node))
    return names


def _client_bindings(node: Node) -> set[str]:
    """Names bound by an assignment: ``x`` for ``x = createFalClient()`` and for
    ``x = require("@fal-ai/client").fal``."""
    target = node.child_by_field_name("name") or node.child_by_field_name("left")
    value = node.child_by_field_name("value") or node.child_by_field_name("right")
    if target is None or value is None:
        return set()
    expression = text_of(value)
    required = any(
        f"require({mark}{module}{mark})" in expression for module in MODULES for mark in "'\""
    )
    if not required and not expression.startswith(f"{CLIENT_FACTORY}("):
        return set()
    if target.type != "object_pattern":
        return {text_of(target)}
    pairs = [inner for inner in walk(target) if inner.type == "pair_pattern"]
    return {text_of(pair.child_by_field_name("value")) for pair in pairs}


def _method(node: Node, clients: set[str]) -> str | None:
    """Method name, such as ``queue.submit`` for ``fal.queue.submit``; None for other calls."""
    callee = node.child_by_field_name("function")
    if callee is not None and callee.type == "await_expression":
        callee = parts_of(callee)[0]  # the grammar nests it so with type arguments: `await f<T>(x)`
    if callee is None or callee.type != "member_expression":
        return None
    path = "".join(text_of(callee).split()).replace("?.", ".").replace("!.", ".")
    for client in clients:
        method = path.removeprefix(f"{client}.")
        if method != path and method in METHODS:
            return method
    return None


def _call(node: Node, method: str, names: ScopeNames, file: str) -> ClientCall:
    argument_list = node.child_by_field_name("arguments")
    parts = parts_of(argument_list) if argument_list else []
    endpoint = value_of(parts[0], names) if parts else COMPUTED
    options = value_of(parts[1], names) if len(parts) > 1 else ObjectLiteral()
    arguments: Value = COMPUTED
    if isinstance(options, ObjectLiteral):
        absent: Value = ObjectLiteral() if options.complete else COMPUTED
        arguments = options.fields.get("input", absent)
    return call(
        SourceLocation(file, line_of(node)), endpoint, arguments, realtime=method == REALTIME
    )
