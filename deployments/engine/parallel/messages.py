"""Messages between the devices of a replica: any value, with the tensors that it contains.

The structure is pickled and sent between the hosts' memories. Tensors are sent from device to
device, as bytes, because not every dtype can be sent.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from deployments.engine.interception.isolation import ThreadState
from deployments.engine.lora.rows import RowMixes
from deployments.engine.parallel.group import ParallelGroup

Key = tuple[int, str]
"""Key of a denoiser: its pipeline's number, which is never reused, and its name there."""


@dataclass(frozen=True, slots=True)
class Part:
    """What one device computes of a call."""

    arguments: Sequence[Any]
    keywords: Mapping[str, Any]
    mixes: RowMixes  # of LoRAs


@dataclass(frozen=True, slots=True)
class ParallelCall:
    """Call of a denoiser. It has one of two ways, by ``whole``."""

    number: int
    key: Key
    thread: ThreadState
    whole: Part | None = None  # for all ranks together; None: the others get each their own part
    ranks: int = 0  # that compute, rank 0 among them
    forgotten: Sequence[Key] = ()  # denoisers that will not be called again
    stacks_bytes: int = 0  # of LoRAs that may be kept from step to step


@dataclass(frozen=True, slots=True)
class LoraChange:
    """Change of the LoRAs on a denoiser: a method of ``LoraLayers``, with its arguments."""

    key: Key
    operation: str
    arguments: Sequence[Any]


@dataclass(frozen=True, slots=True)
class PartResult:
    """What a rank made of its own part."""

    output: Any = None
    error: BaseException | None = None


Message = ParallelCall | LoraChange | None
"""Message to all. None: no more follow."""


@dataclass(slots=True)
class Packed:
    """Message as bytes and tensors."""

    content: bytes
    tensors: list[torch.Tensor] = field(default_factory=list[torch.Tensor])


def pack(value: Any) -> Packed:
    """Pack a value. Raises ``PicklingError``, ``TypeError`` or ``AttributeError`` if impossible."""
    tensors: list[torch.Tensor] = []
    buffer = io.BytesIO()
    _Pickler(buffer, tensors).dump(value)
    forms = [(tuple(tensor.shape), tensor.dtype, tensor.device.type) for tensor in tensors]
    return Packed(pickle.dumps((forms, buffer.getvalue())), tensors)


def send(group: ParallelGroup, message: Packed, between: tuple[int, int] | None = None) -> None:
    """Send to all, or ``between`` one rank and another.

    Raises ``RuntimeError`` if one of them has died.
    """
    group.send(torch.tensor([len(message.content)]), between)
    group.send(torch.frombuffer(bytearray(message.content), dtype=torch.uint8), between)
    for tensor in message.tensors:
        group.send(_flat(tensor), between)


def receive(group: ParallelGroup, between: tuple[int, int] | None = None) -> Any:
    """Wait for a message from rank 0, or ``between`` one rank and another.

    Raises ``RuntimeError`` if the sender has died.
    """
    length = int(group.send(torch.zeros(1, dtype=torch.int64), between).item())
    content = group.send(torch.empty(length, dtype=torch.uint8), between)
    # It comes from our own ranks, over connections on this machine that others cannot use.
    forms, structure = pickle.loads(content.numpy().tobytes())  # noqa: S301
    tensors = [_receive_tensor(group, between, *form) for form in forms]
    return _Unpickler(io.BytesIO(structure), tensors).load()


def can_be_sent(value: Any) -> bool:
    """Return whether ``value`` consists of tensors and plain values only.

    An object may have state that a forward changes, and the sender would not see the change.
    """
    if isinstance(value, Mapping):
        return all(can_be_sent(item) for item in value.values())
    if type(value) in (list, tuple):
        return all(map(can_be_sent, value))
    return isinstance(value, _PLAIN)


class _Pickler(pickle.Pickler):
    """Takes tensors out, each once, also if it is contained several times."""

    def __init__(self, buffer: io.BytesIO, tensors: list[torch.Tensor]) -> None:
        super().__init__(buffer)
        self._tensors = tensors
        self._places: dict[int, int] = {}

    def persistent_id(self, obj: Any) -> int | None:
        if not isinstance(obj, torch.Tensor):
            return None
        if id(obj) not in self._places:
            self._places[id(obj)] = len(self._tensors)
            self._tensors.append(obj)
        return self._places[id(obj)]


class _Unpickler(pickle.Unpickler):
    def __init__(self, buffer: io.BytesIO, tensors: Sequence[torch.Tensor]) -> None:
        super().__init__(buffer)
        self._tensors = tensors

    def persistent_load(self, pid: int) -> torch.Tensor:
        return self._tensors[pid]


def _receive_tensor(
    group: ParallelGroup,
    between: tuple[int, int] | None,
    shape: tuple[int, ...],
    dtype: torch.dtype,
    kind: str,
) -> torch.Tensor:
    device = "cpu" if kind == "cpu" else group.device
    tensor = torch.empty(shape, dtype=dtype, device=device)
    group.send(tensor.view(-1).view(torch.uint8), between)
    return tensor


def _flat(tensor: torch.Tensor) -> torch.Tensor:
    # A single number may have a stride of 0: it counts as contiguous but cannot be viewed.
    flat = torch.empty(tensor.numel(), dtype=tensor.dtype, device=tensor.device)
    return flat.copy_(tensor.detach().reshape(-1)).view(torch.uint8)


_PLAIN = (
    torch.Tensor,
    type(None),
    bool,
    int,
    float,
    str,
    bytes,
    torch.dtype,
    torch.device,
    torch.Size,
)
