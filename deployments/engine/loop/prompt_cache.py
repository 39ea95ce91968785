"""Cache of text encoder outputs, exact by input.

Many requests have the same prompt or the same negative prompt. An encoder gives the same bits for
the same input, so its output is cached by a digest of all its arguments. An output that was
computed in a merged forward is correct within rounding, and is marked as not exact.

Only tensors that a pipeline reads are kept: of a language model with 36 layers, Z-Image reads one
hidden state of 2.5 MiB, and the whole output has 164 MiB. Pipelines get lazy tensors, so an entry
is filled while its first pipeline reads. If another one reads more, the encoder computes again, and
the entry gets the rest.
"""

from __future__ import annotations

import weakref
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from typing import Any

import torch

from deployments.engine.accelerator.interface import Accelerator
from deployments.engine.interception.components import is_plain_encoder
from deployments.engine.interception.isolation import ThreadState
from deployments.engine.interception.lazy_tensor import lazy_tensor
from deployments.engine.loop.metrics import EngineCounters
from deployments.engine.loop.options import EngineOptions
from deployments.engine.merging.arguments import (
    CannotCopy,
    ContentDigests,
    rebuilt,
    version_of,
)

Compute = Callable[[], Any]
"""Computes an encoder's whole output, for its caller alone."""


class _Entry:
    """Output of which the tensors that were read are kept, by their numbers in the output."""

    def __init__(self, output: Any, *, exact: bool) -> None:
        """Raises ``CannotCopy`` when ``output`` contains other objects than tensors."""
        self.exact = exact  # computed alone
        self.tensors: dict[int, torch.Tensor] = {}
        self.size = 0  # bytes of ``tensors``
        self._devices: dict[int, torch.device] = {}
        self._template = _rebuild_output(output, self._blank)  # without values

    def _blank(self, number: int, tensor: torch.Tensor) -> torch.Tensor:
        self._devices[number] = tensor.device
        return torch.empty_like(tensor, device="meta")

    def keep(self, number: int, tensor: torch.Tensor, accelerator: Accelerator | None) -> None:
        """``accelerator``: keep it in host memory, by a copy of this device."""
        copy = tensor if accelerator is None else accelerator.to_host(tensor).tensor
        self.tensors[number] = copy.clone() if copy is tensor else copy
        self.size += tensor.nbytes

    def copy_of(self, number: int) -> torch.Tensor | None:
        """Return a tensor as a caller's own, on the device of the encoder; None: it is not kept."""
        if (kept := self.tensors.get(number)) is None:
            return None
        return kept.to(self._devices[number], non_blocking=True, copy=True)

    def output(self, fetch: Callable[[int], torch.Tensor]) -> Any:
        """Build an output of lazy tensors; ``fetch`` gets a tensor's number."""

        def lazy(number: int, blank: torch.Tensor) -> torch.Tensor:
            return lazy_tensor(blank, self._devices[number], lambda: fetch(number))

        return _rebuild_output(self._template, lazy)

    def to_host(self, accelerator: Accelerator) -> None:
        """Move to host memory. The engine's thread does not wait for a GPU's copies.

        Copies back are in the same stream, so they need not wait for these either.
        """
        self.tensors = {
            number: accelerator.to_host(tensor).tensor for number, tensor in self.tensors.items()
        }

    def to_device(self) -> None:
        for number, tensor in self.tensors.items():
            self.tensors[number] = tensor.to(self._devices[number], non_blocking=True)


class _Reader:
    """One caller's output, fetched tensor by tensor."""

    def __init__(self, cache: PromptCache, key: Hashable, entry: _Entry, compute: Compute) -> None:
        self._cache = cache
        self._key = key
        self._entry = entry
        self._compute = compute
        self._own: dict[int, torch.Tensor] | None = None  # of an output that is the caller's own

    def adopt(self, output: Any) -> None:
        """Take the tensors of ``output``, which belongs to the caller."""
        self._own = {}
        _rebuild_output(output, self._own.setdefault)

    def fetch(self, number: int) -> torch.Tensor:
        if self._own is None:
            if self._cache.holds(self._key, self._entry):
                kept = self._entry.copy_of(number)
                if kept is not None:
                    return kept
            self.adopt(self._compute())
        tensor = (self._own or {})[number]
        if number not in self._entry.tensors:
            self._cache.add(self._key, self._entry, number, tensor)
        return tensor


