"""The latents of a suspended generation as its autoencoder knows them, read from its frames."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from deployments.engine.denoised import denoised
from deployments.engine.frame import frames_of_the_pipeline
from deployments.engine.interception import main_solver
from serve_app.domain.errors import Unsupported

_AUTOENCODERS = ("vae", "movq", "vqvae")


@dataclass(frozen=True, slots=True)
class Standing:
    """What the frame of a pipeline's loop holds, by the names that diffusers' pipelines share."""

    pipeline: Any
    names: Mapping[str, Any]  # its local variables

    @property
    def vae(self) -> Any:
        """``Unsupported`` without one."""
        for name in _AUTOENCODERS:
            if (found := getattr(self.pipeline, name, None)) is not None:
                return getattr(found, "real_module", found)
        raise Unsupported(f"{type(self.pipeline).__name__} has no autoencoder of pictures.")


def standing() -> Standing:
    """Of the innermost frame with latents; called inside the generation. ``Unsupported`` where
    there is none."""
    for frame in frames_of_the_pipeline():
        names = frame.f_locals
        if isinstance(names.get("latents"), Tensor) and "self" in names:
            return Standing(names["self"], dict(names))
    raise Unsupported("The pipeline has no variable `latents` where it calls its denoiser.")


def clean_latents(at: Standing) -> Tensor:
    """[channels, height, width], float32, as the decoder takes them: the first picture, or the
    middle frame of the first clip, with the noise taken off. ``Unsupported`` where they do not
    lie like a picture."""
    names, vae = at.names, at.vae
    latents, prediction = names["latents"], names.get("noise_pred")
    if not isinstance(prediction, Tensor) or prediction.shape != latents.shape:
        prediction = None
    found = denoised(
        latents[:1],
        None if prediction is None else prediction[:1],
        main_solver(at.pipeline),
        names.get("t"),
    )
    if found.ndim == 3:
        found = _unpacked(at, found)
    channels = _channels(vae)
    if found.ndim == 5:
        found = _middle_frame(found, channels)
    found = _as_decoded(at, found)
    if found.ndim != 4 or channels not in (None, found.shape[1]):
        raise Unsupported(f"Latents of the shape {tuple(latents.shape)} do not lie like a picture.")
    return found[0]


def _middle_frame(clip: Tensor, channels: int | None) -> Tensor:
    """Channels stand first; or last, as in Kandinsky 5; or after the frames, as in CogVideoX."""
    for place in (1, -1, 2):
        if clip.shape[place] == channels:
            clip = clip.movedim(place, 1)
            break
    return clip[:, :, clip.shape[2] // 2]


def _unpacked(at: Standing, latents: Tensor) -> Tensor:
    """Tokens in their places, by the pipeline's own function."""
    if (unpack := getattr(at.pipeline, "_unpack_latents_with_ids", None)) is not None:  # FLUX.2
        if (places := at.names.get("latent_ids")) is None:
            raise Unsupported("Nothing says where the latents' tokens lie.")
        return torch.stack(list(unpack(latents, places[:1])))
    if (unpack := getattr(at.pipeline, "_unpack_latents", None)) is None:
        raise Unsupported(
            f"{type(at.pipeline).__name__} has latents that do not lie like a picture, and no "
            "function that lays them so."
        )
    parameters = list(inspect.signature(unpack).parameters.values())[1:]
    clips = any(each.name == "num_frames" for each in parameters)
    given: dict[str, Any] = {}
    for each in parameters:
        if (value := _told_of(at, each.name, clips=clips)) is not None:
            given[each.name] = value
        elif each.default is inspect.Parameter.empty:
            raise Unsupported(f"Nothing says the {each.name} of the latents.")
    return unpack(latents, **given)


def _told_of(at: Standing, name: str, *, clips: bool) -> Any:
    """What pipelines call their own unpacking with, by their habits. Of ``clips``, sizes are in
    latents; else in pixels."""
    own = vars(at.pipeline)
    match name:
        case "patch_size":
            return own.get("transformer_spatial_patch_size")
        case "patch_size_t":
            return own.get("transformer_temporal_patch_size")
        case "num_frames" | "height" | "width" if clips:
            return at.names.get(f"latent_{name}")
        case _:
            return at.names.get(name, own.get(name))


def _as_decoded(at: Standing, latents: Tensor) -> Tensor:
    """Pipelines denoise latents of about unit size, and scale them back for the decoder."""
    vae = at.vae
    normed, unpatchify = getattr(vae, "bn", None), getattr(at.pipeline, "_unpatchify_latents", None)
    if normed is not None and unpatchify is not None:  # FLUX.2
        deviation = (normed.running_var + vae.config.batch_norm_eps).sqrt()
        mean = normed.running_mean
        return unpatchify(latents * _by_channel(deviation, latents) + _by_channel(mean, latents))
    mean, deviation = _told(vae, "latents_mean"), _told(vae, "latents_std")
    scale = _told(vae, "scaling_factor") or 1.0
    if mean is None or deviation is None:
        return latents / scale + (_told(vae, "shift_factor") or 0.0)
    return latents * _by_channel(deviation, latents) / scale + _by_channel(mean, latents)


def _by_channel(values: Any, latents: Tensor) -> Tensor:
    channels = latents.shape[1]
    values = torch.as_tensor(values).to(latents)
    return values.view(channels, -1).mean(dim=1).view(1, -1, 1, 1)  # Cosmos has some per frame


def _told(vae: Any, name: str) -> Any:
    """By its configuration, or by a buffer."""
    found = getattr(vae.config, name, None)
    return dict(vae.named_buffers(recurse=False)).get(name) if found is None else found


def _channels(vae: Any) -> int | None:
    return getattr(vae.config, "latent_channels", None) or getattr(vae.config, "z_dim", None)
