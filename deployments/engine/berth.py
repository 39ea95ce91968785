"""Room on the device for one component at a time, of those that wait in host memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from accelerate.hooks import ModelHook, add_hook_to_module
from accelerate.utils import send_to_device


class Berth:
    """A component that is called comes in, and stays until another one needs the room.

    There is no fixed order, so generations that interleave are right: at worst two of them take
    turns at each step. All calls are on the engine's thread, and none is made within another.
    """

    def __init__(self, device: str) -> None:
        self.device = device
        self._guest: torch.nn.Module | None = None
        self._left_behind: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def serve(self, module: torch.nn.Module) -> None:
        """From now on ``module`` comes in when it is called."""
        if self.device.startswith("cuda"):
            for tensor in _tensors(module):
                tensor.data = tensor.data.pin_memory()  # several times faster to copy
        add_hook_to_module(module, _ComesIn(self))

    def admit(self, module: torch.nn.Module) -> None:
        if self._guest is module:
            return
        self._leave()
        self._guest = module
        try:
            for tensor in _tensors(module):
                self._left_behind[id(tensor)] = (tensor, tensor.data)
                tensor.data = self.copied_in(tensor.data)
        except BaseException:
            self._leave()
            raise

    def copied_in(self, tensor: torch.Tensor) -> torch.Tensor:
        """On the device, what ``tensor`` holds."""
        return tensor.to(self.device, non_blocking=True)

    def _leave(self) -> None:
        """The guest's weights are those in host memory again. They were not written to, unless
        they are of another dtype now: pipelines upcast autoencoders."""
        if self._guest is None:
            return
        for tensor in _tensors(self._guest):
            _, before = self._left_behind.get(id(tensor), (tensor, tensor.data))
            same = before.dtype == tensor.dtype and before.device.type == "cpu"
            tensor.data = before if same else tensor.data.to("cpu")
        self._guest = None
        self._left_behind.clear()


class _ComesIn(ModelHook):
    """accelerate's hook. diffusers calls it for an autoencoder's ``encode`` and ``decode`` too."""

    def __init__(self, berth: Berth) -> None:
        super().__init__()
        self._berth = berth
        self.execution_device = torch.device(berth.device)  # diffusers looks for it

    def pre_forward(self, module: Any, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        self._berth.admit(module)
        device = self.execution_device
        return send_to_device(args, device), send_to_device(kwargs, device)


def _tensors(module: torch.nn.Module) -> Iterator[torch.Tensor]:
    yield from module.parameters()
    yield from module.buffers()
