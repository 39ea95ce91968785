"""Results on their way from the device to the host.

The copy is put into the compute stream when a generation ends, before the next forward. Whoever
copied a result later would wait for all that the engine has queued since, and its memory would stay
on the device.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, cast

from torch import Tensor

from deployments.engine.accelerator.interface import Accelerator, HostCopy
from deployments.engine.errors import as_callers_error
from deployments.engine.loop.generation import Generation
from deployments.engine.threads import Threads


class Results:
    """Results that leave the device. For the engine's thread."""

    def __init__(
        self, accelerator: Accelerator, error_of: Callable[[BaseException], Exception | None]
    ) -> None:
        """``error_of``: error for the caller when the device has failed, else None; any thread."""
        self._accelerator = accelerator
        self._error_of = error_of
        # One thread: copies complete in the order of the compute stream.
        self._waiter = Threads(max_workers=1, thread_name_prefix="results")

    def deliver(self, generation: Generation, output: Any) -> None:
        """End ``generation`` with ``output`` once all tensors in it are on the host.

        Where nothing has to be copied, that is at once, on the calling thread. Raises if the host
        has no memory for the copy, or the device has failed.
        """
        copies = list[HostCopy]()
        output = self._on_host(output, copies)
        if copies:
            self._waiter.submit(self._complete, generation, output, copies)
        else:
            generation.succeed(output)

    def close(self) -> None:
        """Wait until all results that have left are delivered."""
        self._waiter.shutdown()

    def _complete(self, generation: Generation, output: Any, copies: list[HostCopy]) -> None:
        try:
            for host_copy in copies:
                host_copy.ready()
        except BaseException as error:
            generation.fail(self._error_of(error) or as_callers_error(error))
        else:
            generation.succeed(output)

    def _on_host(self, value: Any, copies: list[HostCopy]) -> Any:
        """Return ``value`` with its tensors on the host, complete once ``copies`` are ready.

        Tensors inside of other objects than lists, tuples, dictionaries and dataclasses stay.
        """
        if isinstance(value, Tensor):
            copy = self._accelerator.to_host(value)
            if copy.tensor is not value:
                copies.append(copy)
            return copy.tensor
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
            left = {name: self._on_host(field, copies) for name, field in fields.items()}
            changed = {name: field for name, field in left.items() if field is not fields[name]}
            return dataclasses.replace(value, **changed) if changed else value
        if isinstance(value, dict):
            mapping = cast("dict[Any, Any]", value)
            return {key: self._on_host(item, copies) for key, item in mapping.items()}
        if isinstance(value, list | tuple):
            values = cast("list[Any] | tuple[Any, ...]", value)
            parts = [self._on_host(item, copies) for item in values]
            if all(new is old for new, old in zip(parts, values, strict=True)):
                return values
            return parts if isinstance(values, list) else _tuple_like(values, parts)
        return value


def _tuple_like(value: tuple[Any, ...], parts: list[Any]) -> Any:
    make = getattr(value, "_make", tuple)  # a named tuple's
    return make(parts)
