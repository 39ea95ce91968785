"""Messages with a denoiser's call, from the engine's device to the other devices."""

from __future__ import annotations

import logging
import pickle
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial, update_wrapper
from itertools import count
from typing import Any
from weakref import finalize

import torch

from deployments.engine.interception.components import looks_like_denoiser, modules_of
from deployments.engine.interception.isolation import ThreadState
from deployments.engine.interception.model_traits import KNOWN, ModelTraits
from deployments.engine.parallel.group import ParallelGroup
from serve_app.domain.endpoint import Recipe
from serve_app.domain.errors import PipelineFailed, ReplicaDied, WeightsUnavailable

Key = tuple[int, str]
"""Key of a denoiser: its pipeline's number, which is never reused, and its name there."""


@dataclass(frozen=True, slots=True)
class ParallelCall:
    number: int
    key: Key
    arguments: Sequence[Any]
    keywords: Mapping[str, Any]
    thread: ThreadState
    forgotten: Sequence[Key] = ()  # denoisers that will not be called again


@dataclass(frozen=True, slots=True)
class _Place:
    """Placeholder of a tensor that is sent separately, to the same kind of device."""

    number: int


@dataclass(slots=True)
class _Tensors:
    found: list[torch.Tensor] = field(default_factory=list[torch.Tensor])

    def taken_out(self, value: Any) -> Any:
        """Replace the tensors in ``value`` by placeholders.

        Raises ``PipelineFailed`` for other objects: an object may have state that the forward
        changes, and other processes would not see the change.
        """
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


def packed(call: ParallelCall) -> tuple[bytes, list[torch.Tensor]]:
    """Pack a call as a header, which describes the tensors, and the tensors as bytes.

    Bytes, because not every dtype can be sent. Raises ``PipelineFailed`` for arguments that cannot
    be sent.
    """
    tensors = _Tensors()
    arguments, keywords = tensors.taken_out((list(call.arguments), dict(call.keywords)))
    forms = [(tuple(each.shape), each.dtype, each.device.type) for each in tensors.found]
    plain = (call.number, call.key, arguments, keywords, call.thread, list(call.forgotten))
    return pickle.dumps((plain, forms)), [_flat(each) for each in tensors.found]


def send(group: ParallelGroup, content: bytes, tensors: Sequence[torch.Tensor]) -> None:
    """Send what ``packed`` returned. Empty content means that no more calls follow."""
    group.send(torch.tensor([len(content)]))
    if content:
        group.send(torch.frombuffer(bytearray(content), dtype=torch.uint8))
    for tensor in tensors:
        group.send(tensor)


def receive(group: ParallelGroup) -> ParallelCall | None:
    """Wait for the next call; None: no more follow. Raises ``RuntimeError`` if rank 0 has died."""
    length = int(group.send(torch.zeros(1, dtype=torch.int64)).item())
    if not length:
        return None
    content = group.send(torch.empty(length, dtype=torch.uint8))
    # It comes from our own rank 0, over connections on this machine that others cannot use.
    plain, forms = pickle.loads(content.numpy().tobytes())  # noqa: S301
    tensors = _Tensors([_received(group, *form) for form in forms])
    number, key, arguments, keywords, thread, forgotten = plain
    return ParallelCall(
        number, key, tensors.put_back(arguments), tensors.put_back(keywords), thread, forgotten
    )


def _received(
    group: ParallelGroup, shape: tuple[int, ...], dtype: torch.dtype, kind: str
) -> torch.Tensor:
    device = "cpu" if kind == "cpu" else group.device
    tensor = torch.empty(shape, dtype=dtype, device=device)
    group.send(tensor.view(-1).view(torch.uint8))
    return tensor


def _flat(tensor: torch.Tensor) -> torch.Tensor:
    # A single number may have a stride of 0: it counts as contiguous but cannot be viewed.
    flat = torch.empty(tensor.numel(), dtype=tensor.dtype, device=tensor.device)
    return flat.copy_(tensor.reshape(-1)).view(torch.uint8)


_PLAIN = (type(None), bool, int, float, str, bytes, torch.dtype, torch.device, torch.Size)


log = logging.getLogger(__name__)

AGREE_S = 20.0
"""Seconds that a rank whose forward failed waits for the other ranks to fail as well."""

_GLANCE_S = 0.2


