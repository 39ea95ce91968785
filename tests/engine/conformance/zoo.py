"""All cases of all families."""

from __future__ import annotations

import importlib
import pkgutil

from tests.engine.conformance import families
from tests.engine.conformance.case import Case


def cases() -> dict[str, Case]:
    """By title, in the order of the families' names."""
    by_title: dict[str, Case] = {}
    for module in sorted(family.name for family in pkgutil.iter_modules(families.__path__)):
        for case in importlib.import_module(f"{families.__name__}.{module}").CASES:
            if case.title in by_title:
                raise ValueError(f"There are two cases of {case.title}.")
            by_title[case.title] = case
    return by_title
