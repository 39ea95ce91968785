"""Largest work of a recipe, computed from the memory that the model needs.

The figures are those of ``python -m benchmarks.memory_peaks``: bytes of tensors that are alive,
by the work, as a line. Nothing here was measured on a device.
"""

from __future__ import annotations

from math import inf

from pydantic import BaseModel, ConfigDict, Field

from serve_app.domain.endpoint import EIGHT_BITS, EIGHT_BITS_MIN_SHARE, RESERVED_SHARE, WorkLimit

OVERHEAD_GB = 1.0
"""Of a device's memory: the driver's context (about 0.5) and workspaces of libraries."""

MARGIN = 1.1
"""What an allocator loses between tensors of many sizes. The engine keeps the same share free."""

AUTOENCODER = "vae"
DENOISERS = ("transformer", "transformer_2", "unet")


class Line(BaseModel):
    """Peak memory in GB: ``fixed + per_megapixel × P + per_volume × V``. P: megapixels of a frame;
    V: megapixels of all frames. For images both are the same."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    fixed: float = 0.0
    per_megapixel: float = 0.0
    per_volume: float = Field(default=0.0, ge=0)

    def volume(self, room: float) -> float:
        """Largest volume that fits ``room`` GB, of work that is all one frame or does not depend
        on frames."""
        rate = self.per_volume or 0.0
        return max(0.0, room - self.fixed) / rate if rate else inf

    def megapixels(self, room: float, volume: float | None) -> float:
        """Largest frame that fits ``room`` GB in work of ``volume``; None: the frame is all."""
        if volume is None:
            return max(0.0, room - self.fixed) / (self.per_megapixel + self.per_volume)
        left = room - self.fixed - self.per_volume * volume
        return max(0.0, left) / self.per_megapixel if self.per_megapixel else inf * (left >= 0)


class MemorySource(BaseModel):
    """Memory of a model. Weights and autoencoder's figures are in 16 bits."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    weights: dict[str, float] = Field(description="GB by component.")
    streamed: float = Field(ge=0, description="GB of a denoiser that is streamed by blocks.")
    forward: Line
    decode: Line
    tiled: Line
    adapters: float = Field(default=0.0, ge=0, description="GB of the entry's `adapters`.")
    frame: float | None = Field(
        default=None, gt=0, description="Megapixels of a video's usual frame. None: images."
    )


class RecipeMemory:
    """Memory of one recipe, by phase. ``ValueError`` if its weights do not fit its device."""

    def __init__(
        self,
        memory: MemorySource,
        *,
        memory_gb: float,
        precision: str,
        offload: str,
        hot: tuple[str, ...],
        float32: frozenset[str],
    ) -> None:
        """``float32``: components that are loaded in 32 bits."""
        self._memory = memory
        self._room = memory_gb * (1 - RESERVED_SHARE) - OVERHEAD_GB - memory.adapters
        total = sum(memory.weights.values())
        large = {
            name for name, size in memory.weights.items() if size >= EIGHT_BITS_MIN_SHARE * total
        }
        eight_bits = precision in EIGHT_BITS
        halved: set[str] = set()
        if eight_bits:  # products in 8 bits are the denoisers' alone
            halved = large - {AUTOENCODER} if precision == "float8" else large & {*DENOISERS}
        self._sizes = {
            name: size * (0.5 if name in halved else 2.0 if name in float32 else 1.0)
            for name, size in memory.weights.items()
        }
        self._decoder = 2.0 if AUTOENCODER in float32 else 1.0
        self._hot = set(self._sizes) if offload == "none" else set(hot)
        self._streamed = (
            memory.streamed * (0.5 if eight_bits else 1.0) if offload == "blocks" else None
        )
        if (most := max(self._there(name) for name in self._sizes)) > self._room:
            raise ValueError(
                f"the recipe for {memory_gb:g} GB needs {most:.1f} GB for weights and has "
                f"{self._room:.1f}"
            )

    def limit(self, *, always_tiled: bool) -> WorkLimit:
        """Largest work. ``always_tiled``: the autoencoder works in tiles for every request."""
        memory = self._memory
        denoisers = [name for name in self._sizes if name in DENOISERS]
        forward = (self._room - max(map(self._there, denoisers))) / MARGIN
        decode = (self._room - self._there(AUTOENCODER)) / MARGIN / self._decoder
        volume = min(memory.forward.volume(forward), memory.tiled.volume(decode))
        tile_above = None
        if not always_tiled:
            video_volume = None if memory.frame is None else volume
            whole = memory.decode.megapixels(decode, video_volume)
            tile_above = None if whole >= volume else _cut(whole)
        if memory.frame is None:
            return WorkLimit(_cut(volume), 1, tile_above)
        frames = int(volume / memory.frame)
        if frames < 1:
            return WorkLimit(_cut(volume), 1, tile_above)
        return WorkLimit(memory.frame, frames, tile_above)

    def _there(self, called: str) -> float:
        """GB of weights on the device while ``called`` computes."""
        there = sum(self._sizes[name] for name in self._hot if name in self._sizes)
        cold = [name for name in self._sizes if name not in self._hot]
        if self._streamed is not None:
            there += self._streamed * len([name for name in cold if name in DENOISERS])
            cold = [name for name in cold if name not in DENOISERS]
        return there + (self._sizes[called] if called in cold else 0.0)


def _cut(megapixels: float) -> float:
    return int(megapixels * 100) / 100
