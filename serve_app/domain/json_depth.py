"""Limit of how deeply JSON is nested."""

from __future__ import annotations

from typing import Any


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
    return bool(level)
