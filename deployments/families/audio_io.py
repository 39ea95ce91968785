"""Audio of the families: format and duration, input audio, and the output in fal's format.

Importing this module does not import torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from deployments.families.base import (
    GenerationResult,
    MediaFile,
    Product,
    demo_facts,
    file_entry,
    first_output,
    image_entry,
)
from serve_app.domain.artifact import EXTENSIONS, MEDIA_TYPES, UploadTicket
from serve_app.domain.endpoint import Endpoint
from serve_app.domain.errors import InvalidInput, Misconfigured

if TYPE_CHECKING:
    from torch import Tensor

    from deployments.engine.media.audio import InputAudio, Samples

DURATIONS = ("seconds_total", "duration")
"""fal's field names for the duration in seconds."""

STEPS = ("num_inference_steps", "steps", "number_of_steps")
"""fal's field names for the number of denoising steps."""


@dataclass(frozen=True, slots=True)
class AudioForm:
    """Media type, sample rate and duration of an audio file."""

    media_type: str
    rate: int  # Hz
    seconds: float

    @property
    def samples(self) -> int:
        """Number of samples per channel."""
        return max(1, round(self.seconds * self.rate))


@dataclass(frozen=True, slots=True)
class AudioOptions:
    """An endpoint's option ``audio``: names of the pipeline arguments for start and end, or the
    duration (all in seconds), and for the input audio."""

    length: str | None = None
    start: str | None = None
    end: str | None = None
    input: str | None = None  # argument for the samples of the input audio
    input_rate: str | None = None  # argument for their sample rate
    seconds: float | None = None  # duration if the input has none
    most_seconds: float | None = None  # None: derived from the pipeline, or without a limit
    output: str = "audio"  # the field of the output that is the file
    prompt: str = "prompt"  # the field of the input that is the prompt
    echo: tuple[str, ...] = ()  # fields of the input that the output repeats

    def arguments(self) -> frozenset[str]:
        """Names of the pipeline arguments in use."""
        named = (self.length, self.start, self.end, self.input, self.input_rate)
        return frozenset(name for name in named if name is not None)


def audio_options(endpoint: Endpoint) -> AudioOptions:
    """Read and check the option. ``Misconfigured`` names the endpoint and the problem."""
    declared = endpoint.options.get("audio_format", {})
    subject = f"{endpoint.id}: `options.audio_format` in the catalogue"
    if not isinstance(declared, Mapping):
        raise Misconfigured(f"{subject} must be a mapping.")
    settings = cast("Mapping[str, Any]", declared)
    if unknown := sorted(settings.keys() - set(AudioOptions.__slots__)):
        known = ", ".join(AudioOptions.__slots__)
        raise Misconfigured(f"{subject} has no key {', '.join(unknown)}. Its keys are: {known}.")
    options = AudioOptions(**settings)
    if (options.length is None) == (options.end is None):
        raise Misconfigured(f"{subject} needs either `length` or `end`, the name of an argument.")
    return options


def audio_form(
    endpoint: Endpoint,
    options: AudioOptions,
    input: Mapping[str, Any],
    rate: int,
    limit_s: float,
    given_s: float | None = None,
) -> AudioForm:
    """Format of the audio to deliver. ``rate`` is the model's sample rate in Hz, ``limit_s`` its
    maximum duration in seconds, ``given_s`` the duration of the input audio, if there is one.
    Raises ``InvalidInput`` if the requested duration is too long."""
    field = next((name for name in DURATIONS if input.get(name) is not None), DURATIONS[0])
    seconds = input.get(field)
    if seconds is None:
        seconds = options.seconds if given_s is None else given_s
    if seconds is None:
        raise InvalidInput.of_field(field, "Field required", "missing")
    began = _start(input)
    if began + float(seconds) > limit_s:
        first = f" from second {began:g} on" if began else ""
        message = f"{endpoint.id} makes at most {limit_s - began:.2f} seconds{first}"
        raise InvalidInput.of_field(field, message, "audio_duration_too_long")
    media_type = MEDIA_TYPES[str(input.get("output_format") or "wav")]
    return AudioForm(media_type, rate, float(seconds))


def duration_arguments(
    options: AudioOptions, input: Mapping[str, Any], form: AudioForm
) -> dict[str, float]:
    """Pipeline arguments for start and end or duration."""
    began = _start(input)
    arguments = {
        options.length: form.seconds,
        options.start: began,
        options.end: began + form.seconds,
    }
    return {name: seconds for name, seconds in arguments.items() if name is not None}