class PromptCache:
    """Cache of text encoder outputs, least recently used evicted first. Engine's thread only.

    What leaves the device goes to host memory, and comes back when it is used again. An output that
    is larger than the device's whole limit is kept in host memory, from where its tensors are
    copied for each reader: LTX-2 reads 368 MiB of a prompt, 1 % of 39 GB.
    """

    def __init__(
        self, accelerator: Accelerator, most_bytes: int, counts: EngineCounters, host_bytes: int = 0
    ) -> None:
        """``most_bytes``: limit on the device; 0 disables the cache.

        ``host_bytes``: limit in host memory; 0: entries that leave the device are dropped.
        """
        self._accelerator = accelerator
        self._most_bytes = most_bytes
        self._most_host_bytes = host_bytes
        self._counts = counts
        self._digests = ContentDigests()
        self._entries: OrderedDict[Hashable, _Entry] = OrderedDict()
        self._on_host: OrderedDict[Hashable, _Entry] = OrderedDict()
        self.size = 0  # bytes on the device
        self.host_size = 0  # bytes in host memory

    def clear(self) -> None:
        """Free the device's memory."""
        while self._entries:
            self._to_host(next(iter(self._entries)))

    def key(
        self, module: Any, arguments: tuple[Any, ...], keywords: Mapping[str, Any]
    ) -> Hashable | None:
        """Cache key, equal for calls that give the same bits.

        None where equal calls may differ, or where calls cannot be compared.
        """
        if not self._most_bytes or not is_plain_encoder(module):
            return None
        try:
            content = (self._content(arguments), self._content(keywords))
        except _Opaque:
            return None
        return weakref.ref(module), _weights(module), ThreadState.of_this_thread(), content

    def recall(self, key: Hashable | None, compute: Compute, *, exact: bool = False) -> Any:
        """Return the cached output as the caller's own; None if there is none.

        ``compute`` is called when the caller reads a tensor that is not kept. ``exact``: accept
        only an output that was computed alone.
        """
        entry = self._entries.get(key) or self._on_host.get(key)
        if entry is None or not entry.tensors or (exact and not entry.exact):
            return None
        if key in self._entries:
            self._entries.move_to_end(key)
        elif entry.size > self._most_bytes:
            self._on_host.move_to_end(key)
        else:
            self._to_device(key)
        return self._output(key, entry, compute)

    def copy_for_hit(self, key: Hashable, compute: Compute) -> Any:
        """Output of the call that was just computed, for another call with equal input.

        It has what the first call reads before this one does. Raises ``CannotCopy`` if there is no
        entry.
        """
        if (entry := self._entries.get(key) or self._on_host.get(key)) is None:
            raise CannotCopy
        return self._output(key, entry, compute)

    def keep(
        self, key: Hashable | None, output: Any, compute: Compute, *, exact: bool = True
    ) -> Any:
        """Cache what the caller will read of ``output``, and return the output to pass to it.

        ``exact``: it was computed alone, not in a merged forward.
        """
        if key is None:
            return output
        self._counts.prompts_encoded += 1
        try:
            entry = _Entry(output, exact=exact)
        except CannotCopy:
            return output
        self._drop(key)
        self._entries[key] = entry
        if len(self._entries) > _MAX_ENTRIES:  # nobody may read them, so they may have no bytes
            self._to_host(next(iter(self._entries)))
        reader = _Reader(self, key, entry, compute)
        reader.adopt(output)
        return entry.output(reader.fetch)

    def holds(self, key: Hashable, entry: _Entry) -> bool:
        """Return whether the entry is here and may be read."""
        return entry in (self._entries.get(key), self._on_host.get(key))

    def add(self, key: Hashable, entry: _Entry, number: int, tensor: torch.Tensor) -> None:
        """Keep a tensor that was read, before its reader may write into it."""
        if not self.holds(key, entry):  # evicted meanwhile
            return
        if key in self._on_host or entry.size + tensor.nbytes > self._most_bytes:
            self._add_on_host(key, entry, number, tensor)
            return
        entry.keep(number, tensor, None)
        self.size += tensor.nbytes
        self._entries.move_to_end(key)
        while self.size > self._most_bytes:
            self._to_host(next(iter(self._entries)))

    def _add_on_host(self, key: Hashable, entry: _Entry, number: int, tensor: torch.Tensor) -> None:
        self._drop(key)
        if entry.size + tensor.nbytes > self._most_host_bytes:
            return
        if entry.tensors:
            entry.to_host(self._accelerator)  # those that are there already stay as they are
        entry.keep(number, tensor, self._accelerator)
        self._put_on_host(key, entry)

    def _output(self, key: Hashable, entry: _Entry, compute: Compute) -> Any:
        self._counts.prompts_remembered += 1

        def count_and_compute() -> Any:
            self._counts.prompts_encoded += 1
            return compute()

        return entry.output(_Reader(self, key, entry, count_and_compute).fetch)

    def _to_host(self, key: Hashable) -> None:
        entry = self._entries.pop(key)
        self.size -= entry.size
        if not 0 < entry.size <= self._most_host_bytes:
            return
        entry.to_host(self._accelerator)
        self._put_on_host(key, entry)

    def _put_on_host(self, key: Hashable, entry: _Entry) -> None:
        self._on_host[key] = entry
        self.host_size += entry.size
        while self.host_size > self._most_host_bytes:
            _, gone = self._on_host.popitem(last=False)
            self.host_size -= gone.size

    def _to_device(self, key: Hashable) -> None:
        entry = self._on_host.pop(key)
        self.host_size -= entry.size
        entry.to_device()
        self._entries[key] = entry
        self.size += entry.size
        while self.size > self._most_bytes:
            self._to_host(next(iter(self._entries)))

    def _drop(self, key: Hashable) -> None:
        if (gone := self._entries.pop(key, None)) is not None:
            self.size -= gone.size
        if (gone := self._on_host.pop(key, None)) is not None:
            self.host_size -= gone.size

    def _content(self, value: Any) -> Hashable:
        if isinstance(value, torch.Tensor):
            return self._digests.of(value), value.device
        if isinstance(value, Mapping):
            return tuple((key, self._content(item)) for key, item in value.items())
        if isinstance(value, list | tuple):
            return type(value), tuple(self._content(item) for item in value)
        if isinstance(value, _PLAIN):
            return type(value), value
        raise _Opaque


