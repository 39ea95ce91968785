"""Chunked encoding and decoding of video and audio, so that other generations run in between.

The call runs in its generation on a copy of the autoencoder. State from chunk to chunk is stored on
the copy, so videos that are decoded concurrently do not mix. The copy's inner decoder or encoder
suspends the generation for each chunk. The copy shares the weights.
"""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan, unpatchify
from diffusers.models.autoencoders.vae import DecoderOutput
from greenlet import getcurrent

from deployments.engine.interception.components import ComponentKind
from deployments.engine.interception.model_traits import ChunkJoin, ModelTrait
from deployments.engine.interception.proxy import ComponentCall, GenerationGreenlet

log = logging.getLogger(__name__)

# Tile blending: final frames of a video from the chunks that an autoencoder decodes.


class TileBlending(Protocol):
    """Joining of one video's chunks, which are passed once each and in order."""

    def frames(self, chunk: torch.Tensor) -> torch.Tensor:
        """Return the frames that are final: [1, 3, frames, height, width], -1 to 1.

        ``chunk`` may be modified.
        """
        ...


def blending_of(vae: Any, shape: Sequence[int], join: ChunkJoin | None) -> TileBlending | None:
    """Create the joining for latents of ``shape`` [videos, channels, frames, height, width].

    None where frames may change until all chunks are there, or where nothing is known.
    """
    if join is None or shape[0] != 1:
        return None
    if join is ChunkJoin.IN_LINE:
        return None if vae.use_tiling else _Line(vae)
    if not vae.use_framewise_decoding:
        return None
    if shape[2] <= vae.tile_sample_min_num_frames // vae.temporal_compression_ratio:
        return None
    return _Overlap(vae, shape[2], without_first=join is ChunkJoin.LAPPED_WITHOUT_FIRST)


def in_tiles(vae: Any, shape: Sequence[int]) -> bool:
    """Return whether ``vae.tiled_decode`` assembles each temporal chunk from spatial tiles."""
    side = getattr(vae, "spatial_compression_ratio", None)
    if side is None or not vae.use_tiling:
        return False
    tall, wide = vae.tile_sample_min_height // side, vae.tile_sample_min_width // side
    return shape[3] > tall or shape[4] > wide


@contextmanager
def in_tiles_for_once(call: ComponentCall) -> Generator[bool]:
    """Let an autoencoder compute by tiles inside the block, if it can and does not yet.

    Tiles need a fraction of the memory. They are blended into each other, so the output differs a
    little. Yields False where nothing changes.
    """
    module = call.module
    can = call.method in _INNER and getattr(module, "use_tiling", None) is False
    if can:
        log.warning(
            "%s.%s did not fit in memory in one piece and is computed by tiles.",
            type(module).__name__,
            call.method,
        )
        module.use_tiling = True
    try:
        yield can
    finally:
        if can:
            module.use_tiling = False


def tiled_copy(vae: Any) -> Any | None:
    """Return a copy of ``vae`` that computes by tiles, image by image, always the same one.

    It shares the weights, and the hooks that move them. None if ``vae`` cannot compute by tiles.
    """
    if vae not in _tiled:
        copied: Any = copy.copy(vae)
        for bound in ("forward", "_old_forward"):  # a hook's, which would keep the original alive
            vars(copied).pop(bound, None)
        try:
            copied.enable_tiling()
        except (AttributeError, NotImplementedError):
            copied = None
        if hasattr(copied, "enable_slicing"):
            copied.enable_slicing()
        _tiled[vae] = copied
    return _tiled[vae]


_tiled: WeakKeyDictionary[Any, Any] = WeakKeyDictionary()


class _Line:
    def __init__(self, vae: Any) -> None:
        # Wan's autoencoder unpatchifies when all chunks are there; here it is done for each.
        wan = isinstance(vae, AutoencoderKLWan)
        self._patch: int | None = vae.config["patch_size"] if wan else None

    def frames(self, chunk: torch.Tensor) -> torch.Tensor:
        return chunk if self._patch is None else unpatchify(chunk, patch_size=self._patch)


