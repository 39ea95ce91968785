"""Finder of calls to fal's Python client in Python code, without running it."""

from __future__ import annotations

import ast
import warnings

from serve_app.cli.migration.calls import (
    COMPUTED,
    ClientCall,
    ObjectLiteral,
    SourceLocation,
    Value,
    call,
)
from serve_app.cli.migration.literals import BoundNames, keywords, value_of, walk

MODULE = "fal_client"
CLIENTS = frozenset({"AsyncClient", "SyncClient"})
REALTIME = "realtime"
METHODS = frozenset({"run", "submit", "subscribe", "stream", REALTIME})
PARSE_ERROR = "This file cannot be parsed as Python"


def calls_in(text: str, file: str) -> list[ClientCall]:
    """Calls in ``text``. Code that cannot be parsed becomes one call without endpoint and input."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # warnings about the user's code
            module = ast.parse(text, file)
        return _calls(module, file)
    except (SyntaxError, ValueError, RecursionError) as error:
        line = getattr(error, "lineno", 0) or 0
        return [
            ClientCall(SourceLocation(file, line), None, None, unread=(f"{PARSE_ERROR}: {error}.",))
        ]


def _calls(module: ast.Module, file: str) -> list[ClientCall]:
    nodes = list(walk(module, BoundNames(None)))
    clients, functions = _find_imports([node for node, _ in nodes])
    return [
        _call(node, method, names, file)
        for node, names in nodes
        if isinstance(node, ast.Call) and (method := _method(node.func, clients, functions))
    ]


def _find_imports(nodes: list[ast.AST]) -> tuple[set[str], dict[str, str]]:
    """Names of the module and its clients (``fal_client``, ``self.client``), and the functions
    that were imported from it, by their local names."""
    clients = {MODULE}  # counts even without an import of that name
    imported: dict[str, str] = {}
    for node in nodes:
        if isinstance(node, ast.Import):
            clients |= {alias.asname or alias.name for alias in node.names if alias.name == MODULE}
        elif isinstance(node, ast.ImportFrom) and node.module == MODULE:
            imported |= {alias.asname or alias.name: alias.name for alias in node.names}
    makers = {name for name, original in imported.items() if original in CLIENTS}
    makers |= {f"{module}.{class_name}" for module in clients for class_name in CLIENTS}
    for node in nodes:
        if isinstance(node, ast.Assign | ast.AnnAssign) and isinstance(node.value, ast.Call):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            if ast.unparse(node.value.func) in makers:
                clients |= {ast.unparse(target) for target in targets}
    return clients, imported


def _method(function: ast.expr, clients: set[str], functions: dict[str, str]) -> str | None:
    """Method name: ``subscribe`` for ``fal_client.subscribe_async``; None for other calls."""
    name = ""
    if isinstance(function, ast.Name):
        name = functions.get(function.id, "")
    elif isinstance(function, ast.Attribute) and ast.unparse(function.value) in clients:
        name = function.attr
    name = name.removesuffix("_async")
    return name if name in METHODS else None


def _call(node: ast.Call, method: str, names: BoundNames, file: str) -> ClientCall:
    kwargs = keywords(node, names)
    for name, argument in zip(("application", "arguments"), node.args, strict=False):
        if isinstance(argument, ast.Starred):
            kwargs.complete = False
            break
        kwargs.put(name, value_of(argument, names), argument.lineno)
    endpoint = _with_path(kwargs, method)
    absent: Value = ObjectLiteral() if kwargs.complete else COMPUTED
    arguments = kwargs.fields.get("arguments", absent)
    place = SourceLocation(file, node.lineno)
    return call(place, endpoint, arguments, realtime=method == REALTIME)


def _with_path(arguments: ObjectLiteral, method: str) -> Value:
    """Endpoint id with the path: ``run("a/b", path="/c")`` calls ``a/b/c``."""
    endpoint = arguments.fields.get("application", COMPUTED)
    path = arguments.fields.get("path", "")
    if method not in {"run", "submit", "subscribe"} or path == "" or not isinstance(endpoint, str):
        return endpoint
    return f"{endpoint}/{path.strip('/')}" if isinstance(path, str) else COMPUTED
