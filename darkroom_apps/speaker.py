"""Text to speech, by Dia (Apache-2.0), which also speaks dialogues.

``settings.json`` may name other weights of Dia, by id of the hub or folder, and the longest output
in tokens, 86 of which are a second: ``{"model": "/models/dia", "max_new_tokens": 1024}``.
"""

from __future__ import annotations

from io import BytesIO
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, Field

import darkroom

if TYPE_CHECKING:
    import torch

MODEL = "nari-labs/Dia-1.6B-0626"
MAX_TOKENS = 3072
MAX_BYTES = 1000  # of a text in UTF-8
TOKENS_A_REPORT = 16

FORMATS = {
    "wav": ("audio/wav", "wav", "pcm_s16le", "s16"),
    "mp3": ("audio/mpeg", "mp3", "libmp3lame", "fltp"),
    "flac": ("audio/flac", "flac", "flac", "s16"),
    "opus": ("audio/ogg", "ogg", "libopus", "flt"),
}
"""Format → media type, and FFmpeg's names of container, codec and samples."""

OPUS_RATE = 48_000
"""Opus has a few fixed rates (RFC 6716, section 2). This one loses nothing."""


class Input(BaseModel):
    """Input of fal-ai/dia-tts."""

    text: str = Field(
        min_length=1,
        max_length=MAX_BYTES,
        description="What is said. `[S1]` and `[S2]` begin what each of two speakers says; "
        "`(laughs)` and the like are heard.",
    )
    format: Literal["wav", "mp3", "flac", "opus"] = Field(
        default="wav", description="Format of the file; `opus` is in Ogg. fal has no such field."
    )


class Output(BaseModel):
    audio: darkroom.Audio


class Speaker(darkroom.App):
    name = "fal-ai/dia-tts"
    start_timeout_s = 1800.0  # the first start fetches weights

    def setup(self) -> None:
        import torch
        from transformers import AutoProcessor, DiaForConditionalGeneration

        on_gpu = torch.cuda.is_available()
        self.device = "cuda" if on_gpu else "cpu"
        model = self.settings.get("model", MODEL)
        self.max_new_tokens = int(self.settings.get("max_new_tokens", MAX_TOKENS))
        self.processor: Any = AutoProcessor.from_pretrained(model)
        loaded: Any = DiaForConditionalGeneration.from_pretrained(
            model, dtype=torch.float16 if on_gpu else torch.float32
        )
        self.model = loaded.to(self.device).eval()
        self.rate = int(self.processor.feature_extractor.sampling_rate)

    @darkroom.endpoint("/")
    def speak(self, fields: Input) -> Output:
        """Speak a text."""
        import torch

        if len(fields.text.encode()) > MAX_BYTES:
            raise darkroom.InvalidField("text", f"The text has more than {MAX_BYTES} bytes")
        text = fields.text if fields.text.lstrip().startswith("[S") else f"[S1] {fields.text}"
        inputs = self.processor(text=[text], padding=False, return_tensors="pt").to(self.device)
        with torch.inference_mode():
            tokens = self.model.generate(
                **inputs,
                max_new_tokens=self.max_new_tokens,
                do_sample=True,
                guidance_scale=3.0,
                temperature=1.8,
                top_p=0.90,
                top_k=45,
                stopping_criteria=[reports(self.max_new_tokens)],
            )
            (sound,) = self.processor.batch_decode(tokens)
        file = encode_sound(sound, self.rate, fields.format)
        return Output(audio=darkroom.Audio.from_bytes(file, FORMATS[fields.format][0]))


def encode_sound(sound: torch.Tensor, rate: int, format: str) -> bytes:
    """File with one channel. ``sound``: samples of -1 to 1."""
    import av

    _, container, codec, form = FORMATS[format]
    levels = sound.float().clamp(-1, 1).mul(32767).round().short().reshape(1, -1).cpu().numpy()
    frame = av.AudioFrame.from_ndarray(levels, format="s16", layout="mono")
    frame.sample_rate = rate
    written = BytesIO()
    with av.open(written, "w", format=container) as file:
        stream: Any = file.add_stream(codec, rate=OPUS_RATE if format == "opus" else rate)
        stream.layout = "mono"
        resampler = av.AudioResampler(form, "mono", stream.rate)
        for chunk in (*resampler.resample(frame), *resampler.resample(None), None):
            file.mux(stream.encode(chunk))
    return written.getvalue()


def reports(most: int) -> Any:
    """Criterion that never stops the model, but reports its progress and sees a cancellation."""
    import torch
    from transformers import StoppingCriteria

    class Reports(StoppingCriteria):
        tokens = 0

        def __call__(self, input_ids: Any, *_: Any, **__: Any) -> Any:
            self.tokens += 1
            if self.tokens % TOKENS_A_REPORT == 0:
                darkroom.progress(self.tokens, most)
            return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)

    return Reports()
