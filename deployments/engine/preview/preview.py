"""Small pictures of what is being made, from a suspended generation and without a forward."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from typing import Any
from weakref import WeakKeyDictionary

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from deployments.engine.host_copy import host_copy
from deployments.engine.latent_reading import Standing, clean_latents, standing
from deployments.engine.projection import Projection, fitted
from deployments.engine.stand_in import GenerationGreenlet
from serve_app.domain.errors import SnapshotRefused, Unsupported

log = logging.getLogger(__name__)

SIDE = 256  # pixels, of the longer side


@dataclass(frozen=True, slots=True, eq=False)
class Preview:
    """A picture as far as it can be told after ``step`` steps."""

    step: int
    pixels: Tensor  # [height, width, 3], uint8, on the CPU; complete when ``ready`` returns
    ready: Callable[[], object]

    def jpeg(self) -> bytes:
        """A file, ``SIDE`` on the longer side. It takes about a millisecond, so on any thread but
        the engine's."""
        self.ready()
        picture = Image.fromarray(self.pixels.numpy())
        scale = SIDE / max(picture.size)
        size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
        buffer = BytesIO()
        picture.resize(size, Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=80)
        return buffer.getvalue()


class Previews:
    """For the engine's thread. Colours are learned once for each autoencoder, when the first
    preview with it is asked for."""

    def __init__(self) -> None:
        self._projections: WeakKeyDictionary[Any, Projection | Unsupported] = WeakKeyDictionary()

    def of(self, suspended: GenerationGreenlet, step: int) -> Preview:
        """``Unsupported`` where the pipeline shows no latents of a picture; says what it lacks."""
        try:
            return self._of(suspended.look(standing), step)
        except SnapshotRefused as error:  # what ``look`` makes of every error
            raise Unsupported(error.message) from None
        except Unsupported:
            raise
        except Exception as error:
            # A preview is an extra, and must not end the engine.
            log.debug("A preview could not be made.", exc_info=True)
            raise Unsupported(
                f"No preview could be made: {type(error).__name__}: {error}"
            ) from None

    def _of(self, at: Standing, step: int) -> Preview:
        projection = self._projection(at.vae)
        colours = projection(_small(clean_latents(at)))
        levels = colours.mul(255).round().to(torch.uint8)
        copy = host_copy(levels)  # who encodes waits for the device
        return Preview(step, copy.tensor, copy.ready)

    def _projection(self, vae: Any) -> Projection:
        known = self._projections.get(vae)
        if known is None:
            known = self._projections[vae] = _learned(vae)
        if isinstance(known, Unsupported):
            raise Unsupported(known.message)
        return known


def _learned(vae: Any) -> Projection | Unsupported:
    try:
        return fitted(vae)
    except Unsupported as error:
        return Unsupported(error.message)
    except Exception as error:
        kind = type(vae).__name__
        log.warning("No previews with %s: its colours could not be learned (%s).", kind, error)
        return Unsupported(f"The colours of its autoencoder could not be learned: {error}")


def _small(latents: Tensor) -> Tensor:
    """[channels, height, width], no side over ``SIDE``."""
    scale = SIDE / max(latents.shape[1:])
    if scale >= 1:
        return latents
    height, width = (max(1, round(side * scale)) for side in latents.shape[1:])
    return functional.adaptive_avg_pool2d(latents, (height, width))
