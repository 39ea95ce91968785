"""Calls of fal's JavaScript client, read from JavaScript and TypeScript without running it."""

from __future__ import annotations

import tree_sitter_typescript
from tree_sitter import Language, Node, Parser

from serve_app.cli.migration.call import COMPUTED, Call, Object, Place, Value, call
from serve_app.cli.migration.javascript_names import (
    Names,
    line_of,
    names_of,
    parts_of,
    text_of,
    walk,
)
from serve_app.cli.migration.javascript_values import value_of

MODULES = frozenset({"@fal-ai/client", "@fal-ai/serverless-client"})
USUAL = "fal"  # what the client is called in code that gets it from a module of its own
MAKER = "createFalClient"
REALTIME = "realtime.connect"
METHODS = frozenset({"run", "subscribe", "stream", "stream.stream", "queue.submit", REALTIME})
TYPED = frozenset({".ts", ".mts", ".cts"})
"""Of which TypeScript without JSX is written; the grammar with JSX reads JavaScript as well."""

BROKEN = "A part of this file is not understood; calls in it may be missed."


def calls_in(text: str, file: str, suffix: str) -> list[Call]:
    """``suffix``: the file's, which says which grammar it has."""
    typescript = tree_sitter_typescript
    grammar = typescript.language_typescript if suffix in TYPED else typescript.language_tsx
    root = Parser(Language(grammar())).parse(text.encode()).root_node
    nodes = list(walk(root))
    names = names_of(nodes)
    clients = _clients(nodes)
    found = [
        _call(node, method, names, file)
        for node in nodes
        if node.type == "call_expression" and (method := _method(node, clients))
    ]
    if root.has_error:
        broken = next((each for each in nodes if each.is_error or each.is_missing), root)
        found.append(Call(Place(file, line_of(broken)), None, None, unread=(BROKEN,)))
    return found


def _clients(nodes: list[Node]) -> set[str]:
    """What fal's client is called in this file."""
    clients = {USUAL}
    for node in nodes:
        if node.type == "import_statement" and _module(node.child_by_field_name("source")):
            clients |= _imported(node)
        elif node.type in {"variable_declarator", "assignment_expression"}:
            clients |= _made(node)
    return clients


def _module(source: Node | None) -> bool:
    return text_of(source)[1:-1] in MODULES


def _imported(statement: Node) -> set[str]:
    """``fal`` of ``import { fal }``, ``f`` of ``import { fal as f }`` and ``import * as f``."""
    found: set[str] = set()
    for node in walk(statement):
        if node.type == "import_specifier":
            if text_of(node.child_by_field_name("name")) == USUAL:
                alias = node.child_by_field_name("alias") or node.child_by_field_name("name")
                found.add(text_of(alias))
        elif node.parent is not None and node.parent.type in {"namespace_import", "import_clause"}:
            found.add(text_of(node))
    return found


def _made(node: Node) -> set[str]:
    """``x`` of ``x = createFalClient()``, and of ``x = require("@fal-ai/client").fal``."""
    target = node.child_by_field_name("name") or node.child_by_field_name("left")
    value = node.child_by_field_name("value") or node.child_by_field_name("right")
    if target is None or value is None:
        return set()
    made = text_of(value)
    required = any(f"require({mark}{each}{mark})" in made for each in MODULES for mark in "'\"")
    if not required and not made.startswith(f"{MAKER}("):
        return set()
    if target.type != "object_pattern":
        return {text_of(target)}
    pairs = [each for each in walk(target) if each.type == "pair_pattern"]
    return {text_of(each.child_by_field_name("value")) for each in pairs}


def _method(node: Node, clients: set[str]) -> str | None:
    """``queue.submit`` for ``fal.queue.submit``; None: it is no call of fal's client."""
    callee = node.child_by_field_name("function")
    if callee is None or callee.type != "member_expression":
        return None
    path = "".join(text_of(callee).split()).replace("?.", ".")
    for client in clients:
        method = path.removeprefix(f"{client}.")
        if method != path and method in METHODS:
            return method
    return None


def _call(node: Node, method: str, names: Names, file: str) -> Call:
    given = node.child_by_field_name("arguments")
    parts = parts_of(given) if given else []
    endpoint = value_of(parts[0], names) if parts else COMPUTED
    options = value_of(parts[1], names) if len(parts) > 1 else Object()
    arguments: Value = COMPUTED
    if isinstance(options, Object):
        absent: Value = Object() if options.whole else COMPUTED
        arguments = options.fields.get("input", absent)
    return call(Place(file, line_of(node)), endpoint, arguments, realtime=method == REALTIME)
