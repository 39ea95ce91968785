"""Latents of a suspended generation, read from its frames and scaled for its autoencoder."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from deployments.engine.interception.pipeline import main_scheduler
from deployments.engine.interception.schedulers import kept_estimate, sigma_of
from deployments.engine.interception.stack_frames import frames_of_the_pipeline, read
from serve_app.domain.errors import Unsupported


@dataclass(frozen=True, slots=True)
class SchedulerParams:
    """Unit-size latents as ``signal`` times the image plus ``noise`` times noise.

    Both are tensors without dimensions: reading a number from a GPU would wait for the device.
    """

    signal: Tensor
    noise: Tensor

    @classmethod
    def at_sigma(cls, sigma: Tensor) -> SchedulerParams:
        size = (sigma**2 + 1).sqrt()
        return cls(1 / size, sigma / size)

    @classmethod
    def of_share(cls, kept: Tensor) -> SchedulerParams:
        """``kept``: the image's share of the variance."""
        return cls(kept.sqrt(), (1 - kept).sqrt())


_MIN_SIGNAL = 0.01  # some schedules begin with a signal of 0


def estimate_clean_latents(
    latents: Tensor, prediction: Tensor | None, solver: Any, timestep: Any
) -> Tensor:
    """Estimate the latents without noise from the last prediction; same shape, float32.

    ``latents``: the current latents. ``prediction``: the denoiser's last output, with guidance, or
    None. ``timestep``: the timestep of the pending call. For an unknown scheduler, the result is
    ``latents``, scaled to the size of an image's latents.

    A deterministic first-order step moves the latents along the prediction. Therefore the old
    prediction with the current noise level gives exactly the estimate that the step was made with.
    """
    latents = latents.float()
    if (kept := _kept_by(solver, latents)) is not None:
        return kept.float()
    predicted = prediction.float() if prediction is not None else None
    sigma = sigma_of(solver)
    if sigma is not None and _is_flow(solver):
        return latents if predicted is None else latents - sigma * predicted
    if sigma is not None and _grows_with_noise(solver):
        now, before = (
            SchedulerParams.at_sigma(sigma),
            SchedulerParams.at_sigma(sigma_of(solver, ago=1)),
        )
        latents = latents * now.signal
    else:
        now = _mixture(solver, timestep)
        before = _mixture(solver, _timestep_before(solver, timestep))
    if predicted is None or now is None or before is None:
        return latents
    kind = getattr(getattr(solver, "config", None), "prediction_type", None)
    return _image_in(latents, predicted, str(kind), now, before)


def _image_in(
    latents: Tensor, predicted: Tensor, kind: str, now: SchedulerParams, before: SchedulerParams
) -> Tensor:
    """Image estimate. ``before``: the mixture at the timestep of the prediction."""
    match kind:
        case "epsilon":
            return (latents - now.noise * predicted) / now.signal.clamp(min=_MIN_SIGNAL)
        case "v_prediction":  # v = signal · noise - noise · image
            scale = before.signal * now.signal + before.noise * now.noise
            return (before.signal * latents - now.noise * predicted) / scale
        case "sample":
            return predicted
        case _:
            return latents


def _kept_by(solver: Any, latents: Tensor) -> Tensor | None:
    """Estimate that the scheduler keeps itself, as multi-order schedulers do; else None."""
    last = kept_estimate(solver)
    if last is None or last.shape[1:] != latents.shape[1:]:
        return None
    return last[: len(latents)]


def _is_flow(solver: Any) -> bool:
    kind = getattr(getattr(solver, "config", None), "prediction_type", None)
    return kind == "flow_prediction" or type(solver).__name__.startswith("FlowMatch")


def _grows_with_noise(solver: Any) -> bool:
    """Return whether its latents are the image plus sigma times noise.

    This holds for Euler and similar schedulers. For these, the pipeline scales the latents to unit
    size before it calls the denoiser.
    """
    return hasattr(solver, "is_scale_input_called")


def _mixture(solver: Any, timestep: Any) -> SchedulerParams | None:
    shares = getattr(solver, "alphas_cumprod", None)
    if not isinstance(shares, Tensor) or timestep is None:
        return None
    at = torch.as_tensor(timestep).flatten()[:1].long()
    return SchedulerParams.of_share(shares.to(at.device)[at.clamp(0, len(shares) - 1)][0])


def _timestep_before(solver: Any, timestep: Any) -> Tensor | None:
    """Timestep of the last completed step: the next greater one."""
    timesteps = getattr(solver, "timesteps", None)
    if not isinstance(timesteps, Tensor) or timestep is None:
        return None
    passed = (timesteps > torch.as_tensor(timestep, device=timesteps.device).flatten()[:1]).sum()
    return timesteps[(passed - 1).clamp(min=0)]


_AUTOENCODERS = ("vae", "movq", "vqvae")

_PREDICTIONS = ("noise_pred", "velocity", "pred_velocity", "vt", "model_pred", "noise_prediction")
"""Names of what a pipeline's loop hands to its scheduler."""


@dataclass(frozen=True, slots=True)
class DecoderParams:
    """Local variables of the pipeline's loop, under the names that diffusers' pipelines share."""

    pipeline: Any
    names: Mapping[str, Any]  # local variables

    @property
    def vae(self) -> Any:
        """The pipeline's image autoencoder. Raises ``Unsupported`` if there is none."""
        for name in _AUTOENCODERS:
            if (component := getattr(self.pipeline, name, None)) is not None:
                return getattr(component, "real_module", component)
        raise Unsupported(f"{type(self.pipeline).__name__} has no image autoencoder.")


