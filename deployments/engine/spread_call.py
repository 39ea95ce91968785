"""A denoiser's call on its way from the engine's device to those that compute with it."""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from deployments.engine.device_group import DeviceGroup
from deployments.engine.thread_state import ThreadState
from serve_app.domain.errors import PipelineFailed

Key = tuple[int, str]
"""Of a denoiser: the number of its pipeline, which none has had before, and its name there."""


@dataclass(frozen=True, slots=True)
class SpreadCall:
    number: int
    key: Key
    arguments: Sequence[Any]
    keywords: Mapping[str, Any]
    thread: ThreadState
    forgotten: Sequence[Key] = ()  # denoisers that nobody will call any more


@dataclass(frozen=True, slots=True)
class _Place:
    """Of a tensor that follows. It comes on the same kind of device."""

    number: int


@dataclass(slots=True)
class _Tensors:
    found: list[torch.Tensor] = field(default_factory=list[torch.Tensor])

    def taken_out(self, value: Any) -> Any:
        """``value`` with places for its tensors. ``PipelineFailed`` for what is neither tensors nor
        plain: it may have a state, which the forward changes and others would not see."""
        if isinstance(value, torch.Tensor):
            self.found.append(value.detach())
            return _Place(len(self.found) - 1)
        if type(value) is dict:
            return {key: self.taken_out(each) for key, each in value.items()}
        if type(value) in (list, tuple):
            return type(value)(self.taken_out(each) for each in value)
        if isinstance(value, _PLAIN):
            return value
        raise PipelineFailed(
            f"A denoiser that several devices compute was called with a {type(value).__name__}, "
            "which cannot be sent to them. Serve this endpoint by a pool with one device for each "
            "replica."
        )

    def put_back(self, value: Any) -> Any:
        if isinstance(value, _Place):
            return self.found[value.number]
        if isinstance(value, dict):
            return {key: self.put_back(each) for key, each in value.items()}
        if type(value) in (list, tuple):
            return type(value)(self.put_back(each) for each in value)
        return value


def packed(call: SpreadCall) -> tuple[bytes, list[torch.Tensor]]:
    """What says which tensors follow, and these as bytes: not every dtype can be sent.
    ``PipelineFailed`` for arguments that cannot be sent."""
    tensors = _Tensors()
    arguments, keywords = tensors.taken_out((list(call.arguments), dict(call.keywords)))
    forms = [(tuple(each.shape), each.dtype, each.device.type) for each in tensors.found]
    plain = (call.number, call.key, arguments, keywords, call.thread, list(call.forgotten))
    return pickle.dumps((plain, forms)), [_flat(each) for each in tensors.found]


def send(group: DeviceGroup, content: bytes, tensors: Sequence[torch.Tensor]) -> None:
    """What ``packed`` gave. Nothing at all: there will be no more."""
    group.send(torch.tensor([len(content)]))
    if content:
        group.send(torch.frombuffer(bytearray(content), dtype=torch.uint8))
    for tensor in tensors:
        group.send(tensor)


def receive(group: DeviceGroup) -> SpreadCall | None:
    """Wait for the next. None: there will be no more. ``RuntimeError`` when rank 0 has died."""
    length = int(group.send(torch.zeros(1, dtype=torch.int64)).item())
    if not length:
        return None
    content = group.send(torch.empty(length, dtype=torch.uint8))
    # From our own process 0, through connections of this machine that strangers have no part in.
    plain, forms = pickle.loads(content.numpy().tobytes())  # noqa: S301
    tensors = _Tensors([_received(group, *form) for form in forms])
    number, key, arguments, keywords, thread, forgotten = plain
    return SpreadCall(
        number, key, tensors.put_back(arguments), tensors.put_back(keywords), thread, forgotten
    )


def _received(
    group: DeviceGroup, shape: tuple[int, ...], dtype: torch.dtype, kind: str
) -> torch.Tensor:
    device = "cpu" if kind == "cpu" else group.device
    tensor = torch.empty(shape, dtype=dtype, device=device)
    group.send(tensor.view(-1).view(torch.uint8))
    return tensor


def _flat(tensor: torch.Tensor) -> torch.Tensor:
    # A single number may have a stride of 0, and then counts as contiguous, but is not viewed.
    flat = torch.empty(tensor.numel(), dtype=tensor.dtype, device=tensor.device)
    return flat.copy_(tensor.reshape(-1)).view(torch.uint8)


_PLAIN = (type(None), bool, int, float, str, bytes, torch.dtype, torch.device, torch.Size)
