"""Limit of how deeply JSON is nested."""

from __future__ import annotations

from typing import Any

MAX_DEPTH = 100
"""Lists and objects in each other, in inputs and outputs. Python parses 900, and fails to pickle
what it has parsed: a request of such an input was leased and never arrived at its replica, and one
of such an output never ended, for ever."""


def is_deep(value: Any, max_depth: int) -> bool:
    """Return whether there are more than ``max_depth`` lists and objects in each other."""
    level = [value] if isinstance(value, dict | list) else []
    for _ in range(max_depth):
        level = [
            inner
            for container in level
            for inner in (container.values() if isinstance(container, dict) else container)
            if isinstance(inner, dict | list)
        ]
        if not level:
            return False
    return bool(level)
