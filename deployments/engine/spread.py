"""Has a pipeline's denoisers computed by several devices, each by all of them at once.

Who calls such a denoiser notices nothing: its ``forward`` sends the arguments to the followers, and
all compute. So batches are merged as ever, and everything besides denoisers is on one device.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Mapping
from functools import partial, update_wrapper
from itertools import count
from typing import Any
from weakref import finalize

from deployments.engine.declarations import Declarations
from deployments.engine.denoisers import looks_like_one, modules_of
from deployments.engine.device_group import DeviceGroup
from deployments.engine.families.known import KNOWN
from deployments.engine.spread_call import Key, SpreadCall, packed, send
from deployments.engine.thread_state import ThreadState
from serve_app.domain.endpoint import Recipe
from serve_app.domain.errors import ReplicaDied, WeightsUnavailable

log = logging.getLogger(__name__)

AGREE_S = 20.0
"""How long one whose forward has failed waits for the others to have failed as well."""

_GLANCE_S = 0.2


class Spread:
    """Of rank 0. Calls are for the engine's thread alone; ``add`` for any."""

    def __init__(
        self,
        group: DeviceGroup,
        followers_live: Callable[[], bool] = lambda: True,
        on_lost: Callable[[], None] = lambda: None,
        declarations: Declarations = KNOWN,
    ) -> None:
        """``on_lost``: called when the devices are out of step for good, on the engine's thread.
        The process is to be replaced: all further calls raise ``ReplicaDied``."""
        self._group = group
        self._followers_live = followers_live
        self._on_lost = on_lost
        self._declarations = declarations
        self._calls = count(1)
        self._forgotten: deque[Key] = deque()  # by whatever thread collects garbage
        self._broken = ""

    def add(self, number: int, pipeline: Any, recipe: Recipe | None = None) -> None:
        """From now on all compute its denoisers; the followers have added them by then under the
        same number. ``WeightsUnavailable`` where they cannot be spread."""
        for name, module in spreadable(pipeline, recipe, self._declarations).items():
            self._group.divide(module)
            divided = module.forward
            module.forward = update_wrapper(
                partial(self._forward, (number, name), divided), divided
            )
            # They keep it for as long as we do.
            finalize(module, self._forgotten.append, (number, name)).atexit = False

    def close(self) -> None:
        """Let the followers go. After the engine."""
        if not self._broken:
            self._broken = "it is closed"
            try:
                send(self._group, b"", ())
            except RuntimeError:
                log.info("The other devices of the replica have gone before it.")
        self._group.leave()

    def _forward(
        self, key: Key, divided: Callable[..., Any], *arguments: Any, **keywords: Any
    ) -> Any:
        if self._broken:
            raise ReplicaDied(self._broken)
        number = next(self._calls)
        forgotten = [self._forgotten.popleft() for _ in range(len(self._forgotten))]
        thread = ThreadState.of_this_thread()
        call = packed(SpreadCall(number, key, arguments, keywords, thread, forgotten))
        try:
            send(self._group, *call)
        except RuntimeError as error:
            # It may not count as ended yet: a process's connections go before itself.
            raise self._lost("ended") from error
        try:
            return divided(*arguments, **keywords)
        except BaseException as error:
            if self._all_failed(number):
                raise
            how = "failed alone" if self._followers_live() else "ended"
            raise self._lost(how) from error

    def _all_failed(self, number: int) -> bool:
        """Whether the followers have failed at the same, so that all are in step again."""
        for rank in range(1, self._group.size):
            glances = int(AGREE_S / _GLANCE_S)
            while not self._group.told(failed(number, rank), _GLANCE_S):
                glances -= 1
                if not glances or not self._followers_live():
                    return False
        self._group.tell(agreed(number))
        return True

    def _lost(self, how: str) -> ReplicaDied:
        self._broken = f"One of the replica's {self._group.size} devices {how}; it is replaced."
        self._on_lost()
        return ReplicaDied(self._broken)


def spreadable(
    pipeline: Any, recipe: Recipe | None = None, declarations: Declarations = KNOWN
) -> Mapping[str, Any]:
    """Its denoisers by name. ``WeightsUnavailable`` says which cannot be spread, and why."""
    denoisers = {
        name: module for name, module in modules_of(pipeline) if looks_like_one(name, module)
    }
    refusals = [
        declarations.of(type(each)).undividable or _refusal(name, each, recipe)
        for name, each in denoisers.items()
    ]
    refusals.append(declarations.of(type(pipeline)).undividable)
    refusals = [refusal for refusal in refusals if refusal]
    if refusals or not denoisers:
        reason = refusals[0] if refusals else "it has no denoiser that is known as one"
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
        return f"the recipe for {recipe.memory_gb:g} GB compiles what the {name} repeats"
    if recipe is not None and recipe.offload != "none" and name not in recipe.hot:
        return f"the recipe for {recipe.memory_gb:g} GB keeps its {name} in host memory"
    return ""


def failed(number: int, rank: int) -> str:
    """What a follower tells whose forward has raised."""
    return f"failed {number} {rank}"


def agreed(number: int) -> str:
    """What rank 0 tells when all forwards have raised."""
    return f"agreed {number}"
