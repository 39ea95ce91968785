"""Rules of CONTRIBUTING.md about names and docstrings."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Sequence

from scripts.structure.modules import Function, Module, modules, parse_module

ODD_FIRST_WORDS = frozenset(
    {"Of", "Who", "Whoever", "Whom", "Whose", "So", "Whether", "That", "Those"}
)
PLANES = "deployments", "serve_app", "weights"
"""Packages with one vocabulary. ``darkroom`` has the words that authors of apps expect."""


def test_no_class_name_is_defined_twice() -> None:
    assert not repeated_names(planes())


def test_a_docstring_begins_with_its_noun_or_its_verb() -> None:
    assert not odd_docstrings(modules())


def test_repeated_names_and_odd_docstrings_are_found() -> None:
    product = [
        parse_module("a/one.py", "class Part:\n    '''Of the whole.'''\n"),
        parse_module("b/three.py", "class Part: pass\nclass _Own: pass\n"),
        parse_module("b/four.py", "class _Own: pass\n"),
    ]
    assert repeated_names(product) == ["Part: a/one.py, b/three.py"]
    assert odd_docstrings(product) == ["a/one.py:1 Part"]


def planes() -> Sequence[Module]:
    return [module for module in modules() if module.path.split("/")[0] in PLANES]


def repeated_names(product: Sequence[Module]) -> list[str]:
    """Public classes that two or more modules define."""
    paths: defaultdict[str, set[str]] = defaultdict(set)
    for module in product:
        for node in module.tree.body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                paths[node.name].add(module.path)
    return [f"{name}: {', '.join(sorted(two))}" for name, two in paths.items() if len(two) > 1]


def odd_docstrings(product: Sequence[Module]) -> list[str]:
    return [
        f"{module.path}:{node.lineno} {node.name}"
        for module in product
        for node in ast.walk(module.tree)
        if isinstance(node, Function | ast.ClassDef)
        and (ast.get_docstring(node) or "").split(" ", 1)[0] in ODD_FIRST_WORDS
    ]
