"""How many calls of an autoencoder share a forward, so that it takes no more memory than one."""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

import torch

from deployments.engine.call_arguments import bind, tensors_in
from deployments.engine.stand_in import DenoiserCall

MOST_PIXELS = 2**20
"""Of the pictures that are decoded or encoded in one forward, or of frames, or of samples of sound.
An autoencoder takes some kilobytes for each, so several pictures of this size would need what
nobody has planned with. One alone keeps a GPU busy; it is the smaller ones that gain."""


class Pixels:
    """For the engine's thread alone."""

    def __init__(self) -> None:
        # What one place of the latents becomes; seen at the first decode of each.
        self._of_a_place: WeakKeyDictionary[Any, float] = WeakKeyDictionary()

    def most(self, call: DenoiserCall) -> int:
        """How many calls like this one may share a forward, itself among them."""
        given = _main(call)
        of_a_place = 1.0 if call.method == "encode" else self._of_a_place.get(call.module)
        if given is None or of_a_place is None:
            return 1
        return max(1, int(MOST_PIXELS / (_places(given) * of_a_place)))

    def learn(self, call: DenoiserCall, output: Any) -> None:
        """See what ``call`` gave."""
        given, made = _main(call), next(tensors_in(output), None)
        if call.method == "decode" and given is not None and made is not None:
            self._of_a_place[call.module] = _places(made) / _places(given)


def _main(call: DenoiserCall) -> torch.Tensor | None:
    try:
        main = bind(call.module, call.arguments, call.keywords, call.method).main()
    except TypeError:
        return None
    return main if isinstance(main, torch.Tensor) and main.numel() else None


def _places(tensor: torch.Tensor) -> int:
    """Without the channels."""
    return tensor.numel() // tensor.shape[1] if tensor.ndim > 2 else tensor.numel()
