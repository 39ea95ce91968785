"""Clips and sounds that an autoencoder takes in chunks, so that the others step in between.

The call runs in its generation on a copy of the autoencoder: what it remembers from chunk to chunk
lies on the copy, so clips that are decoded in turns do not mix. The copy's inner decoder or encoder
suspends the generation for each chunk. The weights are the same.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from diffusers.models.autoencoders.vae import DecoderOutput
from greenlet import getcurrent

from deployments.engine.declarations import Declaration
from deployments.engine.lapping import counted_in, decoded_of
from deployments.engine.part import Part
from deployments.engine.seam import in_tiles, seam_of
from deployments.engine.stand_in import DenoiserCall, GenerationGreenlet

OnFrames = Callable[[torch.Tensor], object]
"""Takes [frames, 3, height, width], 0 to 1; must be quick, and not wait for the device."""

_Take = Callable[[torch.Tensor], torch.Tensor]


def in_chunks(call: DenoiserCall, declared: Declaration) -> bool:
    """Whether it is of a clip or a long sound, by an autoencoder that can be copied: one that comes
    in to be called may be sent away between two chunks. ``declared``: of the autoencoder's class
    itself."""
    if call.method not in _INNER or not declared.chunked:
        return False
    hooked = hasattr(call.module, "_hf_hook") or hasattr(call.module, "_diffusers_hook")
    return not hooked and (_is_clip(_clip_in(call)) or _is_long_sound(call))


def computed(call: DenoiserCall, declared: Declaration, on_frames: OnFrames | None = None) -> Any:
    """The output of ``call``; inside of the generation, which is suspended at each chunk.

    ``on_frames`` gets the frames of each chunk that is decoded, as soon as no later one changes
    them, where it is known how the autoencoder joins them. Then the output is the first corner of
    each frame alone.
    """
    module, inner, shape = call.module, _INNER[call.method], tuple(_clip_in(call).shape)
    decodes = call.method == "decode"
    take = _taker(call, declared, on_frames) if decodes and on_frames is not None else None
    twin = copy.copy(module)
    whole = take is not None and in_tiles(module, shape)  # a chunk comes from the tiles together
    if take is not None and whole:
        twin.tiled_decode = _taken(twin.tiled_decode, take)
    of_inner = None if whole else take
    chunks = _Chunks.of(getattr(module, inner), f"{call.component}.{inner}", of_inner)
    total = decoded_of(module, shape) if decodes else math.prod(shape[2:])
    # Who is given the frames says how far it is.
    chunks.expect(counted_in(module, shape), total, told=decodes and take is None)
    twin._modules = {**twin._modules, inner: chunks}  # noqa: SLF001
    return getattr(twin, call.method)(*call.arguments, **call.keywords)


class _Chunks:
    """What is added to the class of an inner module."""

    real_module: Any
    component: str
    take: _Take | None
    frames: int  # of the clip, or of its latents; tiles of a sound
    pixels: int  # of all that is computed of them
    left: int  # of those
    told: bool  # whether it is to be told how far it is

    @staticmethod
    def of(module: Any, component: str, take: Any) -> Any:
        """It looks like ``module``, and suspends the generation where that would compute."""
        twin = object.__new__(_class_of(type(module)))
        object.__setattr__(twin, "__dict__", {**vars(module)})
        object.__setattr__(twin, "real_module", module)
        object.__setattr__(twin, "component", component)
        object.__setattr__(twin, "take", take)
        return twin

    def expect(self, frames: int, pixels: int, *, told: bool) -> None:
        """All of it comes, in chunks of frames or tiles."""
        known = {"frames": frames, "pixels": pixels, "left": pixels, "told": told}
        for name, value in known.items():
            object.__setattr__(self, name, value)

    def take_off(self, chunk: torch.Tensor) -> int:
        """Frames that are left with the ``chunk``, at least 1."""
        ahead = max(1, math.ceil(self.frames * self.left / self.pixels))
        object.__setattr__(self, "left", self.left - chunk[0, 0].numel())
        return ahead

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        current = getcurrent()
        if not isinstance(current, GenerationGreenlet):
            return self.real_module(*arguments, **keywords)
        ahead = self.take_off(arguments[0])
        output = current.suspend(
            DenoiserCall(
                self.real_module,
                arguments,
                keywords,
                component=self.component,
                part=Part.AUTOENCODER,
                ahead=ahead,
                frames=self.frames if self.told else 0,
            )
        )
        if self.take is None:
            return output
        if isinstance(output, tuple):  # with what it remembers for the next chunk
            return self.take(output[0]), *output[1:]
        return self.take(output)


def _taker(call: DenoiserCall, declared: Declaration, on_frames: OnFrames) -> _Take | None:
    """What hands on the frames of a chunk and leaves a corner of them; None where frames may change
    after their chunk."""
    latents = _clip_in(call)
    if latents.ndim != 5 or not (seam := seam_of(call.module, latents.shape, declared.joins)):
        return None

    def take(chunk: torch.Tensor) -> torch.Tensor:  # [1, channels, frames, height, width]
        frames = seam.frames(chunk).clamp(-1.0, 1.0)[0].transpose(0, 1)
        on_frames((frames * 0.5 + 0.5).clamp(0, 1))  # as pipelines do it themselves
        return chunk[..., :1, :1].clone()

    return take


def _taken(tiled_decode: Callable[..., Any], take: _Take) -> Callable[..., Any]:
    def decode(*arguments: Any, **keywords: Any) -> DecoderOutput:
        return DecoderOutput(sample=take(tiled_decode(*arguments, **keywords).sample))

    return decode


@cache
def _class_of(real: type) -> type:
    return type(real.__name__, (_Chunks, real), {"__module__": real.__module__})


def _clip_in(call: DenoiserCall) -> Any:
    return next(iter([*call.arguments, *call.keywords.values()]), None)


def _is_clip(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.ndim == 5 and value.shape[2] > 1


def _is_long_sound(call: DenoiserCall) -> bool:
    """One that is decoded in tiles."""
    given, vae = _clip_in(call), call.module
    is_sound = isinstance(given, torch.Tensor) and given.ndim == 3 and call.method == "decode"
    return is_sound and vae.use_tiling and given.shape[2] > vae.tile_latent_min_length


_INNER = {"encode": "encoder", "decode": "decoder"}
