"""Speech to text, by Whisper (MIT).

``settings.json`` may name other weights of Whisper, by id of the hub or folder:
``{"model": "openai/whisper-small"}``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, Field

import darkroom

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np

MODEL = "openai/whisper-large-v3-turbo"
RATE = 16_000  # samples a second that the model hears
WINDOW_S = 30  # that it hears at once
MAX_S = 4 * 3600  # of an audio file
TOKENS_A_REPORT = 16

# fmt: off
Language = Literal[
    "af", "am", "ar", "as", "az", "ba", "be", "bg", "bn", "bo", "br", "bs", "ca", "cs", "cy", "da",
    "de", "el", "en", "es", "et", "eu", "fa", "fi", "fo", "fr", "gl", "gu", "ha", "haw", "he",
    "hi", "hr", "ht", "hu", "hy", "id", "is", "it", "ja", "jw", "ka", "kk", "km", "kn", "ko", "la",
    "lb", "ln", "lo", "lt", "lv", "mg", "mi", "mk", "ml", "mn", "mr", "ms", "mt", "my", "ne", "nl",
    "nn", "no", "oc", "pa", "pl", "ps", "pt", "ro", "ru", "sa", "sd", "si", "sk", "sl", "sn", "so",
    "sq", "sr", "su", "sv", "sw", "ta", "te", "tg", "th", "tk", "tl", "tr", "tt", "uk", "ur", "uz",
    "vi", "yi", "yo", "zh",
]
# fmt: on


class Input(BaseModel):
    """Input of fal-ai/whisper."""

    audio_url: darkroom.Audio = Field(description="Audio file, or video with sound.")
    task: Literal["transcribe", "translate"] = Field(
        "transcribe", description="`translate` writes English."
    )
    language: Language | None = Field(None, description="Language of the speech; null: found out.")
    chunk_level: Literal["none", "segment", "word"] = Field(
        "segment", description="Parts of the text that get times."
    )
    prompt: str = Field("", max_length=1000, description="Text with the style and names to expect.")
    batch_size: int = Field(64, ge=1, le=64, description="Windows of 30 s that are heard at once.")
    diarize: bool = Field(default=False, description="Not possible: speakers are not told apart.")


class Chunk(BaseModel):
    timestamp: list[float | None] = Field(description="Begin and end in seconds.")
    text: str


class Speaker(BaseModel):
    timestamp: list[float]
    speaker: str


class Output(BaseModel):
    text: str
    chunks: list[Chunk]
    inferred_languages: list[str]
    diarization_segments: list[Speaker] = Field(description="Always empty.")


class Whisper(darkroom.App):
    name = "fal-ai/whisper"
    start_timeout_s = 1800.0  # the first start fetches weights

    def setup(self) -> None:
        import torch
        from transformers import pipeline

        on_gpu = torch.cuda.is_available()
        self.transcriber: Any = pipeline(
            "automatic-speech-recognition",
            model=self.settings.get("model", MODEL),
            device="cuda" if on_gpu else "cpu",
            dtype=torch.float16 if on_gpu else torch.float32,
            chunk_length_s=WINDOW_S,
            ignore_warning=True,
        )

    @darkroom.endpoint("/")
    def transcribe(self, fields: Input) -> Output:
        """Write down what is said in an audio file."""
        if fields.diarize:
            raise darkroom.InvalidField("diarize", "Speakers cannot be told apart here")
        heard = samples(fields.audio_url.path)
        options: dict[str, Any] = {"task": fields.task, "stopping_criteria": [reports()]}
        if fields.language is not None:
            options["language"] = fields.language
        if fields.prompt:
            tokenizer = self.transcriber.tokenizer
            options["prompt_ids"] = tokenizer.get_prompt_ids(fields.prompt, return_tensors="pt").to(
                self.transcriber.device
            )
        timed = "word" if fields.chunk_level == "word" else True  # without times, long ones fail
        result = self.transcriber(
            {"raw": heard, "sampling_rate": RATE},
            # Words are aligned window by window.
            batch_size=1 if fields.chunk_level == "word" else fields.batch_size,
            return_timestamps=timed,
            return_language=True,
            generate_kwargs=options,
        )
        return to_output(result, fields)


def to_output(result: dict[str, Any], fields: Input) -> Output:
    """The pipeline's result as fal's."""
    all_chunks = result.get("chunks", [])
    languages = [fields.language] if fields.language else languages_of(all_chunks)
    chunks = [] if fields.chunk_level == "none" else all_chunks
    return Output(
        text=result["text"].strip(),
        chunks=[
            Chunk(timestamp=list(chunk["timestamp"]), text=chunk["text"].strip())
            for chunk in chunks
        ],
        inferred_languages=languages,
        diarization_segments=[],
    )


def languages_of(chunks: list[dict[str, Any]]) -> list[str]:
    """Codes of the languages that were heard, each once."""
    from transformers.models.whisper.tokenization_whisper import TO_LANGUAGE_CODE

    named = [chunk.get("language") for chunk in chunks]
    codes = dict.fromkeys(
        TO_LANGUAGE_CODE.get(language, language) for language in named if language
    )
    return [str(code) for code in codes]


def samples(path: Path) -> np.ndarray:
    """Sound of a file: mono, at ``RATE``."""
    import av
    import numpy as np

    parts: list[np.ndarray] = []
    count = 0
    try:
        with av.open(str(path)) as container:
            resampler = av.AudioResampler("flt", "mono", RATE)
            for frame in container.decode(audio=0):
                for resampled in resampler.resample(frame):
                    parts.append(resampled.to_ndarray()[0])
                    count += len(parts[-1])
                if count > MAX_S * RATE:
                    raise darkroom.InvalidField(
                        "audio_url", f"The file is longer than {MAX_S // 3600} hours"
                    )
            parts += [tail.to_ndarray()[0] for tail in resampler.resample(None)]
    except (av.FFmpegError, IndexError) as error:
        raise darkroom.InvalidField("audio_url", "Its sound cannot be read") from error
    if not parts:
        raise darkroom.InvalidField("audio_url", "The file has no sound")
    return np.concatenate(parts)


def reports() -> Any:
    """Criterion that never stops the model, but reports its progress and sees a cancellation."""
    import torch
    from transformers import StoppingCriteria

    class Reports(StoppingCriteria):
        tokens = 0

        def __call__(self, input_ids: Any, *_: Any, **__: Any) -> Any:
            self.tokens += 1
            if self.tokens % TOKENS_A_REPORT == 0:
                darkroom.progress(self.tokens)
            return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)

    return Reports()