class _Overlap:
    """Blending like diffusers' ``_temporal_tiled_decode``.

    It keeps only the end of the previous chunk.
    """

    def __init__(self, vae: Any, length: int, *, without_first: bool) -> None:
        self._vae = vae
        self._without_first = without_first
        self._stride: int = vae.tile_sample_stride_num_frames
        self._lap: int = vae.tile_sample_min_num_frames - self._stride
        self._left: int = (length - 1) * vae.temporal_compression_ratio + 1
        self._end: torch.Tensor | None = None  # overlaps the beginning of the next chunk

    def frames(self, chunk: torch.Tensor) -> torch.Tensor:
        fresh = self._stride
        if self._end is None:
            fresh += 1
        else:
            chunk = chunk[:, :, 1:] if self._without_first else chunk[:, :, :-1]
            chunk = self._vae.blend_t(self._end, chunk, self._lap)
        # A copy, so that the rest of the chunk can be freed.
        self._end = chunk[:, :, max(0, chunk.shape[2] - self._lap) :].clone()
        fresh_part = chunk[:, :, : min(fresh, self._left)]
        self._left -= fresh_part.shape[2]
        return fresh_part


# Amount of work of an autoencoder that decodes in overlapping tiles. Pure.


def decoded_of(vae: Any, shape: Sequence[int]) -> int:
    """Number of latent positions to decode, counted once for each tile that contains them.

    ``shape``: [batch, channels, frames, height, width] for video, [batch, channels, length] for
    audio. If the tiles are unknown, each position counts once.
    """
    if len(shape) == 3:
        return _of_audio(vae, shape[2])
    frames, height, width = shape[2:]
    if (side := getattr(vae, "spatial_compression_ratio", None)) is None:
        return frames * height * width
    tall, wide = vae.tile_sample_min_height // side, vae.tile_sample_min_width // side
    if vae.use_tiling and (height > tall or width > wide):
        height = _tiled_length(height, tall, vae.tile_sample_stride_height // side)
        width = _tiled_length(width, wide, vae.tile_sample_stride_width // side)
    if getattr(vae, "use_framewise_decoding", False):
        length = vae.temporal_compression_ratio
        tile = vae.tile_sample_min_num_frames // length
        if frames > tile:  # each tile also takes the first frame of the next one
            frames = _tiled_length(frames, tile + 1, vae.tile_sample_stride_num_frames // length)
    return frames * height * width


def counted_in(vae: Any, shape: Sequence[int]) -> int:
    """Number of units for progress reports: frames of a video, tiles of audio."""
    return shape[2] if len(shape) > 3 else len(_starts(vae, shape[2]))


def _of_audio(vae: Any, length: int) -> int:
    lap, starts = vae.tile_latent_overlap, _starts(vae, length)
    return sum(min(length, at + starts.step + lap) - max(0, at - lap) for at in starts)


def _starts(vae: Any, length: int) -> range:
    return range(0, length, vae.tile_latent_min_length - 2 * vae.tile_latent_overlap)


def _tiled_length(length: int, tile: int, stride: int) -> int:
    return sum(min(tile, length - start) for start in range(0, length, stride))


OnFrames = Callable[[torch.Tensor], object]
"""Callback that gets frames [frames, 3, height, width], 0 to 1.

It must be quick and must not wait for the device.
"""

_Take = Callable[[torch.Tensor], torch.Tensor]


def is_chunked(call: ComponentCall, trait: ModelTrait) -> bool:
    """Return whether the call is for a video or long audio, by an autoencoder that can be copied.

    An autoencoder with hooks cannot be copied: it may be moved off the device between two chunks.
    ``trait``: the rules of the autoencoder's own class.
    """
    if call.method not in _INNER or not trait.chunked:
        return False
    hooked = hasattr(call.module, "_hf_hook") or hasattr(call.module, "_diffusers_hook")
    return not hooked and (_is_video(_video_in(call)) or _is_long_audio(call))


def compute_in_chunks(
    call: ComponentCall, trait: ModelTrait, on_frames: OnFrames | None = None
) -> Any:
    """Compute the output of ``call`` inside the generation, which is suspended at each chunk.

    ``on_frames`` gets the frames of each decoded chunk as soon as no later chunk changes them, if
    it is known how the autoencoder joins chunks. In that case, the output holds only the first
    corner of each frame.
    """
    module, inner, shape = call.module, _INNER[call.method], tuple(_video_in(call).shape)
    decodes = call.method == "decode"
    take = _taker(call, trait, on_frames) if decodes and on_frames is not None else None
    own = copy.copy(module)
    whole = take is not None and in_tiles(module, shape)  # one chunk is made from all tiles
    if take is not None and whole:
        own.tiled_decode = _passing_on(own.tiled_decode, take)
    inner_take = None if whole else take
    chunks = _Chunks.of(getattr(module, inner), f"{call.component}.{inner}", inner_take)
    total = decoded_of(module, shape) if decodes else math.prod(shape[2:])
    # With `on_frames`, the receiver of the frames reports the progress.
    chunks.expect(counted_in(module, shape), total, reported=decodes and take is None)
    own._modules = {**own._modules, inner: chunks}  # noqa: SLF001
    return getattr(own, call.method)(*call.arguments, **call.keywords)


class _Chunks:
    """Base class that is added to the class of an inner module."""

    real_module: Any
    component: str
    take: _Take | None
    frames: int  # frames of the video or of its latents; tiles of audio
    pixels: int  # pixels to compute in total
    left: int  # pixels not yet computed
    reported: bool  # whether chunks report progress

    @staticmethod
    def of(module: Any, component: str, take: Any) -> Any:
        """Return a proxy of ``module`` that suspends the generation where that would compute."""
        own = object.__new__(_class_of(type(module)))
        object.__setattr__(own, "__dict__", {**vars(module)})
        object.__setattr__(own, "real_module", module)
        object.__setattr__(own, "component", component)
        object.__setattr__(own, "take", take)
        return own

    def expect(self, frames: int, pixels: int, *, reported: bool) -> None:
        """Set the total amount of work. All of it is computed in chunks of frames or tiles."""
        known = {"frames": frames, "pixels": pixels, "left": pixels, "reported": reported}
        for name, value in known.items():
            object.__setattr__(self, name, value)

    def take_off(self, chunk: torch.Tensor) -> int:
        """Count a chunk as computed; returns the frames left before it, at least 1."""
        ahead = max(1, math.ceil(self.frames * self.left / self.pixels))
        object.__setattr__(self, "left", self.left - chunk[0, 0].numel())
        return ahead

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        current = getcurrent()
        if not isinstance(current, GenerationGreenlet):
            return self.real_module(*arguments, **keywords)
        ahead = self.take_off(arguments[0])
        output = current.suspend(
            ComponentCall(
                self.real_module,
                arguments,
                keywords,
                component=self.component,
                part=ComponentKind.AUTOENCODER,
                frames_left=ahead,
                frames=self.frames if self.reported else 0,
            )
        )
        if self.take is None:
            return output
        if isinstance(output, tuple):  # with the state for the next chunk
            return self.take(output[0]), *output[1:]
        return self.take(output)


def _taker(call: ComponentCall, trait: ModelTrait, on_frames: OnFrames) -> _Take | None:
    """Function that passes on the frames of a chunk and returns a corner of them.

    None where later chunks may change the frames of an earlier one.
    """
    latents = _video_in(call)
    if latents.ndim != 5:
        return None
    blending = blending_of(call.module, latents.shape, trait.chunk_join)
    if blending is None:
        return None

    def take(chunk: torch.Tensor) -> torch.Tensor:  # [1, channels, frames, height, width]
        frames = blending.frames(chunk).clamp(-1.0, 1.0)[0].transpose(0, 1)
        on_frames((frames * 0.5 + 0.5).clamp(0, 1))  # same scaling as in the pipelines
        return chunk[..., :1, :1].clone()

    return take


def _passing_on(tiled_decode: Callable[..., Any], take: _Take) -> Callable[..., Any]:
    def decode(*arguments: Any, **keywords: Any) -> DecoderOutput:
        return DecoderOutput(sample=take(tiled_decode(*arguments, **keywords).sample))

    return decode


@cache
def _class_of(real: type) -> type:
    return type(real.__name__, (_Chunks, real), {"__module__": real.__module__})


def _video_in(call: ComponentCall) -> Any:
    return next(iter([*call.arguments, *call.keywords.values()]), None)


def _is_video(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.ndim == 5 and value.shape[2] > 1


def _is_long_audio(call: ComponentCall) -> bool:
    """Return whether the call decodes audio that is long enough for tiles."""
    latents, vae = _video_in(call), call.module
    is_audio = isinstance(latents, torch.Tensor) and latents.ndim == 3 and call.method == "decode"
    return is_audio and vae.use_tiling and latents.shape[2] > vae.tile_latent_min_length


_INNER = {"encode": "encoder", "decode": "decoder"}
