"""Calls of fal's Python client, read from code without running it."""

from __future__ import annotations

import ast
import warnings

from serve_app.cli.migration.call import COMPUTED, Call, Object, Place, Value, call
from serve_app.cli.migration.python_values import Names, keywords, value_of, walk

MODULE = "fal_client"
CLIENTS = frozenset({"AsyncClient", "SyncClient"})
REALTIME = "realtime"
METHODS = frozenset({"run", "submit", "subscribe", "stream", REALTIME})
IN_VAIN = "This is no Python that can be read"


def calls_in(text: str, file: str) -> list[Call]:
    """``SyntaxError`` becomes a call of which nothing could be read."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of code that is not ours
            module = ast.parse(text, file)
    except (SyntaxError, ValueError) as error:
        line = getattr(error, "lineno", 0) or 0
        return [Call(Place(file, line), None, None, unread=(f"{IN_VAIN}: {error}.",))]
    nodes = list(walk(module, Names(None)))
    clients, functions = _imported([node for node, _ in nodes])
    return [
        _call(node, method, names, file)
        for node, names in nodes
        if isinstance(node, ast.Call) and (method := _method(node.func, clients, functions))
    ]


def _imported(nodes: list[ast.AST]) -> tuple[set[str], dict[str, str]]:
    """What the module and its clients are called (``fal_client``, ``self.client``), and the names
    of functions that were imported from it."""
    clients = {MODULE}  # whatever gave it that name
    imported: dict[str, str] = {}
    for node in nodes:
        if isinstance(node, ast.Import):
            clients |= {each.asname or each.name for each in node.names if each.name == MODULE}
        elif isinstance(node, ast.ImportFrom) and node.module == MODULE:
            imported |= {each.asname or each.name: each.name for each in node.names}
    makers = {name for name, original in imported.items() if original in CLIENTS}
    makers |= {f"{module}.{each}" for module in clients for each in CLIENTS}
    for node in nodes:
        if isinstance(node, ast.Assign | ast.AnnAssign) and isinstance(node.value, ast.Call):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            if ast.unparse(node.value.func) in makers:
                clients |= {ast.unparse(each) for each in targets}
    return clients, imported


def _method(function: ast.expr, clients: set[str], functions: dict[str, str]) -> str | None:
    """``subscribe`` for ``fal_client.subscribe_async``; None: it is none of fal's."""
    name = ""
    if isinstance(function, ast.Name):
        name = functions.get(function.id, "")
    elif isinstance(function, ast.Attribute) and ast.unparse(function.value) in clients:
        name = function.attr
    name = name.removesuffix("_async")
    return name if name in METHODS else None


def _call(node: ast.Call, method: str, names: Names, file: str) -> Call:
    given = keywords(node, names)
    for name, argument in zip(("application", "arguments"), node.args, strict=False):
        if isinstance(argument, ast.Starred):
            given.whole = False
            break
        given.put(name, value_of(argument, names), argument.lineno)
    endpoint = _with_path(given, method)
    absent: Value = Object() if given.whole else COMPUTED
    arguments = given.fields.get("arguments", absent)
    place = Place(file, node.lineno)
    return call(place, endpoint, arguments, realtime=method == REALTIME)


def _with_path(given: Object, method: str) -> Value:
    """``run("a/b", path="/c")`` is a call of ``a/b/c``."""
    endpoint = given.fields.get("application", COMPUTED)
    path = given.fields.get("path", "")
    if method not in {"run", "submit", "subscribe"} or path == "" or not isinstance(endpoint, str):
        return endpoint
    return f"{endpoint}/{path.strip('/')}" if isinstance(path, str) else COMPUTED
