"""Calls ``audio/transcriptions``, ``audio/translations`` and ``audio/speech``."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from dataclasses import replace
from typing import Any

from starlette.requests import Request as HttpRequest
from starlette.responses import PlainTextResponse, Response, StreamingResponse

from darkroom.media_types import type_of_name
from serve_app.domain.artifact import Artifact
from serve_app.domain.endpoint import DEFAULT_SPEECH_MODEL, DEFAULT_TRANSCRIPTION_MODEL
from serve_app.domain.errors import InvalidInput, PipelineFailed, Unsupported
from serve_app.domain.media.data_uri import data_uri
from serve_app.domain.request import Request
from serve_app.ingress.http import sse
from serve_app.ingress.http.auth import authenticate
from serve_app.ingress.http.body import FormFile, is_form, read_form, read_json
from serve_app.ingress.http.errors import json_reply
from serve_app.ingress.http.json_schema import Binary
from serve_app.ingress.http.openapi import ANY, EVENTS, JSON, Answer, Operation, answer
from serve_app.ingress.http.origin import origin_of
from serve_app.ingress.http.stored_file import begin
from serve_app.ingress.openai.audio_parameters import (
    AUDIO,
    NAMES,
    SPOKEN_NAMES,
    SpeechParameters,
    Task,
    TranscriptionParameters,
    TranslationParameters,
    level_of,
    speech_input,
    transcription_input,
)
from serve_app.ingress.openai.errors import AT_END, AT_SUBMIT, ERRORS, TAG
from serve_app.ingress.openai.form import convert_types, unfold
from serve_app.ingress.openai.runs import run, validate_request
from serve_app.ingress.openai.transcripts import (
    OpenAiTranscript,
    OpenAiVerboseTranscript,
    Transcript,
    as_srt,
    as_vtt,
    verbose,
)
from serve_app.ingress.services.cpu_executor import in_cpu_thread
from serve_app.ingress.services.services import services_of
from serve_app.ingress.submission.model_lookup import EndpointFields, find_endpoint
from serve_app.ingress.submission.rendering import final_outcome, outcome_headers

FILE = "file"
TEXT = "text/plain"


async def transcriptions(request: HttpRequest) -> Response:
    """Write down what is said in an audio file."""
    return await _transcribe(request, TranscriptionParameters, "transcribe")


async def translations(request: HttpRequest) -> Response:
    """Write down in English what is said in an audio file."""
    return await _transcribe(request, TranslationParameters, "translate")


async def _transcribe(
    request: HttpRequest, parameters: type[TranslationParameters], task: Task
) -> Response:
    caller = await authenticate(request)
    services = services_of(request)
    if not is_form(request):
        raise InvalidInput("The call is not a form. Send the file as multipart/form-data.")
    form = await read_form(request, services.config.limits.max_body_bytes, most_files=1)
    unknown = sorted(form.files.keys() - {FILE})
    if unknown:
        raise InvalidInput.of_field(unknown[0], "Not supported here", "feature_not_supported")
    options = parameters.read(unfold(form.sent))
    entry = find_endpoint(services, caller, options.model or DEFAULT_TRANSCRIPTION_MODEL)
    fields = EndpointFields(entry)
    if not fields.accepts(AUDIO):
        raise Unsupported(f"{entry.endpoint.id} takes no audio: its input has no `{AUDIO}`.")
    arguments = transcription_input(convert_types(options, fields), task, fields)
    if files := form.files.get(FILE):
        arguments[AUDIO] = await in_cpu_thread(_audio_uri, files[0])
    elif AUDIO not in arguments:
        raise InvalidInput.of_field(FILE, "Field required", "missing")
    origin_of(request)  # may be refused, so check it before anything is stored
    new = await validate_request(
        request, caller, entry.endpoint.id, arguments, NAMES, model=options.model
    )

    async def reply(ended: Request) -> Response:
        output = final_outcome(ended).output or {}
        return _transcript_reply(Transcript.of_output(output, ended.endpoint), options, task, ended)

    return await run(request, new, NAMES, reply)


def _audio_uri(file: FormFile) -> str:
    """Data URI of a file, with the type that its name shows if the client sent none."""
    sent = file.media_type.partition(";")[0]
    if not sent.startswith(("audio/", "video/")):
        sent = type_of_name(file.name) or sent
    return data_uri(file.content, sent)


def _transcript_reply(
    transcript: Transcript, parameters: TranslationParameters, task: Task, ended: Request
) -> Response:
    headers = outcome_headers(ended)
    if isinstance(parameters, TranscriptionParameters) and parameters.stream:
        return sse.stream_reply(_events(transcript.text))
    match parameters.response_format:
        case "text":
            return PlainTextResponse(f"{transcript.text}\n", headers=headers)
        case "srt":
            return PlainTextResponse(as_srt(transcript), headers=headers)
        case "vtt":
            return PlainTextResponse(as_vtt(transcript), headers=headers)
        case "verbose_json":
            words = level_of(parameters) == "word"
            return json_reply(verbose(transcript, task, words=words), headers=headers)
        case _:
            body: OpenAiTranscript = {"text": transcript.text}
            return json_reply(body, headers=headers)


async def _events(text: str) -> AsyncGenerator[bytes]:
    """Stream of a transcript, which endpoints return as a whole at the end."""
    for body in (
        {"type": "transcript.text.delta", "delta": text},
        {"type": "transcript.text.done", "text": text},
    ):
        yield sse.json_event(body, event=body["type"])


async def speech(request: HttpRequest) -> Response:
    """Speak a text. The response is the file."""
    caller = await authenticate(request)
    services = services_of(request)
    body = await read_json(request, services.config.limits.max_body_bytes)
    parameters = SpeechParameters.read(body)
    entry = find_endpoint(services, caller, parameters.model or DEFAULT_SPEECH_MODEL)
    if entry.endpoint.kind != "audio":
        raise Unsupported(
            f"{entry.endpoint.id} makes no audio: its category is {entry.endpoint.category}."
        )
    arguments = speech_input(parameters, EndpointFields(entry))
    origin_of(request)  # may be refused, so check it before anything is stored
    endpoint_id = entry.endpoint.id
    new = await validate_request(
        request, caller, endpoint_id, arguments, SPOKEN_NAMES, model=parameters.model
    )

    async def reply(ended: Request) -> Response:
        file = _audio_of(ended)
        size = await services.files.storage.size(file.key)
        chunks = await begin(services.files.storage.read(file.key, 0, size))
        headers = outcome_headers(ended) | {"content-length": str(size), **NO_SNIFFING}
        return StreamingResponse(chunks, media_type=file.media_type, headers=headers)

    return await run(request, new, SPOKEN_NAMES, reply)


NO_SNIFFING: Mapping[str, str] = {"x-content-type-options": "nosniff"}


def _audio_of(request: Request) -> Artifact:
    artifacts = final_outcome(request).artifacts
    file = next(
        (artifact for artifact in artifacts if artifact.media_type.startswith("audio/")), None
    )
    if file is None:
        raise PipelineFailed(f"{request.endpoint} ended without audio.")
    return file


class TranscriptionForm(TranscriptionParameters):
    """Parameters with an audio file, or a video with sound."""

    file: Binary


class TranslationForm(TranslationParameters):
    """Parameters with an audio file, or a video with sound."""

    file: Binary


_TRANSCRIPT: Any = OpenAiTranscript | OpenAiVerboseTranscript

TRANSLATE = Operation(
    "openaiTranslateAudio",
    "Write down in English what is said in an audio file",
    {200: Answer("The text; plain for `text`, `srt` and `vtt`.", {JSON: _TRANSCRIPT, TEXT: str})},
    errors=(*AT_SUBMIT, *AT_END),
    content={"multipart/form-data": TranslationForm},
    description="Also takes fields of the endpoint's own input, such as `batch_size`.",
    tag=TAG,
    error_format=ERRORS,
)
TRANSCRIBE = replace(
    TRANSLATE,
    name="openaiTranscribeAudio",
    summary="Write down what is said in an audio file",
    responses={
        200: Answer(
            "The text; plain for `text`, `srt` and `vtt`. With `stream`: two events.",
            {JSON: _TRANSCRIPT, TEXT: str, EVENTS: str},
        )
    },
    content={"multipart/form-data": TranscriptionForm},
)
SPEAK = Operation(
    "openaiSpeak",
    "Speak a text",
    {200: answer("The audio file.", Binary, ANY)},
    errors=(*AT_SUBMIT, *AT_END),
    body=SpeechParameters,
    description="Also takes fields of the endpoint's own input.",
    tag=TAG,
    error_format=ERRORS,
)
