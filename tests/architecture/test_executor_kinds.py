"""Rule of deployments/executors/README.md: a kind of executor is named in its folder, and in its
row of ``serve_app/domain/executors/kinds.py``."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence

import pytest

from deployments.executors.registry import find_kinds
from scripts.structure.modules import Module, modules, parse_module
from serve_app.domain.executors.kinds import FACTS

EXECUTORS = "deployments/executors/"
FOLDERS = {kind.plan.__module__.split(".")[2] for kind in find_kinds()}
NAMES = {*FACTS, *(facts.option for facts in FACTS.values())}

OWN_MODULES = (
    "serve_app/domain/executors/kinds.py",
    # Protocols of their own, of clients or of a provider.
    "serve_app/ingress/comfyui/",
    "serve_app/ingress/openai/",
    "serve_app/ingress/services/hosted_jobs.py",
    "serve_app/options/hosted.py",
)


def test_a_kind_of_executor_is_named_in_its_folder_and_its_row_only() -> None:
    assert not named_kinds([module for module in modules() if not is_own(module.path)])


def test_each_kind_has_its_facts() -> None:
    assert {family for kind in find_kinds() for family in kind.families} == FACTS.keys()


@pytest.mark.parametrize(
    "text",
    [
        "from deployments.executors.cog import executor",
        "import deployments.executors.hosted.calls",
        "from deployments.executors import comfyui",
        "a = endpoint.family == 'openai'",
        "a = entry['family'] in ('fal', 'cog')",
        "a = 'cog' in pool.families",
        "a = endpoint.options.get('app')",
        "a = endpoint.options['hosted']",
        "match endpoint.family:\n    case 'comfyui': pass",
    ],
)
def test_a_named_kind_is_found(text: str) -> None:
    assert named_kinds([parse_module("serve_app/some.py", text)]) == ["serve_app/some.py:1"]


def is_own(path: str) -> bool:
    folder, _, rest = path.removeprefix(EXECUTORS).partition("/")
    in_folder = path.startswith(EXECUTORS) and bool(rest) and folder in FOLDERS
    return in_folder or path.startswith(OWN_MODULES)


def named_kinds(product: Sequence[Module]) -> list[str]:
    """Places that import a kind's folder, or compare a family, a provider or an option with the
    name of a kind."""
    return [f"{module.path}:{line}" for module in product for line in _lines(module.tree)]


def _lines(tree: ast.Module) -> Iterator[int]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            above = f"{node.module}." if isinstance(node, ast.ImportFrom) else ""
            names = [f"{above}{alias.name}.".replace(".", "/") for alias in node.names]
            if any(name.startswith(f"{EXECUTORS}{kind}/") for name in names for kind in FOLDERS):
                yield node.lineno
        elif isinstance(node, ast.Compare | ast.Subscript | ast.Call | ast.Match):
            text = ast.unparse(node.subject) if isinstance(node, ast.Match) else ast.unparse(node)
            is_asked = any(word in text for word in ("famil", "provider", "options"))
            if is_asked and NAMES & _constants(node):
                yield node.lineno


def _constants(node: ast.Compare | ast.Subscript | ast.Call | ast.Match) -> set[str]:
    """Texts that a family or an option may be compared with."""
    if isinstance(node, ast.Call):
        is_read = isinstance(node.func, ast.Attribute) and node.func.attr in ("get", "pop")
        parts: Sequence[ast.AST] = node.args[:1] if is_read else ()
    elif isinstance(node, ast.Subscript):
        parts = (node.slice,)
    elif isinstance(node, ast.Compare):
        parts = (node.left, *node.comparators)
    else:
        parts = [case.pattern for case in node.cases]
    inner = (part for outer in parts for part in ast.walk(outer))
    return {part.value for part in inner if isinstance(part, ast.Constant) and str(part.value)}
