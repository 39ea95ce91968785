"""LRU cache with a time limit, for database lookups."""

from __future__ import annotations

from collections import OrderedDict
from typing import Generic, TypeVar

V = TypeVar("V")


class RecentKeys(Generic[V]):
    """Cache of at most ``size`` values, each for ``keep_s``. Evicts the least recently used."""

    def __init__(self, size: int, keep_s: float) -> None:
        self._size = size
        self._keep_s = keep_s
        self._items: OrderedDict[str, tuple[float, V]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._items)

    def get(self, name: str, now: float) -> V | None:
        entry = self._items.get(name)
        if entry is None:
            return None
        until, value = entry
        if now >= until:
            del self._items[name]
            return None
        self._items.move_to_end(name)
        return value

    def put(self, name: str, value: V, now: float) -> None:
        self._items[name] = (now + self._keep_s, value)
        self._items.move_to_end(name)
        while len(self._items) > self._size:
            self._items.popitem(last=False)

    def drop(self, name: str) -> None:
        self._items.pop(name, None)
