"""Transcripts in OpenAI's formats, from the output of an endpoint with texts and their times."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NotRequired, cast

from typing_extensions import TypedDict

from serve_app.domain.errors import PipelineFailed

MAX_SECONDS = 1e9
"""Latest time of a part, which is 31 years. What an app says of later ones is no time."""

TranscriptFormat = Literal["json", "text", "srt", "verbose_json", "vtt"]


class OpenAiTranscript(TypedDict):
    """Text of an audio file."""

    text: str


class OpenAiWord(TypedDict):
    word: str
    start: float
    end: float


class OpenAiSegment(TypedDict):
    """TimedText of a transcript. What endpoints do not report is 0, or empty."""

    id: int
    seek: int
    start: float
    end: float
    text: str
    tokens: list[int]
    temperature: float
    avg_logprob: float
    compression_ratio: float
    no_speech_prob: float


class OpenAiVerboseTranscript(TypedDict):
    """Text of an audio file, with times."""

    task: Literal["transcribe", "translate"]
    language: str
    duration: float
    text: str
    segments: NotRequired[list[OpenAiSegment]]
    words: NotRequired[list[OpenAiWord]]


@dataclass(frozen=True, slots=True)
class TimedText:
    """Text and its time in seconds."""

    text: str
    start: float
    end: float


@dataclass(frozen=True, slots=True)
class Transcript:
    """Text of an audio file, and its parts if they have times."""

    text: str
    parts: Sequence[TimedText]
    language: str  # empty: not known

    @classmethod
    def of_output(cls, output: Mapping[str, Any], endpoint: str) -> Transcript:
        """Read the output of fal's Whisper, or of another endpoint with the same fields.
        ``PipelineFailed``: it has no text."""
        text = output.get("text")
        if not isinstance(text, str):
            raise PipelineFailed(f"{endpoint} ended without a text.")
        languages = output.get("inferred_languages")
        language = cast("Any", languages[0]) if isinstance(languages, list) and languages else ""
        chunks = output.get("chunks")
        parts = _parts(cast("list[Any]", chunks)) if isinstance(chunks, list) else []
        return cls(text, parts, str(language))

    @property
    def duration_s(self) -> float:
        """End of the last part; 0 without parts."""
        return max((part.end for part in self.parts), default=0.0)


def _parts(chunks: Sequence[Any]) -> list[TimedText]:
    """Parts with times. Whisper leaves the end out where the audio ends within a word: it is then
    the beginning of the next part, or the part's own. Apps may leave out more: the text is there,
    and was paid for."""
    timed = [(_text(chunk), *_times(chunk)) for chunk in chunks]
    starts = [*(start for _, start, _ in timed[1:]), None]
    parts: list[TimedText] = []
    for (text, start, end), following in zip(timed, starts, strict=True):
        begin = start or 0.0
        last = next((moment for moment in (end, following) if moment is not None), begin)
        parts.append(TimedText(text, begin, max(begin, last)))
    return parts


def _text(chunk: Any) -> str:
    text = cast("Mapping[str, Any]", chunk).get("text") if isinstance(chunk, Mapping) else chunk
    return text if isinstance(text, str) else ""


def _times(chunk: Any) -> tuple[float | None, float | None]:
    """Beginning and end of a part; None where its endpoint does not say it."""
    fields = cast("Mapping[str, Any]", chunk) if isinstance(chunk, Mapping) else {}
    stamp = fields.get("timestamp")
    moments = cast("list[Any]", stamp) if isinstance(stamp, list) else []
    start, end = (_seconds(moment) for moment in [*moments, None, None][:2])
    return start, end


def _seconds(moment: Any) -> float | None:
    fits = isinstance(moment, int | float) and 0 <= moment <= MAX_SECONDS
    return float(moment) if fits else None


def as_srt(transcript: Transcript) -> str:
    cues = (
        f"{number}\n{_clock(part.start, ',')} --> {_clock(part.end, ',')}\n{part.text}\n"
        for number, part in enumerate(transcript.parts, 1)
    )
    return "\n".join(cues)


def as_vtt(transcript: Transcript) -> str:
    cues = (
        f"{_clock(part.start, '.')} --> {_clock(part.end, '.')}\n{part.text}\n"
        for part in transcript.parts
    )
    return "\n".join(("WEBVTT\n", *cues))


def _clock(seconds: float, mark: str) -> str:
    """Time as ``00:01:02.345``; ``mark``: before the milliseconds."""
    whole, milliseconds = divmod(round(seconds * 1000), 1000)
    minutes, rest = divmod(whole, 60)
    return f"{minutes // 60:02}:{minutes % 60:02}:{rest:02}{mark}{milliseconds:03}"


def verbose(
    transcript: Transcript, task: Literal["transcribe", "translate"], *, words: bool
) -> OpenAiVerboseTranscript:
    """``words``: the parts are words, not segments."""
    body: OpenAiVerboseTranscript = {
        "task": task,
        "language": "english" if task == "translate" else transcript.language,
        "duration": transcript.duration_s,
        "text": transcript.text,
    }
    if words:
        body["words"] = [
            {"word": part.text, "start": part.start, "end": part.end} for part in transcript.parts
        ]
    else:
        body["segments"] = [_segment(number, part) for number, part in enumerate(transcript.parts)]
    return body


def _segment(number: int, part: TimedText) -> OpenAiSegment:
    raw = part.text.encode()
    return {
        "id": number,
        "seek": 0,
        "start": part.start,
        "end": part.end,
        "text": part.text,
        "tokens": [],
        "temperature": 0.0,
        "avg_logprob": 0.0,
        "compression_ratio": len(raw) / len(zlib.compress(raw)),  # as Whisper defines it
        "no_speech_prob": 0.0,
    }
