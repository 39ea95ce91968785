"""All cases of all families."""

from __future__ import annotations

import importlib
import pkgutil

from tests.engine.conformance import families
from tests.engine.conformance.case import Case


def cases() -> dict[str, Case]:
    """By title, in the order of the families' names."""
    found: dict[str, Case] = {}
    for module in sorted(each.name for each in pkgutil.iter_modules(families.__path__)):
        for case in importlib.import_module(f"{families.__name__}.{module}").CASES:
            if case.title in found:
                raise ValueError(f"There are two cases of {case.title}.")
            found[case.title] = case
    return found