def decoder_params() -> DecoderParams:
    """Read the innermost frame with latents; called inside the generation.

    Raises ``Unsupported`` if there is none.
    """
    for frame in frames_of_the_pipeline():
        names = read(frame)
        # A block of a modular pipeline has the pipeline and its variables as arguments.
        state, pipeline = names.get("block_state"), names.get("components")
        if pipeline is not None and isinstance(getattr(state, "latents", None), Tensor):
            return DecoderParams(pipeline, {**names, **vars(state)})
        if isinstance(names.get("latents"), Tensor) and "self" in names:
            return DecoderParams(names["self"], names)
    raise Unsupported("The pipeline has no variable `latents` where it calls its denoiser.")


def clean_latents(at: DecoderParams) -> Tensor:
    """Estimate the clean latents for the decoder: [channels, height, width], float32.

    They are those of the first image, or of the middle frame of the first video, without noise.
    Raises ``Unsupported`` when the latents are not arranged as an image.
    """
    names, vae = at.names, at.vae
    channels = _channels(vae)
    latents = names["latents"]
    if latents.ndim == 5 and channels is not None and latents.shape[-1] == 2 * channels + 1:
        latents = latents[..., :channels]  # Kandinsky 5 has a condition and its mask behind them
    predictions = (names[name] for name in _PREDICTIONS if isinstance(names.get(name), Tensor))
    prediction = next((tensor for tensor in predictions if tensor.shape == latents.shape), None)
    clean = estimate_clean_latents(
        latents[:1],
        None if prediction is None else prediction[:1],
        main_scheduler(at.pipeline),
        names.get("t"),
    )
    if clean.ndim == 3:
        clean = _unpack_tokens(at, clean)
    if clean.ndim == 5:
        clean = _middle_frame(clean, channels)
    clean = _as_decoded(at, clean)
    if clean.ndim != 4 or channels not in (None, clean.shape[1]):
        raise Unsupported(f"Latents of shape {tuple(latents.shape)} are not arranged as an image.")
    return clean[0]


def _middle_frame(video: Tensor, channels: int | None) -> Tensor:
    """Select the middle frame of a video.

    Channels come first; or last, as in Kandinsky 5; or after the frames, as in CogVideoX.
    """
    for place in (1, -1, 2):
        if video.shape[place] == channels:
            video = video.movedim(place, 1)
            break
    return video[:, :, video.shape[2] // 2]


def _unpack_tokens(at: DecoderParams, latents: Tensor) -> Tensor:
    """Arrange tokens as an image or video with the pipeline's own function."""
    if (unpack := getattr(at.pipeline, "_unpack_latents_with_ids", None)) is not None:  # FLUX.2
        if (places := at.names.get("latent_ids")) is None:
            raise Unsupported("The pipeline does not say where the latents' tokens belong.")
        return torch.stack(list(unpack(latents, places[:1])))
    if (unpack := getattr(at.pipeline, "_unpack_latents", None)) is None:
        raise Unsupported(
            f"The latents of {type(at.pipeline).__name__} are not arranged as an image, and it has "
            "no function that arranges them."
        )
    parameters = list(inspect.signature(unpack).parameters.values())[1:]
    videos = any(candidate.name == "num_frames" for candidate in parameters)
    arguments: dict[str, Any] = {}
    for parameter in parameters:
        if (value := _unpacking_argument(at, parameter.name, videos=videos)) is not None:
            arguments[parameter.name] = value
        elif parameter.default is inspect.Parameter.empty:
            raise Unsupported(f"The pipeline does not say the {parameter.name} of the latents.")
    return unpack(latents, **arguments)


def _unpacking_argument(at: DecoderParams, name: str, *, videos: bool) -> Any:
    """Value that pipelines pass for a parameter of their unpacking function.

    For ``videos`` (video), sizes are in latents; otherwise in pixels.
    """
    own = vars(at.pipeline)
    match name:
        case "patch_size":
            return own.get("transformer_spatial_patch_size")
        case "patch_size_t":
            return own.get("transformer_temporal_patch_size")
        case "num_frames" | "height" | "width" if videos:
            return at.names.get(f"latent_{name}")
        case _:
            return at.names.get(name, own.get(name))


def _as_decoded(at: DecoderParams, latents: Tensor) -> Tensor:
    """Scale latents for the decoder. Pipelines denoise latents of about unit size."""
    vae = at.vae
    normed, unpatchify = getattr(vae, "bn", None), getattr(at.pipeline, "_unpatchify_latents", None)
    if normed is not None and unpatchify is not None:  # FLUX.2
        deviation = (normed.running_var + vae.config.batch_norm_eps).sqrt()
        mean = normed.running_mean
        return unpatchify(latents * _by_channel(deviation, latents) + _by_channel(mean, latents))
    mean, deviation = _config_value(vae, "latents_mean"), _config_value(vae, "latents_std")
    scale = _config_value(vae, "scaling_factor") or 1.0
    if mean is None or deviation is None:
        return latents / scale + (_config_value(vae, "shift_factor") or 0.0)
    return latents * _by_channel(deviation, latents) / scale + _by_channel(mean, latents)


def _by_channel(values: Any, latents: Tensor) -> Tensor:
    channels = latents.shape[1]
    values = torch.as_tensor(values).to(latents)
    return values.view(channels, -1).mean(dim=1).view(1, -1, 1, 1)  # Cosmos has values per frame


def _config_value(vae: Any, name: str) -> Any:
    """Value from the configuration, or else from a buffer."""
    value = getattr(vae.config, name, None)
    return dict(vae.named_buffers(recurse=False)).get(name) if value is None else value


def _channels(vae: Any) -> int | None:
    return getattr(vae.config, "latent_channels", None) or getattr(vae.config, "z_dim", None)
