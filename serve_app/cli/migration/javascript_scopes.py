"""Scopes of a JavaScript or TypeScript file, and the names that they bind."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field

from tree_sitter import Node

from serve_app.cli.migration.calls import COMPUTED, Value

SCOPES = frozenset(
    {
        "arrow_function",
        "class_body",
        "for_in_statement",
        "for_statement",
        "function_declaration",
        "function_expression",
        "generator_function_declaration",
        "method_definition",
        "program",
        "statement_block",
    }
)
PARAMETERS = frozenset({"required_parameter", "optional_parameter"})


@dataclass(slots=True)
class Scope:
    """Names that a block, a function or the file binds."""

    bound: dict[str, list[Node | None]] = field(default_factory=dict)  # None: bound without a value
    stored: dict[str, list[tuple[str | None, Node]]] = field(default_factory=dict)
    """Name → keys (None: computed) and values of ``name.key = value``."""
    changed: set[str] = field(default_factory=set)


class ScopeNames:
    """Scopes of a file, by their nodes."""

    def __init__(self) -> None:
        self._scopes: dict[int, Scope] = {}

    def at(self, node: Node) -> Scope:
        """Innermost scope around ``node``."""
        around = node.parent
        while around is not None and around.type not in SCOPES:
            around = around.parent
        return self._scopes.setdefault(around.id if around is not None else node.id, Scope())

    def owner(self, name: Node) -> Scope | None:
        """Innermost scope around ``name`` that binds it; None if no scope of the file does."""
        around: Node | None = name
        while around is not None:
            scope = self._scopes.get(around.id)
            if scope is not None and text_of(name) in scope.bound:
                return scope
            around = around.parent
        return None


def text_of(node: Node | None) -> str:
    return node.text.decode() if node is not None and node.text is not None else ""


def line_of(node: Node) -> int:
    return node.start_point.row + 1


def parts_of(node: Node) -> list[Node]:
    """Children of ``node`` without comments."""
    return [child for child in node.named_children if child.type != "comment"]


def string_of(node: Node) -> Value:
    # Python parses the escapes that both languages share. Any other escape makes the string
    # unreadable, never wrong.
    if not any(child.type == "escape_sequence" for child in node.children):
        return text_of(node)[1:-1]
    try:
        return str(ast.literal_eval(text_of(node)))
    except (SyntaxError, ValueError):
        return COMPUTED


def walk(node: Node) -> Iterator[Node]:
    """``node`` and all nodes below it, in the order of the text."""
    waiting = [node]
    while waiting:
        current = waiting.pop()
        yield current
        waiting += reversed(current.children)


def names_of(nodes: list[Node]) -> ScopeNames:
    """Scopes of a file with the given ``nodes``.

    Declarations are read first, because assignments may precede them in the text.
    """
    names = ScopeNames()
    for node in nodes:
        _bind(node, names)
    for node in nodes:
        if node.type in {"assignment_expression", "augmented_assignment_expression"}:
            _assign(node, names)
        elif node.type == "call_expression":
            _change(node, names)
    return names


def _bind(node: Node, names: ScopeNames) -> None:
    if node.type == "variable_declarator":
        value = node.child_by_field_name("value")
        _declare(node.child_by_field_name("name"), value, names, alone=value is None)
    elif node.type in PARAMETERS:
        _declare(node.child_by_field_name("pattern"), None, names)
    elif node.type in {"arrow_function", "catch_clause"}:
        _declare(node.child_by_field_name("parameter"), None, names)
    elif node.type == "for_in_statement":
        _declare(node.child_by_field_name("left"), None, names)


def _declare(
    target: Node | None, value: Node | None, names: ScopeNames, *, alone: bool = False
) -> None:
    """Bind the names of ``target``. ``alone``: a declaration without a value, like ``let x;``."""
    if target is None:
        return
    if target.type == "identifier":
        bound = names.at(target).bound.setdefault(text_of(target), [])
        bound += [] if alone else [value]
        return
    for inner in walk(target):
        if inner.type in {"identifier", "shorthand_property_identifier_pattern"}:
            names.at(target).bound.setdefault(text_of(inner), []).append(None)


def _assign(node: Node, names: ScopeNames) -> None:
    left, right = node.child_by_field_name("left"), node.child_by_field_name("right")
    if left is None or right is None:
        return
    if left.type in {"member_expression", "subscript_expression"}:
        _store(left, right, names)
        return
    value = right if left.type == "identifier" and node.type == "assignment_expression" else None
    for inner in walk(left):
        if inner.type in {"identifier", "shorthand_property_identifier_pattern"}:
            owner = names.owner(inner)
            if owner is not None:
                owner.bound[text_of(inner)].append(value)


def _store(left: Node, right: Node, names: ScopeNames) -> None:
    whole = left.child_by_field_name("object")
    owner = names.owner(whole) if whole is not None and whole.type == "identifier" else None
    if owner is None:
        return
    key: Value = COMPUTED
    index = left.child_by_field_name("index")
    if left.type == "member_expression":
        key = text_of(left.child_by_field_name("property"))
    elif index is not None and index.type == "string":
        key = string_of(index)
    stored = owner.stored.setdefault(text_of(whole), [])
    stored.append((key if isinstance(key, str) else None, right))


def _change(node: Node, names: ScopeNames) -> None:
    arguments = node.child_by_field_name("arguments")
    if text_of(node.child_by_field_name("function")) == "Object.assign" and arguments is not None:
        parts = parts_of(arguments)
        owner = names.owner(parts[0]) if parts and parts[0].type == "identifier" else None
        if owner is not None:
            owner.changed.add(text_of(parts[0]))
