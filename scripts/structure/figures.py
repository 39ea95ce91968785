"""Sizes and counts of the code and its documentation.

They are symptoms to look at, never limits: no test and no check depends on one.
"""

from __future__ import annotations

import ast
import io
import re
import statistics
import tokenize
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from scripts.structure.modules import PACKAGES, Function, Module, modules

SHORT_LINES = 150
"""A module with fewer lines is short."""

NOT_CODE = frozenset(
    {
        tokenize.COMMENT,
        tokenize.NL,
        tokenize.NEWLINE,
        tokenize.INDENT,
        tokenize.DEDENT,
        tokenize.ENCODING,
        tokenize.ENDMARKER,
    }
)


def figures(root: Path) -> dict[str, int]:
    """Figures of the checkout in ``root``, by their names, in the order of the report."""
    product = modules(root)
    return {
        **_product_lines(root, product),
        "lines: tests": _lines(root, "tests", ".py"),
        "lines: scripts, benchmarks, training": sum(
            _lines(root, folder, ".py") for folder in ("scripts", "benchmarks", "training")
        ),
        "lines: page, JavaScript": _lines(root, "serve_app/page", ".js"),
        "lines: page, CSS": _lines(root, "serve_app/page", ".css"),
        **_shape(product),
        **_schema(root),
        **_documented(root),
    }


def _product_lines(root: Path, product: Sequence[Module]) -> dict[str, int]:
    kinds: Counter[str] = Counter()
    for module in product:
        kinds.update(line_kinds(module))
    packages = {f"lines: {name}": _lines(root, name, ".py") for name in PACKAGES}
    total = {"lines: product": sum(packages.values())}
    named = {f"product: {kind}": kinds[kind] for kind in ("code", "docstring", "comment", "blank")}
    return total | named | packages


def line_kinds(module: Module) -> Mapping[str, int]:
    """Number of lines with code, of docstrings, of comments alone, and of blank ones."""
    docstring = {
        line
        for node in _docstrings(module.tree)
        for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)
    }
    comment: set[int] = set()
    code: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(module.text).readline):
        if token.type == tokenize.COMMENT:
            comment.add(token.start[0])
        elif token.type not in NOT_CODE:
            code.update(range(token.start[0], token.end[0] + 1))
    code -= docstring
    counted = {
        "code": len(code),
        "docstring": len(docstring),
        "comment": len(comment - code - docstring),
    }
    return counted | {"blank": module.lines - sum(counted.values())}


def _docstrings(tree: ast.Module) -> Iterator[ast.Expr]:
    """String statements: docstrings, and those below constants and fields."""
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Expr)
            and isinstance(node.value, ast.Constant)
            and isinstance(node.value.value, str)
        ):
            yield node


def _shape(product: Sequence[Module]) -> dict[str, int]:
    nodes = [node for module in product for node in ast.walk(module.tree)]
    functions = [node for node in nodes if isinstance(node, Function)]
    lengths = [(node.end_lineno or node.lineno) - node.lineno + 1 for node in functions]
    module_lines = [module.lines for module in product]
    folders = Counter(module.folder for module in product)
    return {
        "modules": len(product),
        "modules of 500 lines or more": sum(lines >= 500 for lines in module_lines),
        "lines of the longest module": max(module_lines),
        "lines of a module, median": round(statistics.median(module_lines)),
        f"modules under {SHORT_LINES} lines with one importer, in their folder": len(
            lone_modules(product)
        ),
        "modules of the largest folder": max(folders.values()),
        "classes": sum(isinstance(node, ast.ClassDef) for node in nodes),
        "functions": len(functions),
        "lines of a function, median": round(statistics.median(lengths)),
        "functions of 40 lines or more": sum(lines >= 40 for lines in lengths),
        "functions with more than 8 parameters": sum(parameters(node) > 8 for node in functions),
        "calls with a starred tuple": sum(_has_starred_tuple(node) for node in nodes),
    }


def parameters(function: Function) -> int:
    """Number of parameters, without ``self`` and ``cls``."""
    every = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
    return sum(argument.arg not in {"self", "cls"} for argument in every)


def _has_starred_tuple(node: ast.AST) -> bool:
    """Return whether it is a call such as ``f(*(a, b))``, which hides its number of arguments."""
    return isinstance(node, ast.Call) and any(
        isinstance(argument, ast.Starred) and isinstance(argument.value, ast.Tuple)
        for argument in node.args
    )


def lone_modules(product: Sequence[Module]) -> list[str]:
    """Short modules that one module of the same folder imports, and no other module does."""
    importers = _importers(product)
    return [
        module.path
        for module in product
        if module.lines < SHORT_LINES
        and len(importers[module.name]) == 1
        and next(iter(importers[module.name])).folder == module.folder
    ]


def _importers(product: Sequence[Module]) -> Mapping[str, set[Module]]:
    names = {module.name for module in product}
    importers: defaultdict[str, set[Module]] = defaultdict(set)
    for module in product:
        for name in names.intersection(_imports(module.tree)):
            importers[name].add(module)
    return importers


def _imports(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _schema(root: Path) -> dict[str, int]:
    folder = root / "serve_app" / "queue" / "schema"
    text = "\n".join(path.read_text() for path in sorted(folder.glob("*.sql")))
    patterns = {
        "tables": r"^CREATE (?:UNLOGGED )?TABLE ",
        "indexes": r"^CREATE (?:UNIQUE )?INDEX ",
        "triggers": r"^CREATE (?:CONSTRAINT )?TRIGGER ",
    }
    return {
        name: len(re.findall(pattern, text, re.MULTILINE)) for name, pattern in patterns.items()
    }


def _count_words(text: str) -> int:
    """Words have a letter or a digit: bars of tables and other marks are none."""
    return sum(any(map(str.isalnum, word)) for word in text.split())


def _documented(root: Path) -> dict[str, int]:
    """Counts of the reference, which tests compare with the code, and the words of all pages."""
    docs = root / "docs"
    adrs = docs / "adr"
    texts = {path: path.read_text() for path in sorted(docs.rglob("*.md"))}
    words = {path: _count_words(text) for path, text in texts.items()}
    reference = docs / "reference"
    return {
        "routes": len(set(re.findall(r"^- `([A-Z]+ /[^`]*)`", texts[reference / "api.md"], re.M))),
        "settings (environment variables)": len(
            set(re.findall(r"^\| `(DARKROOM_\w+)`", texts[reference / "settings.md"], re.M))
        ),
        "commands": len(re.findall(r"^- `darkroom ", texts[reference / "cli.md"], re.M)),
        "words: decisions (ADR)": sum(n for path, n in words.items() if path.parent == adrs),
        "words: other docs": sum(n for path, n in words.items() if path.parent != adrs),
    }


def _lines(root: Path, folder: str, suffix: str) -> int:
    return sum(
        path.read_bytes().count(b"\n")
        for path in (root / folder).rglob(f"*{suffix}")
        if "node_modules" not in path.parts
    )