def requested_steps(input: Mapping[str, Any]) -> int:
    """Number of steps. ``InvalidInput`` if it is missing: the schema ``open`` does not check it."""
    if (steps := steps_in(input)) is None:
        raise InvalidInput.of_field(STEPS[0], "Field required", "missing")
    return steps


def steps_in(input: Mapping[str, Any]) -> int | None:
    """Number of steps by any of its names; None: the input has none."""
    return next((int(input[name]) for name in STEPS if input.get(name) is not None), None)


def _start(input: Mapping[str, Any]) -> float:
    return float(input.get("seconds_start") or 0.0)


@dataclass(frozen=True, slots=True)
class AudioFacts:
    """Facts about an audio file that are kept until its samples are generated."""

    form: AudioForm
    seed: int
    prompt: str
    field: str  # of the output, for the file
    echoed: Mapping[str, Any]  # other input fields that the output repeats


def deliver_audio(
    endpoint: Endpoint,
    facts: AudioFacts,
    generated: GenerationResult,
    tickets: Sequence[UploadTicket],
) -> Product:
    """Encode the audio for the first ticket, and its waveform for the second, if there is one."""
    from deployments.engine.media.audio import limit_peak, write_audio  # noqa: PLC0415

    form, scratch = facts.form, generated.scratch
    _check_tickets(endpoint, form, tickets)
    samples = limit_peak(first_output(generated.result, "audios", "audio")[0], form.samples)
    path = scratch.new_file(EXTENSIONS[form.media_type])

    def on_part(done: int) -> None:
        scratch.check()
        scratch.on_made(done, samples.shape[1])

    write_audio(
        path,
        samples,
        form.rate,
        form.media_type,
        on_part,
        scratch.description,
        marked=scratch.marked,
    )
    files = [MediaFile(tickets[0], path)]
    output: dict[str, Any] = {
        facts.field: {
            **file_entry(files[0]),
            "duration": round(samples.shape[1] / form.rate, 4),
            "sample_rate": form.rate,
            "channels": samples.shape[0],
        },
        "seed": facts.seed,
        "prompt": facts.prompt,
        **facts.echoed,
        "timings": {"inference": round(generated.inference_s, 4)},
    }
    if len(tickets) > 1:
        file, output["waveform"] = _waveform(samples, tickets[1], marked=scratch.marked)
        files.append(file)
    output |= demo_facts(endpoint, facts.prompt)
    return Product(output, files, units=form.seconds)


def _check_tickets(endpoint: Endpoint, form: AudioForm, tickets: Sequence[UploadTicket]) -> None:
    if not tickets or tickets[0].media_type != form.media_type:
        types = ", ".join(ticket.media_type for ticket in tickets) or "none"
        raise Misconfigured(
            f"{endpoint.id} makes audio as {form.media_type}, but the lease has tickets for "
            f"{types}."
        )


def _waveform(
    samples: Samples, ticket: UploadTicket, *, marked: bool
) -> tuple[MediaFile, Mapping[str, Any]]:
    """File with an image of the waveform, and its entry in the output."""
    from deployments.engine.media.audio import HEIGHT, WIDTH, waveform  # noqa: PLC0415
    from deployments.engine.media.images import encode  # noqa: PLC0415

    body = encode(waveform(samples), ticket.media_type, marked=marked)
    file = MediaFile(ticket, body, WIDTH, HEIGHT)
    return file, image_entry(file)


# Input audio.

FIELD = "audio_url"


def input_samples(input: Mapping[str, Any], pipeline: Any, rate: int, most_s: float) -> Tensor:
    """Samples [1, channels, samples], -1 to 1, at most ``most_s`` seconds. Number of channels and
    dtype are the autoencoder's."""
    import torch  # noqa: PLC0415

    audio: InputAudio = input[FIELD]
    vae = pipeline.vae
    channels = getattr(vae.config, "audio_channels", None) or 2
    return torch.from_numpy(audio.samples(rate, channels, most_s))[None].to(vae.dtype)


def input_arguments(options: AudioOptions, samples: Tensor, rate: int) -> dict[str, Any]:
    """Pipeline arguments for the input audio."""
    arguments = {options.input: samples, options.input_rate: rate}
    return {name: value for name, value in arguments.items() if name is not None}
