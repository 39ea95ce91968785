"""What a sound is to be like, and how long its model can make it. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from serve_app.domain.artifact import MEDIA_TYPES
from serve_app.domain.endpoint import Endpoint
from serve_app.domain.errors import InvalidInput, Misconfigured

DURATIONS = ("seconds_total", "duration")
"""fal's names for how long it is to last, in seconds."""

STEPS = ("num_inference_steps", "steps", "number_of_steps")
"""fal's names for the number of denoising steps."""


@dataclass(frozen=True, slots=True)
class SoundForm:
    """Type and length."""

    media_type: str
    rate: int  # samples a second
    seconds: float

    @property
    def samples(self) -> int:
        """Of each channel."""
        return max(1, round(self.seconds * self.rate))


@dataclass(frozen=True, slots=True)
class SoundOptions:
    """An endpoint's option ``sound``: which of the pipeline's arguments say when it begins and
    ends, or how long it lasts, all in seconds, and which takes a sound."""

    length: str | None = None
    start: str | None = None
    end: str | None = None
    given: str | None = None  # takes the samples of a given sound
    given_rate: str | None = None  # takes how many they are a second
    seconds: float | None = None  # where the input does not say it
    most_seconds: float | None = None  # None: as the pipeline tells it, or without a limit
    output: str = "audio"  # the field of the output that is the file
    prompt: str = "prompt"  # the field of the input that is the prompt
    echo: tuple[str, ...] = ()  # fields of the input that the output repeats

    def arguments(self) -> frozenset[str]:
        """Those of the pipeline."""
        named = (self.length, self.start, self.end, self.given, self.given_rate)
        return frozenset(each for each in named if each is not None)


def sound_options(endpoint: Endpoint) -> SoundOptions:
    """``Misconfigured`` names the endpoint and what is wrong with its option."""
    given = endpoint.options.get("sound", {})
    wanted = f"{endpoint.id}: `options.sound` in the catalogue"
    if not isinstance(given, Mapping):
        raise Misconfigured(f"{wanted} has to be a mapping.")
    told = cast("Mapping[str, Any]", given)
    if unknown := sorted(told.keys() - set(SoundOptions.__slots__)):
        known = ", ".join(SoundOptions.__slots__)
        raise Misconfigured(f"{wanted} has no {', '.join(unknown)}; it has {known}.")
    options = SoundOptions(**told)
    if (options.length is None) == (options.end is None):
        raise Misconfigured(f"{wanted} needs either `length` or `end`, an argument's name.")
    return options


def sound_form(
    endpoint: Endpoint,
    options: SoundOptions,
    input: Mapping[str, Any],
    rate: int,
    most: float,
    given_s: float | None = None,
) -> SoundForm:
    """``rate``: samples a second of what the model makes. ``most``: seconds that it can make.
    ``given_s``: how long the given sound lasts, if there is one. ``InvalidInput`` for a sound that
    is longer."""
    field = next((name for name in DURATIONS if input.get(name) is not None), DURATIONS[0])
    seconds = input.get(field)
    if seconds is None:
        seconds = options.seconds if given_s is None else given_s
    if seconds is None:
        raise InvalidInput.of_field(field, "Field required", "missing")
    began = _start(input)
    if began + float(seconds) > most:
        first = f" from second {began:g} on" if began else ""
        message = f"{endpoint.id} makes at most {most - began:.2f} seconds{first}"
        raise InvalidInput.of_field(field, message, "audio_duration_too_long")
    media_type = MEDIA_TYPES[str(input.get("output_format") or "wav")]
    return SoundForm(media_type, rate, float(seconds))


def span(options: SoundOptions, input: Mapping[str, Any], form: SoundForm) -> dict[str, float]:
    """The arguments that say when it begins and ends."""
    began = _start(input)
    told = {options.length: form.seconds, options.start: began, options.end: began + form.seconds}
    return {name: seconds for name, seconds in told.items() if name is not None}


def asked_steps(input: Mapping[str, Any]) -> int:
    """``InvalidInput`` where no field says it: the schema ``open`` checks none."""
    for name in STEPS:
        if input.get(name) is not None:
            return int(input[name])
    raise InvalidInput.of_field(STEPS[0], "Field required", "missing")


def _start(input: Mapping[str, Any]) -> float:
    return float(input.get("seconds_start") or 0.0)
