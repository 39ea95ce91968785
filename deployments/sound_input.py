"""The samples of a sound that the input names, as a model takes them. Importing it imports no
torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from deployments.sound_form import SoundOptions

if TYPE_CHECKING:
    from torch import Tensor

    from deployments.engine.sound_reading import GivenSound

FIELD = "audio_url"


def given_samples(input: Mapping[str, Any], pipeline: Any, rate: int, most_s: float) -> Tensor:
    """[1, channels, samples], -1 to 1, of at most ``most_s`` seconds: in as many channels as the
    autoencoder has, and in its type."""
    import torch  # noqa: PLC0415

    sound: GivenSound = input[FIELD]
    vae = pipeline.vae
    channels = getattr(vae.config, "audio_channels", None) or 2
    return torch.from_numpy(sound.samples(rate, channels, most_s))[None].to(vae.dtype)


def given_as(options: SoundOptions, samples: Tensor, rate: int) -> dict[str, Any]:
    """The arguments that take it."""
    told = {options.given: samples, options.given_rate: rate}
    return {name: value for name, value in told.items() if name is not None}