class ParallelModels:
    """Parallel group on rank 0. Calls run on the engine's thread only; ``add`` on any thread.

    Each call of a denoiser is computed by several devices together. Its caller notices no
    difference: the denoiser's ``forward`` sends the arguments to the followers, and all of them
    compute. Batches are merged as usual, and all other components are on one device.
    """

    def __init__(
        self,
        group: ParallelGroup,
        followers_live: Callable[[], bool] = lambda: True,
        on_lost: Callable[[], None] = lambda: None,
        declarations: ModelTraits = KNOWN,
    ) -> None:
        """``on_lost``: called on the engine's thread when the devices are permanently out of step.

        The process must then be replaced: all further calls raise ``ReplicaDied``.
        """
        self._group = group
        self._followers_live = followers_live
        self._on_lost = on_lost
        self._declarations = declarations
        self._calls = count(1)
        self._forgotten: deque[Key] = deque()  # filled by any thread that collects garbage
        self._broken = ""

    def add(self, number: int, pipeline: Any, recipe: Recipe | None = None) -> None:
        """Compute the pipeline's denoisers on all devices from now on.

        The followers must have added them under the same number. Raises ``WeightsUnavailable`` when
        they cannot be divided among devices.
        """
        for name, module in spreadable(pipeline, recipe, self._declarations).items():
            self._group.divide(module)
            divided = module.forward
            module.forward = update_wrapper(
                partial(self._forward, (number, name), divided), divided
            )
            # The followers keep their copy until this one is garbage-collected.
            finalize(module, self._forgotten.append, (number, name)).atexit = False

    def close(self) -> None:
        """Release the followers. Call it after the engine is closed."""
        if not self._broken:
            self._broken = "The replica is closed."
            try:
                send(self._group, b"", ())
            except RuntimeError:
                log.info("The other devices of the replica ended before rank 0.")
        self._group.leave()

    def _forward(
        self, key: Key, divided: Callable[..., Any], *arguments: Any, **keywords: Any
    ) -> Any:
        if self._broken:
            raise ReplicaDied(self._broken)
        number = next(self._calls)
        forgotten = [self._forgotten.popleft() for _ in range(len(self._forgotten))]
        thread = ThreadState.of_this_thread()
        call = packed(ParallelCall(number, key, arguments, keywords, thread, forgotten))
        try:
            send(self._group, *call)
        except RuntimeError as error:
            # The follower may not count as ended yet: a process's connections close before it ends.
            raise self._break("ended") from error
        try:
            return divided(*arguments, **keywords)
        except BaseException as error:
            if self._all_failed(number):
                raise
            how = "failed alone" if self._followers_live() else "ended"
            raise self._break(how) from error

    def _all_failed(self, number: int) -> bool:
        """Return whether all followers failed in the same call, so that all are in step again."""
        for rank in range(1, self._group.size):
            glances = int(AGREE_S / _GLANCE_S)
            while not self._group.wait_for(failed(number, rank), _GLANCE_S):
                glances -= 1
                if not glances or not self._followers_live():
                    return False
        self._group.publish(agreed(number))
        return True

    def _break(self, how: str) -> ReplicaDied:
        self._broken = (
            f"One of the replica's {self._group.size} devices {how}; the replica is being replaced."
        )
        self._on_lost()
        return ReplicaDied(self._broken)


def spreadable(
    pipeline: Any, recipe: Recipe | None = None, declarations: ModelTraits = KNOWN
) -> Mapping[str, Any]:
    """Denoisers by name. Raises ``WeightsUnavailable``, with the reason, if it cannot divide."""
    denoisers = {
        name: module for name, module in modules_of(pipeline) if looks_like_denoiser(name, module)
    }
    refusals = [
        declarations.of(type(each)).parallel_refusal or _refusal(name, each, recipe)
        for name, each in denoisers.items()
    ]
    refusals.append(declarations.of(type(pipeline)).parallel_refusal)
    refusals = [refusal for refusal in refusals if refusal]
    if refusals or not denoisers:
        reason = refusals[0] if refusals else "it has no known denoiser"
        raise WeightsUnavailable(
            f"{type(pipeline).__name__} cannot be computed by several devices: {reason}. Serve "
            "this endpoint by a pool with one device for each replica."
        )
    return denoisers


def _refusal(name: str, module: Any, recipe: Recipe | None) -> str:
    if getattr(module, "_cp_plan", None) is None:
        return f"diffusers has no plan for dividing a {type(module).__name__}"
    if getattr(module, "is_cache_enabled", False):
        return f"its {name} has a step cache"
    if recipe is not None and recipe.compile:
        return f"the recipe for {recipe.memory_gb:g} GB compiles blocks of its {name}"
    if recipe is not None and recipe.offload != "none" and name not in recipe.hot:
        return f"the recipe for {recipe.memory_gb:g} GB keeps its {name} in host memory"
    return ""


def failed(number: int, rank: int) -> str:
    """Key of a follower's message that its forward has failed."""
    return f"failed {number} {rank}"


def agreed(number: int) -> str:
    """Key of rank 0's message that all forwards have failed."""
    return f"agreed {number}"
