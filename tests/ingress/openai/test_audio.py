"""OpenAI's calls for speech over HTTP: the effect of each parameter, and each error."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest

from serve_app.catalog.catalog import CatalogEntry, load
from serve_app.catalog.schema.registry import SCHEMAS
from serve_app.catalog.source import EndpointSource
from serve_app.domain.endpoint import Endpoint, Weights
from serve_app.domain.errors import InvalidInput, PipelineFailed, Unsupported
from serve_app.ingress.openai.audio_parameters import (
    SpeechParameters,
    TranslationParameters,
    speech_input,
    transcription_input,
)
from serve_app.ingress.openai.transcripts import Transcript, as_srt
from serve_app.ingress.submission.model_lookup import EndpointFields
from tests.ingress.house import DEMO, OTHERS, House, build_house

SOUNDS = load(Path(__file__).with_name("sounds.yaml"), demo=True, demo_dir=DEMO)
TRANSCRIPTIONS = "/openai/v1/audio/transcriptions"
TRANSLATIONS = "/openai/v1/audio/translations"
SPEECH = "/openai/v1/audio/speech"
HEARD = {
    "text": "Good morning. Bye.",
    "chunks": [
        {"timestamp": [0.0, 1.25], "text": "Good morning."},
        {"timestamp": [3661.5, None], "text": "Bye."},
    ],
    "inferred_languages": ["en"],
    "diarization_segments": [],
}
"""Output of fal's Whisper. The last word has no end, as where a file ends within it."""

SRT = """1
00:00:00,000 --> 00:00:01,250
Good morning.

2
01:01:01,500 --> 01:01:01,500
Bye.
"""
VTT = """WEBVTT

00:00:00.000 --> 00:00:01.250
Good morning.

01:01:01.500 --> 01:01:01.500
Bye.
"""


@pytest.fixture
async def house() -> AsyncIterator[House]:
    async with build_house(catalog=SOUNDS) as house:
        yield house


async def heard(
    client: httpx.AsyncClient,
    path: str = TRANSCRIPTIONS,
    file: tuple[Any, ...] = ("a.mp3", b"sound"),
    output: Mapping[str, Any] = HEARD,
    **texts: str,
) -> httpx.Response:
    """Answer to a form whose request ends with this output."""
    form = {name: (None, text) for name, text in texts.items()}
    ordered = {"file": file, "output": (None, json.dumps(output)), **form}
    return await client.post(path, files=ordered)


async def fetch_input(house: House, answer: httpx.Response) -> dict[str, Any]:
    """Input of the request that the call created."""
    assert answer.status_code == 200, answer.text
    request = await house.queue.get("default", answer.headers["x-request-id"])
    return {name: value for name, value in request.input.items() if name != "output"}


async def test_a_transcription_is_a_request_to_whisper(
    house: House, client: httpx.AsyncClient
) -> None:
    answer = await heard(
        client, model="whisper-1", language="de", prompt="Names.", batch_size="8", temperature="0"
    )
    assert answer.json() == {"text": "Good morning. Bye."}
    assert answer.headers["x-darkroom-endpoint"] == "fal-ai/whisper"
    stored_input = await fetch_input(house, answer)
    kind, _, content = stored_input.pop("audio_url").partition(",")
    assert (kind, base64.b64decode(content)) == ("data:audio/mpeg;base64", b"sound")
    assert stored_input == {
        "task": "transcribe",
        "language": "de",
        "prompt": "Names.",
        "batch_size": 8,
        "chunk_level": "none",
    }


async def test_a_translation_is_into_english(house: House, client: httpx.AsyncClient) -> None:
    answer = await heard(client, TRANSLATIONS, response_format="verbose_json")
    assert (answer.json()["task"], answer.json()["language"]) == ("translate", "english")
    assert (await fetch_input(house, answer))["task"] == "translate"


@pytest.mark.parametrize(
    ("format", "text"), [("text", "Good morning. Bye.\n"), ("srt", SRT), ("vtt", VTT)]
)
async def test_a_transcript_comes_in_the_format_asked_for(
    client: httpx.AsyncClient, format: str, text: str
) -> None:
    answer = await heard(client, response_format=format)
    assert (answer.status_code, answer.text) == (200, text)
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"


async def test_verbose_has_the_times_of_segments_or_of_words(
    house: House, client: httpx.AsyncClient
) -> None:
    answer = await heard(client, response_format="verbose_json")
    body = answer.json()
    assert (body["task"], body["language"], body["duration"]) == ("transcribe", "en", 3661.5)
    first, last = body["segments"]
    assert (first["id"], first["start"], first["end"]) == (0, 0.0, 1.25)
    assert (last["text"], last["end"]) == ("Bye.", 3661.5)
    assert (await fetch_input(house, answer))["chunk_level"] == "segment"
    words = await heard(
        client, response_format="verbose_json", **{"timestamp_granularities[]": "word"}
    )
    assert words.json()["words"][0] == {"word": "Good morning.", "start": 0.0, "end": 1.25}
    assert "segments" not in words.json()
    assert (await fetch_input(house, words))["chunk_level"] == "word"


