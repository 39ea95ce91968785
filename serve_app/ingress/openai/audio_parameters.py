"""Translation of OpenAI's audio parameters to the fields of an endpoint's input."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field

from serve_app.domain.errors import InvalidInput, Unsupported
from serve_app.ingress.openai.parameters import Parameters, not_here
from serve_app.ingress.openai.transcripts import TranscriptFormat
from serve_app.ingress.submission.model_lookup import EndpointFields

AUDIO = "audio_url"
TEXTS = ("text", "input", "prompt")
"""Fields of endpoints for the text to speak; the first that an endpoint has."""

NAMES: Mapping[str, str] = {AUDIO: "file", "chunk_level": "timestamp_granularities"}
"""Field of an endpoint's input → OpenAI's parameter of a transcription that sets it."""
SPOKEN_NAMES: Mapping[str, str] = {**dict.fromkeys(TEXTS, "input"), "format": "response_format"}
"""The same for speech."""

Task = Literal["transcribe", "translate"]


class TranslationParameters(Parameters):
    """OpenAI's parameters of ``audio/translations``."""

    model: str | None = Field(
        default=None, description="Id of an endpoint, or an alias. Default: `whisper-1`."
    )
    prompt: str | None = None
    response_format: TranscriptFormat | None = None
    temperature: float | None = Field(default=None, ge=0, le=1)


class TranscriptionParameters(TranslationParameters):
    """OpenAI's parameters of ``audio/transcriptions``."""

    language: str | None = None
    timestamp_granularities: list[Literal["word", "segment"]] | None = None
    chunking_strategy: Literal["auto"] | None = None
    stream: bool | None = None


class SpeechParameters(Parameters):
    """OpenAI's parameters of ``audio/speech``."""

    input: str
    model: str | None = Field(
        default=None, description="Id of an endpoint, or an alias. Default: `tts-1`."
    )
    voice: str | dict[str, Any] | None = None
    instructions: str | None = None
    response_format: Literal["mp3", "opus", "aac", "flac", "wav", "pcm"] | None = None
    speed: float | None = Field(default=None, ge=0.25, le=4)
    stream_format: Literal["audio", "sse"] | None = None


def level_of(parameters: TranslationParameters) -> Literal["none", "segment", "word"]:
    """Parts of the transcript that get times. ``InvalidInput``: both words and segments."""
    timed = parameters.response_format in ("srt", "vtt", "verbose_json")
    levels = (
        set(parameters.timestamp_granularities or ())
        if isinstance(parameters, TranscriptionParameters)
        else set[str]()
    )
    name = "timestamp_granularities"
    if levels and parameters.response_format != "verbose_json":
        raise InvalidInput.of_field(name, "Set `response_format` to `verbose_json` with it")
    if len(levels) > 1:
        raise not_here(name, "a request times words or segments, not both")
    if "word" in levels:
        return "word"
    return "segment" if timed else "none"


def transcription_input(
    parameters: TranslationParameters, task: Task, fields: EndpointFields
) -> dict[str, Any]:
    """Build the endpoint's input, without the audio. ``InvalidInput`` names each parameter that it
    cannot apply."""
    arguments = parameters.own_fields(fields)
    level = level_of(parameters)
    if fields.accepts("task"):
        arguments["task"] = task
    elif task == "translate":
        raise Unsupported(f"{fields.endpoint.id} cannot translate: its input has no field `task`.")
    if fields.accepts("chunk_level"):
        arguments["chunk_level"] = level
    language = parameters.language if isinstance(parameters, TranscriptionParameters) else None
    for name, value in (("language", language), ("prompt", parameters.prompt)):
        if value:
            arguments[_field(fields, name)] = value
    if parameters.temperature:  # 0 is what endpoints without the field do
        arguments[_field(fields, "temperature")] = parameters.temperature
    return arguments


def speech_input(parameters: SpeechParameters, fields: EndpointFields) -> dict[str, Any]:
    """Build the endpoint's input. ``InvalidInput`` names each parameter that it cannot apply."""
    text = fields.first_accepted(*TEXTS)
    if text is None:
        raise Unsupported(f"{fields.endpoint.id} does not speak: its input has no text.")
    if parameters.stream_format == "sse":
        raise not_here("stream_format", "the audio comes as one file, at its end")
    arguments = parameters.own_fields(fields)
    voice = parameters.voice.get("id") if isinstance(parameters.voice, dict) else parameters.voice
    if voice and fields.accepts("voice"):  # clients cannot leave it out
        arguments["voice"] = voice
    if parameters.instructions:
        arguments[_field(fields, "instructions")] = parameters.instructions
    if parameters.speed is not None and (parameters.speed != 1 or "speed" in fields):
        arguments[_field(fields, "speed")] = parameters.speed
    return {text: parameters.input} | arguments | _speech_format(parameters.response_format, fields)


USUAL_FORMAT = "mp3"
"""OpenAI's format for calls that name none: programs save what comes as such a file."""

FORMAT_FIELDS = ("response_format", "output_format", "format")
SPELLED = {"opus": "ogg"}
"""OpenAI's name of a format → name that endpoints may have for it."""


def _speech_format(response_format: str | None, fields: EndpointFields) -> dict[str, Any]:
    """Field for the format of the audio. An endpoint without one is taken to make WAV."""
    name = next((field_name for field_name in FORMAT_FIELDS if field_name in fields), None)
    if name is None:
        if response_format not in (None, "wav"):
            raise not_here("response_format", "this endpoint makes wav: ask for it, or for none")
        return {}
    choices, format_name = fields.choices(name), response_format or USUAL_FORMAT
    if response_format is not None and not choices:
        return {name: response_format}
    choice = fields.first_choice(name, format_name, SPELLED.get(format_name))
    if response_format is not None and choice is None:
        raise not_here("response_format", f"this endpoint makes {', '.join(map(str, choices))}")
    return {} if choice is None else {name: choice}


def _field(fields: EndpointFields, name: str) -> str:
    if not fields.accepts(name):
        raise not_here(name, f"{fields.endpoint.id} has no such field")
    return name
