"""Remembers what text encoders made of prompts, exactly.

Many requests have the same prompt or the same negative prompt. An encoder gives the same bits for
the same input, so its output is kept by a digest of everything that it was called with.
"""

from __future__ import annotations

import weakref
from collections import OrderedDict
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from deployments.engine.call_arguments import tensors_in
from deployments.engine.content import Digests, version_of
from deployments.engine.counts import Counts
from deployments.engine.denoisers import is_of_transformers
from deployments.engine.outputs import CannotCopy, copied
from deployments.engine.thread_state import ThreadState


@dataclass(frozen=True, slots=True)
class _Entry:
    output: Any
    size: int  # bytes, on the encoder's device


class PromptCache:
    """For the engine's thread alone."""

    def __init__(self, most_bytes: int, counts: Counts) -> None:
        """``most_bytes``: of outputs; whatever was not used for longest goes first."""
        self._most_bytes = most_bytes
        self._counts = counts
        self._digests = Digests()
        self._entries: OrderedDict[Hashable, _Entry] = OrderedDict()
        self._size = 0

    def call(self, module: Any, arguments: tuple[Any, ...], keywords: Mapping[str, Any]) -> Any:
        """``module``'s output, computed or remembered; nobody else has the same tensors."""
        key = self._key(module, arguments, keywords)
        if key is None:
            return module(*arguments, **keywords)
        if (entry := self._entries.get(key)) is not None:
            self._entries.move_to_end(key)
            self._counts.prompts_remembered += 1
            return copied(entry.output)
        output = module(*arguments, **keywords)
        self._counts.prompts_encoded += 1
        self._keep(key, output)
        return output

    def _key(
        self, module: Any, arguments: tuple[Any, ...], keywords: Mapping[str, Any]
    ) -> Hashable | None:
        """None where equal calls may differ, or cannot be told from others."""
        if not self._most_bytes or not _is_text_encoder(module):
            return None
        try:
            given = (self._content(arguments), self._content(keywords))
        except _Opaque:
            return None
        return weakref.ref(module), _weights(module), ThreadState.of_this_thread(), given

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

    def _keep(self, key: Hashable, output: Any) -> None:
        try:
            kept = copied(output)
        except CannotCopy:
            return
        size = sum(each.numel() * each.element_size() for each in tensors_in(kept))
        if size > self._most_bytes:
            return
        self._entries[key] = _Entry(kept, size)
        self._size += size
        while self._size > self._most_bytes:
            _, gone = self._entries.popitem(last=False)
            self._size -= gone.size


class _Opaque(Exception):
    """An argument cannot be told from others."""


def _is_text_encoder(module: Any) -> bool:
    """One of transformers' models as it was loaded: no adapters or hooks, which have a state of
    their own, and nothing random."""
    return (
        is_of_transformers(module)
        and not module.training
        and not hasattr(module, "peft_config")
        and not module._forward_hooks  # noqa: SLF001
        and not module._forward_pre_hooks  # noqa: SLF001
    )


def _weights(module: torch.nn.Module) -> Hashable:
    """Changes when somebody replaces a weight or writes to it."""
    return hash(tuple((id(each), version_of(each)) for each in module.parameters()))


_PLAIN = (str, int, float, bool, type(None), torch.dtype, torch.device)