@pytest.mark.parametrize("format", ["json", "text", "srt", "vtt", "verbose_json"])
async def test_a_transcript_is_read_whatever_an_app_says_of_its_parts(
    client: httpx.AsyncClient, format: str
) -> None:
    """They were a server error, after a request that had succeeded."""
    times = ["no", [], ["a", {}], [None, 2], [1e308, -5], [10**400], None, {"0": 1}]
    chunks = [*({"timestamp": time, "text": "Hi"} for time in times), {"text": 5}, "Hi", None, 7]
    answer = await heard(client, output={"text": "Hi", "chunks": chunks}, response_format=format)
    assert (answer.status_code, "Hi" in answer.text) == (200, True)
    odd = await heard(client, output={"text": "Hi", "chunks": {}}, response_format=format)
    assert odd.status_code == 200


async def test_a_stream_has_the_whole_text_at_its_end(client: httpx.AsyncClient) -> None:
    answer = await heard(client, stream="true")
    assert answer.headers["content-type"].startswith("text/event-stream")
    events = [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data")]
    assert [event["type"] for event in events] == ["transcript.text.delta", "transcript.text.done"]
    assert events[0]["delta"] == events[1]["text"] == HEARD["text"]


@pytest.mark.parametrize(
    ("texts", "param"),
    [
        ({"response_format": "diarized_json"}, "response_format"),
        ({"include[]": "logprobs"}, "include"),
        ({"temperature": "0.5"}, "temperature"),
        ({"temperature": "2"}, "temperature"),
        ({"language": "xx"}, "language"),
        ({"prompt": "x" * 21}, "prompt"),
        ({"timestamp_granularities[]": "word"}, "timestamp_granularities"),
        ({"known_speaker_names[]": "me"}, "known_speaker_names"),
        ({"keywords[]": "Darkroom"}, "keywords"),
        ({"chunking_strategy[type]": "server_vad"}, "chunking_strategy"),
    ],
)
async def test_what_cannot_be_honoured_is_refused_by_name(
    house: House, client: httpx.AsyncClient, texts: dict[str, str], param: str
) -> None:
    answer = await heard(client, **texts)
    error = answer.json()["error"]
    assert (answer.status_code, error["param"].partition(".")[0]) == (400, param), error
    assert house.replica.ran == []


async def test_words_and_segments_at_once_are_refused(client: httpx.AsyncClient) -> None:
    name = "timestamp_granularities[]"
    both = [(name, (None, "word")), (name, (None, "segment"))]
    form = [("file", ("a.mp3", b"x")), ("response_format", (None, "verbose_json")), *both]
    answer = await client.post(TRANSCRIPTIONS, files=form)
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (400, "timestamp_granularities")


async def test_a_call_needs_a_file_or_a_url(house: House, client: httpx.AsyncClient) -> None:
    url = "https://example.org/a.mp3"
    none = await client.post(TRANSCRIPTIONS, files={"model": (None, "whisper-1")})
    assert (none.status_code, none.json()["error"]["param"]) == (400, "file")
    form = {"audio_url": (None, url), "output": (None, json.dumps(HEARD))}
    linked = await client.post(TRANSCRIPTIONS, files=form)
    assert (await fetch_input(house, linked))["audio_url"] == url
    other = await client.post(TRANSCRIPTIONS, files={"file": ("a", b""), "sound": ("b", b"")})
    assert other.status_code == 400
    in_json = await client.post(TRANSCRIPTIONS, json={"audio_url": url})
    assert "not a form" in in_json.json()["error"]["message"]


async def test_a_file_that_cannot_be_read_is_named_file(client: httpx.AsyncClient) -> None:
    form = {"file": ("a.mp3", b"x"), "fail": (None, "invalid_input"), "field": (None, "audio_url")}
    answer = await client.post(TRANSCRIPTIONS, files=form)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "file")


async def test_a_type_comes_from_the_name_if_the_client_sends_none(
    house: House, client: httpx.AsyncClient
) -> None:
    for file, kind in (
        (("a.wav", b"x", "application/octet-stream"), "audio/x-wav"),
        (("a", b"x", "audio/ogg; codecs=opus"), "audio/ogg"),
        (("a", b"x", "application/octet-stream"), "application/octet-stream"),
    ):
        stored_input = await fetch_input(house, await heard(client, file=file))
        assert stored_input["audio_url"].startswith(f"data:{kind};base64,")


