"""Lazy tensors, which notice that a pipeline reads them.

A text encoder returns much more than a pipeline reads: all hidden states, logits, the key-value
cache. The prompt cache keeps what was read, so it has to know. A tuple of tensors can be read in C
(`torch.stack(hidden_states)`), past any override of a proxy for the tuple. Therefore the tensors
themselves are replaced: torch passes every function that gets one to ``__torch_function__``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from operator import is_
from typing import Any

import torch


class LazyTensor(torch.Tensor):
    """Tensor without values. The first function that reads it calls ``fetch``, once.

    Functions get the fetched tensor in its place, and their results are plain tensors. Shape, dtype
    and device are known without fetching.
    """

    _fetch: Callable[[], torch.Tensor]
    _fetched: torch.Tensor | None
    _place: torch.device

    @classmethod
    def __torch_function__(
        cls,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func in _METADATA:
            with torch._C.DisableTorchFunctionSubclass():  # noqa: SLF001
                return func(*args, **(kwargs or {}))
        if func == _DEVICE and isinstance(args[0], LazyTensor):
            return args[0]._place  # noqa: SLF001
        return func(*fetch_tensors(args), **fetch_tensors(dict(kwargs or {})))

    def fetch(self) -> torch.Tensor:
        """Return the plain tensor."""
        if self._fetched is None:
            self._fetched = self._fetch()
            self._fetch = _nothing  # which may keep a whole output alive
        return self._fetched


def lazy_tensor(like: torch.Tensor, place: torch.device, fetch: Callable[[], Any]) -> LazyTensor:
    """Create a lazy tensor with the shape and dtype of ``like``, on the device ``place``."""
    tensor = torch.empty_like(like, device="meta").as_subclass(LazyTensor)
    tensor._place, tensor._fetch, tensor._fetched = place, fetch, None  # noqa: SLF001  # pyrefly: ignore[read-only]
    return tensor


def fetch_tensors(value: Any) -> Any:
    """Replace the lazy tensors in tuples, lists and dicts; without any, return ``value`` itself."""
    replace = _REPLACE.get(type(value))
    return value if replace is None else replace(value)


def fetched_output(value: Any) -> Any:
    """Replace the lazy tensors in what a pipeline returns, also in outputs of the libraries."""
    if not (isinstance(value, dict) and dataclasses.is_dataclass(value)):
        return fetch_tensors(value)
    named = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    new = fetch_tensors(named)
    same = all(new[name] is named[name] for name in named)
    return value if same else type(value)(**new)


def _in_sequence(value: Any) -> Any:
    items = [fetch_tensors(item) for item in value]
    return value if all(map(is_, items, value)) else type(value)(items)


def _in_dict(value: dict[Any, Any]) -> Any:
    return {key: fetch_tensors(item) for key, item in value.items()}


_REPLACE: Mapping[type, Callable[[Any], Any]] = {
    LazyTensor: LazyTensor.fetch,
    tuple: _in_sequence,
    list: _in_sequence,
    dict: _in_dict,
}


def _nothing() -> torch.Tensor:
    raise RuntimeError("A lazy tensor is fetched once.")


_TENSOR: Any = torch.Tensor
_DEVICE = _TENSOR.device.__get__
_METADATA = frozenset(
    {
        _TENSOR.shape.__get__,
        _TENSOR.ndim.__get__,
        _TENSOR.dtype.__get__,
        _TENSOR.layout.__get__,
        _TENSOR.requires_grad.__get__,
        _TENSOR.size,
        _TENSOR.dim,
        _TENSOR.numel,
        _TENSOR.element_size,
        _TENSOR.is_floating_point,
    }
)
"""Functions that tell nothing of the values. Pipelines ask for the dimensions of outputs that they
do not read."""
