"""Estimate of the clean latents of a suspended generation, as its decoder will get them."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from deployments.engine.interception.components import is_autoencoder, modules_of
from deployments.engine.interception.proxy import ComponentCall
from deployments.engine.interception.solver_step import SolverStep
from deployments.engine.merging.arguments import tensors_in
from deployments.engine.preview.rest_of_call import SuspendedFrame, next_call, pipeline_of
from serve_app.domain.errors import Unsupported


@dataclass(frozen=True, slots=True, eq=False)
class DecoderInput:
    """What a decoder would get of a generation's images or videos."""

    autoencoder: Any  # of these latents; None: they are the images, with values from -1 to 1
    latents: Tensor
    is_video: bool

    def of_one_image(self) -> Tensor:
        """Latents of the first image, or of the middle frame of the first video: [channels,
        height, width], float32. Raises ``Unsupported`` if they are not arranged as images."""
        latents = self.latents
        match latents.ndim:
            case 5:
                return latents[0, :, latents.shape[2] // 2].float()
            case 4:  # some decode the frames of a video as images
                return latents[len(latents) // 2 if self.is_video else 0].float()
            case _:
                shape = tuple(latents.shape)
                raise Unsupported(f"Latents of shape {shape} are not arranged as an image.")


def decoder_input(frames: Sequence[SuspendedFrame], last: SolverStep | None) -> DecoderInput:
    """Estimate of what the decoder of a suspended generation will get.

    ``last``: the last step; None if it is not known, and the latents then stay as noisy as they
    are. Raises ``Unsupported`` when there is no image to show.
    """
    pipeline = pipeline_of(frames)
    stepped, clean = (None, None) if last is None else _estimate(last)
    is_video = clean is not None and clean.ndim == 5
    name = type(pipeline).__name__
    if not _autoencoders(pipeline):
        if clean is None or clean.ndim != 4 or clean.shape[1] != 3:
            raise Unsupported(f"{name} has no image autoencoder.")
        return DecoderInput(None, clean, is_video)
    call = _next_call(frames, stepped, clean)
    if call is None:
        raise Unsupported(f"{name} decodes nothing after its last step.")
    if call.method != "decode":
        raise Unsupported(
            f"{name} calls its {call.component} between its last step and its decoder, and a "
            "preview computes no model."
        )
    latents = next(iter(tensors_in([call.arguments, call.keywords])))
    return DecoderInput(_with_encoder(call.module, pipeline), latents, is_video)


def _next_call(
    frames: Sequence[SuspendedFrame], stepped: Tensor | None, clean: Tensor | None
) -> ComponentCall | None:
    """Call of the decoder; see ``next_call``. Helios makes its first steps with smaller latents,
    which do not fit what comes after the last one."""
    if clean is None or clean.ndim < 4:
        return next_call(frames, stepped, clean)
    for times in (1, 2):
        with suppress(RuntimeError):
            return next_call(frames, stepped, _enlarged(clean, times))
    return next_call(frames, stepped, _enlarged(clean, 4))


def _enlarged(latents: Tensor, times: int) -> Tensor:
    return latents.repeat_interleave(times, -1).repeat_interleave(times, -2)


def _estimate(last: SolverStep) -> tuple[Tensor | None, Tensor | None]:
    """Output of a step, and the clean latents that it was made with; the same if unknown."""
    stepped = next(iter(tensors_in(last.output)), None)
    clean = last.clean_latents()
    if stepped is None or clean is None or clean.shape != stepped.shape:
        clean = stepped
    return stepped, None if clean is None else clean.clone()


def _autoencoders(pipeline: Any) -> list[Any]:
    modules = (module for _, module in modules_of(pipeline) if is_autoencoder(type(module)))
    return [module for module in modules if hasattr(module, "decode")]


def _with_encoder(decoder: Any, pipeline: Any) -> Any:
    """The autoencoder of a decoder's latents: LTX-2.5's decoder is none itself."""
    if hasattr(decoder, "encode"):
        return decoder
    channels = getattr(decoder.config, "latent_channels", None)
    for other in _autoencoders(pipeline):
        if hasattr(other, "encode") and other.config.get("latent_channels") == channels:
            return getattr(other, "real_module", other)
    return decoder