async def test_speech_is_the_file_that_the_endpoint_makes(
    house: House, client: httpx.AsyncClient
) -> None:
    for format_name in (None, "wav"):
        body = {"input": "Hello", "voice": "alloy", "speed": 1, "response_format": format_name}
        answer = await client.post(SPEECH, json=body)
        assert (answer.status_code, answer.content) == (200, b"image"), answer.text
        assert answer.headers["content-type"] == "audio/wav"
        assert answer.headers["x-darkroom-endpoint"] == "fal-ai/dia-tts"
    failing = {"input": "x", "fail": "pipeline_failed", "message": "Boom."}
    failed = await client.post(SPEECH, json=failing)
    assert (failed.status_code, failed.json()["error"]["message"]) == (500, "Boom.")


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "input"),
        ({"input": "x", "stream_format": "sse"}, "stream_format"),
        ({"input": "x", "response_format": "mp3"}, "response_format"),
        ({"input": "x", "speed": 9}, "speed"),
    ],
)
async def test_speech_that_cannot_be_honoured_is_refused_by_name(
    client: httpx.AsyncClient, body: dict[str, Any], param: str
) -> None:
    answer = await client.post(SPEECH, json=body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


async def test_what_is_not_served_says_how_to_serve_it() -> None:
    async with build_house(catalog=OTHERS) as house, house.client() as client:
        spoken = await client.post(SPEECH, json={"input": "x", "model": "gpt-4o-mini-tts"})
        form = {"file": ("a.mp3", b"x"), "model": (None, "gpt-4o-mini-transcribe-2025-12-15")}
        written = await client.post(TRANSCRIPTIONS, files=form)
        silent = await client.post(SPEECH, json={"input": "x", "model": "test/videos"})
    for answer, app in ((spoken, "speaker"), (written, "whisper")):
        error = answer.json()["error"]
        assert (answer.status_code, error["code"]) == (404, "model_not_found")
        assert f"darkroom deploy {app}" in error["message"]
    assert silent.status_code == 400
    assert "makes no audio" in silent.json()["error"]["message"]


def fields(**properties: Any) -> EndpointFields:
    """Fields of an app that takes these and no others."""
    schema = {"type": "object", "properties": properties}
    options = {"input_schema": schema, "output_schema": {"type": "object"}}
    endpoint = Endpoint("apps/x", "cog", Weights(""), "json", options=options)
    source = EndpointSource(family="cog", schema="json")
    return EndpointFields(CatalogEntry(endpoint, SCHEMAS["json"](endpoint), source))


TEXT = {"type": "string"}


def spoken(takes: EndpointFields, **parameters: Any) -> dict[str, Any]:
    return speech_input(SpeechParameters.read({"input": "Hello"} | parameters), takes)


def test_speech_has_the_fields_of_its_endpoint() -> None:
    formats = {"type": "string", "enum": ["mp3", "wav"]}
    takes = fields(prompt=TEXT, voice=TEXT, speed=TEXT, output_format=formats)
    output = spoken(takes, voice={"id": "af"}, speed=1.5, response_format="mp3")
    assert output == {"prompt": "Hello", "voice": "af", "speed": 1.5, "output_format": "mp3"}
    assert spoken(fields(text=TEXT), voice="alloy", speed=1) == {"text": "Hello"}
    assert spoken(takes)["output_format"] == "mp3", "as at OpenAI, for who names none"
    for asked_format, output in (("opus", "ogg"), (None, None)):
        others = fields(text=TEXT, format={"type": "string", "enum": ["wav", "ogg"]})
        assert spoken(others, response_format=asked_format).get("format") == output
    with pytest.raises(InvalidInput, match="makes mp3, wav"):
        spoken(takes, response_format="opus")
    for name, value in (("speed", 2), ("instructions", "Sadly"), ("pitch", 3)):
        with pytest.raises(InvalidInput, match=f"^{name}"):
            spoken(fields(text=TEXT), **{name: value})
    with pytest.raises(Unsupported, match="does not speak"):
        spoken(fields(seed=TEXT))


def test_an_endpoint_without_tasks_does_not_translate() -> None:
    parameters = TranslationParameters.read({})
    assert transcription_input(parameters, "transcribe", fields(audio_url=TEXT)) == {}
    with pytest.raises(Unsupported, match="cannot translate"):
        transcription_input(parameters, "translate", fields(audio_url=TEXT))


def test_an_output_without_a_text_is_no_transcript() -> None:
    with pytest.raises(PipelineFailed, match="without a text"):
        Transcript.of_output({"images": []}, "test/heard")
    assert as_srt(Transcript.of_output({"text": ""}, "test/heard")) == ""
