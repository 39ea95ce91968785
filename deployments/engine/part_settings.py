"""What diffusers' switches set on parts of a denoiser that all generations share: FreeU
(``enable_freeu``) and the scales of IP-adapters (``set_ip_adapter_scale``).

Both can be called by a generation, for its own pipeline; so they are taken off when it is
suspended, put back for its calls, and part of its batch key.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from typing import Any

import torch

from deployments.engine.processors import Processors

Settings = Sequence[tuple[Any, str, Any]]
"""Part, name of its attribute, value."""


class PartsWithSettings:
    """The parts of some modules that FreeU changes; the others are attention processors."""

    def __init__(self, modules: Iterable[torch.nn.Module]) -> None:
        self._blocks = [block for each in modules for block in getattr(each, "up_blocks", ())]

    def current(self, processors: Processors) -> Settings:
        """All that can be set, with ``processors`` as those that may have a scale."""
        freeu = [
            (block, name, vars(block).get(name, _ABSENT))
            for block in self._blocks
            for name in _FREEU
        ]
        scaled = [each for each in processors if "scale" in getattr(each, "__dict__", ())]
        return freeu + [(each, "scale", _copied(each.scale)) for each in scaled]


def again(settings: Settings) -> Settings:
    """The same, as they are now."""
    return [(part, name, _copied(vars(part).get(name, _ABSENT))) for part, name, _ in settings]


def put(settings: Settings) -> None:
    for part, name, value in settings:
        if value is _ABSENT:
            vars(part).pop(name, None)
        else:
            setattr(part, name, _copied(value))


def changes(before: Settings, after: Settings) -> Settings:
    """Those of ``after`` that are others than ``before``, which are of the same parts."""
    return [
        now
        for was, now in zip(before, after, strict=True)
        if was[2] is not now[2] and _frozen(was[2]) != _frozen(now[2])
    ]


def described(settings: Settings) -> Hashable:
    """What a batch key takes."""
    return tuple((id(part), name, _frozen(value)) for part, name, value in settings)


def _copied(value: Any) -> Any:
    """diffusers writes into the lists of scales."""
    return [_copied(each) for each in value] if isinstance(value, list) else value


def _frozen(value: Any) -> Hashable:
    if isinstance(value, list):
        return tuple(_frozen(each) for each in value)
    return value if isinstance(value, _PLAIN) else id(value)


_ABSENT = object()
_FREEU = ("s1", "s2", "b1", "b2")
_PLAIN = (str, int, float, bool, type(None))
