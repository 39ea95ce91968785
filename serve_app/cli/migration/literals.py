"""Evaluation of Python expressions whose values are written in the code."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field

from serve_app.cli.migration.calls import COMPUTED, ObjectLiteral, Value

MAX_DEPTH = 20  # maximum depth of nested expressions and resolved names

Scope = ast.Module | ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda | ast.ClassDef
SCOPES = (ast.Module, ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.ClassDef)
SELF = frozenset({"self", "cls"})
CHANGES = frozenset({"clear", "pop", "popitem", "setdefault", "update"})
"""Methods that change the fields of a dictionary."""


@dataclass(slots=True)
class BoundNames:
    """Names that one scope binds."""

    outer: BoundNames | None
    bound: dict[str, list[ast.expr | None]] = field(default_factory=dict)  # None: without a value
    stored: dict[str, list[tuple[ast.expr, ast.expr]]] = field(default_factory=dict)
    """Name → keys and values of ``name[key] = value``."""
    changed: set[str] = field(default_factory=set)
    of_class: bool = False
    attributes: dict[str, list[tuple[ast.expr, BoundNames]]] = field(default_factory=dict)
    """Attributes of ``self`` that the methods of a class bind."""

    def enclosing_class(self) -> BoundNames | None:
        """Scope of the class that contains this scope, or this scope if it is a class."""
        if self.of_class:
            return self
        return self.outer.enclosing_class() if self.outer else None

    def owner(self, name: str) -> BoundNames | None:
        """Innermost scope that binds ``name``: this one or one around it."""
        if name in self.bound:
            return self
        return self.outer.owner(name) if self.outer else None


def walk(scope: Scope, names: BoundNames) -> Iterator[tuple[ast.AST, BoundNames]]:
    """Every node below ``scope``, with its scope.

    ``names`` is complete only when the iterator is exhausted.
    """
    for argument in _arguments(scope):
        names.bound.setdefault(argument, []).append(None)
    inside = list(ast.iter_child_nodes(scope))
    while inside:
        node = inside.pop(0)
        yield node, names
        _bind(node, names)
        if isinstance(node, SCOPES):
            yield from walk(node, BoundNames(names, of_class=isinstance(node, ast.ClassDef)))
        else:
            inside[:0] = ast.iter_child_nodes(node)


def value_of(node: ast.expr | None, names: BoundNames, steps: int = MAX_DEPTH) -> Value:
    """Value of an expression; ``COMPUTED`` if the code does not state it."""
    literal: Value = COMPUTED
    if node is None or steps == 0:
        return literal
    match node:
        case ast.Constant(value=value) if value is None or isinstance(value, str | int | float):
            literal = value
        case ast.Name(id=name):
            literal = _name_value(name, names, steps - 1)
        case ast.List(elts=items) | ast.Tuple(elts=items):
            literal = [value_of(item, names, steps - 1) for item in items]
        case ast.Dict():
            literal = _dictionary(node, names, steps - 1)
        case ast.Call(func=ast.Name(id="dict"), args=[]):
            literal = keywords(node, names, steps - 1)
        case ast.Attribute(value=ast.Name(id=owner), attr=name) if owner in SELF:
            literal = _attribute(name, names, steps - 1)
        case ast.Subscript():
            literal = _part(node, names, steps - 1)
        case ast.UnaryOp(op=ast.USub()):
            inner = value_of(node.operand, names, steps - 1)
            literal = -inner if isinstance(inner, int | float) else COMPUTED
        case _:
            literal = _text(node, names, steps - 1)
    return literal


def _text(node: ast.expr, names: BoundNames, steps: int) -> Value:
    match node:
        case ast.BinOp(op=ast.Add()):
            return _join_text([value_of(side, names, steps) for side in (node.left, node.right)])
        case ast.JoinedStr(values=pieces):
            return _join_text([value_of(piece, names, steps) for piece in pieces])
        case ast.FormattedValue(format_spec=None, conversion=-1):
            return value_of(node.value, names, steps)
        case _:
            return COMPUTED


def _part(node: ast.Subscript, names: BoundNames, steps: int) -> Value:
    whole, key = value_of(node.value, names, steps), value_of(node.slice, names, steps)
    if not isinstance(whole, ObjectLiteral) or not isinstance(key, str):
        return COMPUTED
    return whole.fields.get(key, COMPUTED)


def keywords(node: ast.Call, names: BoundNames, steps: int = MAX_DEPTH) -> ObjectLiteral:
    """Keyword arguments of a call."""
    literal = ObjectLiteral()
    for keyword in node.keywords:
        value = value_of(keyword.value, names, steps)
        if keyword.arg is None:
            literal.merge(value)
        else:
            literal.put(keyword.arg, value, keyword.value.lineno)
    return literal


def _arguments(scope: Scope) -> list[str]:
    if isinstance(scope, ast.Module | ast.ClassDef):
        return []
    arguments = scope.args
    every = [
        *arguments.posonlyargs,
        *arguments.args,
        *arguments.kwonlyargs,
        arguments.vararg,
        arguments.kwarg,
    ]
    return [argument.arg for argument in every if argument is not None]


def _bind(node: ast.AST, names: BoundNames) -> None:
    match node:
        case ast.Assign(targets=targets, value=value):
            for target in targets:
                _assign(target, value, names)
        case ast.AnnAssign(target=target, value=ast.expr() as value):
            _assign(target, value, names)
        case ast.Name(id=name, ctx=ast.Store() | ast.Del()):
            # For an assignment this is the second entry: the first one has the value.
            names.bound.setdefault(name, []).append(None)
        case ast.Call(func=ast.Attribute(value=ast.Name(id=name), attr=method)):
            if method in CHANGES:
                names.changed.add(name)
        case ast.Delete(targets=targets):
            gone = [
                subscript.value for subscript in targets if isinstance(subscript, ast.Subscript)
            ]
            names.changed.update(base.id for base in gone if isinstance(base, ast.Name))
        case _:
            pass


def _assign(target: ast.expr, value: ast.expr, names: BoundNames) -> None:
    match target:
        case ast.Name(id=name):
            names.bound.setdefault(name, []).append(value)
        case ast.Attribute(value=ast.Name(id=owner), attr=name) if owner in SELF:
            around = names.enclosing_class()
            if around is not None:
                around.attributes.setdefault(name, []).append((value, names))
        case ast.Subscript(value=ast.Name(id=name), slice=key):
            names.stored.setdefault(name, []).append((key, value))
        case _:
            pass


def _name_value(name: str, names: BoundNames, steps: int) -> Value:
    owner = names.owner(name)
    if owner is None:
        return COMPUTED
    # One assignment makes two entries: its value, and None for the name as a node of its own.
    values = [value for value in owner.bound[name] if value is not None]
    if len(values) != 1 or len(owner.bound[name]) != 2:
        return COMPUTED
    literal = value_of(values[0], owner, steps)
    if isinstance(literal, ObjectLiteral):
        for scope in {id(owner): owner, id(names): names}.values():
            _apply(scope, name, literal, steps)
    return literal


def _attribute(name: str, names: BoundNames, steps: int) -> Value:
    """Value of an attribute of ``self`` that is bound exactly once in the class or its methods."""
    around = names.enclosing_class()
    if around is None:
        return COMPUTED
    bound = [(value, around) for value in around.bound.get(name, ()) if value is not None]
    bound += around.attributes.get(name, [])
    return value_of(bound[0][0], bound[0][1], steps) if len(bound) == 1 else COMPUTED


def _apply(scope: BoundNames, name: str, literal: ObjectLiteral, steps: int) -> None:
    """Apply the changes that a scope makes to the dictionary ``name`` after its creation."""
    for key, value in scope.stored.get(name, ()):
        written = value_of(key, scope, steps)
        if isinstance(written, str):
            literal.put(written, value_of(value, scope, steps), value.lineno)
        else:
            literal.complete = False
    if name in scope.changed:
        literal.complete = False


def _dictionary(node: ast.Dict, names: BoundNames, steps: int) -> ObjectLiteral:
    literal = ObjectLiteral()
    for key, value in zip(node.keys, node.values, strict=True):
        read = value_of(value, names, steps)
        if key is None:
            literal.merge(read)
            continue
        name = value_of(key, names, steps)
        if isinstance(name, str):
            literal.put(name, read, key.lineno)
        else:
            literal.complete = False
    return literal


def _join_text(parts: list[Value]) -> Value:
    words = [part for part in parts if isinstance(part, str)]
    return "".join(words) if len(words) == len(parts) else COMPUTED