def prompt_cache_of(
    options: EngineOptions, accelerator: Accelerator, counts: EngineCounters
) -> PromptCache:
    """Create the cache of an engine."""
    most_bytes, device_bytes = options.prompt_cache_bytes, accelerator.memory.total()
    if device_bytes is None:  # host memory is the device's: a second tier would gain nothing
        most_bytes = _BYTES_ON_CPU if most_bytes is None else most_bytes
        return PromptCache(accelerator, most_bytes, counts)
    if most_bytes is None:
        most_bytes = int(device_bytes * _OF_DEVICE)
    return PromptCache(accelerator, most_bytes, counts, options.prompt_cache_host_bytes)


class _Opaque(Exception):
    """Argument that cannot be compared with others."""


def _rebuild_output(output: Any, change: Callable[[int, torch.Tensor], torch.Tensor]) -> Any:
    """Rebuild an output; ``change`` gets each tensor once, with its number in the output."""
    numbers: dict[int, int] = {}
    tensors: list[torch.Tensor] = []

    def change_once(tensor: torch.Tensor) -> torch.Tensor:
        number = numbers.setdefault(id(tensor), len(tensors))
        if number == len(tensors):
            tensors.append(change(number, tensor))
        return tensors[number]

    return rebuilt(change_once, output)


def _weights(module: torch.nn.Module) -> Hashable:
    """Hash that changes when a weight is replaced or written to.

    LoRAs that are attached for some generations do not change it for the others: their weights are
    no parameters.
    """
    return hash(tuple((id(parameter), version_of(parameter)) for parameter in module.parameters()))


_OF_DEVICE = 0.01
_BYTES_ON_CPU = 64 * 2**20
_MAX_ENTRIES = 4096
_PLAIN = (str, int, float, bool, type(None), torch.dtype, torch.device)
