"""Remembers what text encoders made of prompts, exactly.

Many requests have the same prompt or the same negative prompt. An encoder gives the same bits for
the same input, so its output is kept by a digest of everything that it was called with. One that
was computed together with others is right within rounding, and kept as such.
"""

from __future__ import annotations

import weakref
from collections import OrderedDict
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from deployments.engine.content import Digests, version_of
from deployments.engine.counts import Counts
from deployments.engine.outputs import CannotCopy, copied, size_of
from deployments.engine.part import is_plain_encoder
from deployments.engine.thread_state import ThreadState


@dataclass(frozen=True, slots=True)
class _Entry:
    output: Any
    size: int  # bytes, on the encoder's device
    exact: bool  # it was computed alone


class PromptCache:
    """For the engine's thread alone."""

    def __init__(self, most_bytes: int, counts: Counts) -> None:
        """``most_bytes``: of outputs; whatever was not used for longest goes first."""
        self._most_bytes = most_bytes
        self._counts = counts
        self._digests = Digests()
        self._entries: OrderedDict[Hashable, _Entry] = OrderedDict()
        self._size = 0

    def clear(self) -> None:
        """Forget all."""
        self._entries.clear()
        self._size = 0

    def key(
        self, module: Any, arguments: tuple[Any, ...], keywords: Mapping[str, Any]
    ) -> Hashable | None:
        """Equal for calls that give the same bits. None where equal calls may differ, or cannot be
        told from others."""
        if not self._most_bytes or not is_plain_encoder(module):
            return None
        try:
            given = (self._content(arguments), self._content(keywords))
        except _Opaque:
            return None
        return weakref.ref(module), _weights(module), ThreadState.of_this_thread(), given

    def recall(self, key: Hashable | None, *, exact: bool = False) -> Any:
        """The output that was kept, as tensors that nobody else has; None where there is none.
        ``exact``: only one that was computed alone."""
        entry = None if key is None else self._entries.get(key)
        if entry is None or (exact and not entry.exact):
            return None
        self._entries.move_to_end(key)
        return self.shared(entry.output)

    def shared(self, output: Any) -> Any:
        """A copy for another who has asked for the same. ``CannotCopy`` where there is none."""
        copy = copied(output)
        self._counts.prompts_remembered += 1
        return copy

    def keep(self, key: Hashable | None, output: Any, *, exact: bool = True) -> None:
        """``exact``: it was computed alone, and not merged with others."""
        if key is None:
            return
        self._counts.prompts_encoded += 1
        try:
            kept = copied(output)
        except CannotCopy:
            return
        size = size_of(kept)
        if size > self._most_bytes:
            return
        self._drop(key)
        self._entries[key] = _Entry(kept, size, exact)
        self._size += size
        while self._size > self._most_bytes:
            self._drop(next(iter(self._entries)))

    def _drop(self, key: Hashable) -> None:
        if (gone := self._entries.pop(key, None)) is not None:
            self._size -= gone.size

    def _content(self, value: Any) -> Hashable:
        if isinstance(value, torch.Tensor):
            return self._digests.of(value), value.device
        if isinstance(value, Mapping):
            return tuple((key, self._content(each)) for key, each in value.items())
        if isinstance(value, list | tuple):
            return type(value), tuple(self._content(each) for each in value)
        if isinstance(value, _PLAIN):
            return type(value), value
        raise _Opaque


class _Opaque(Exception):
    """An argument cannot be told from others."""


def _weights(module: torch.nn.Module) -> Hashable:
    """Changes when somebody replaces a weight or writes to it. Adapters that come and go for
    generations of their own change nothing for others."""
    named = module.named_parameters()
    return hash(tuple((id(each), version_of(each)) for name, each in named if not _added(name)))


def _added(name: str) -> bool:
    """Whether it is a weight of an adapter."""
    return ".lora_A." in name or ".lora_B." in name


_PLAIN = (str, int, float, bool, type(None), torch.dtype, torch.device)
