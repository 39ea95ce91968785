"""The apps that come with Darkroom, with tiny models in the format of the real ones."""

from __future__ import annotations

import asyncio
import hashlib
import json
import wave
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import darkroom
from darkroom_apps import speaker, upscaler, whisper
from deployments.executors import describing
from deployments.executors.environment import Environments
from deployments.executors.python.deploying import entries
from serve_app.cli.apps.deployable import found_at
from serve_app.domain.endpoint import Endpoint, Weights
from serve_app.domain.errors import Misconfigured
from serve_app.domain.executors.deployable import Choices
from tests.darkroom_apps.tiny_models import DAC_HOP, save_dia, save_swin2sr, save_whisper
from tests.deployments.executors.rig import ExecutorRig


def sound(path: Path, seconds: float = 2.0, rate: int = 8000) -> Path:
    made = np.random.default_rng(0).normal(0, 3000, (int(seconds * rate), 2)).astype("<i2")
    with wave.open(str(path), "wb") as file:
        file.setnchannels(2)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(made.tobytes())
    return path


def with_settings(kind: type[darkroom.App], settings: dict[str, Any]) -> Any:
    """An app that is set up with these settings."""
    made = type(kind.__name__, (kind,), {"settings": settings})()
    made.setup()
    return made


@pytest.fixture(scope="module")
def listener(tmp_path_factory: pytest.TempPathFactory) -> whisper.Whisper:
    folder = tmp_path_factory.mktemp("whisper")
    save_whisper(folder)
    return with_settings(whisper.Whisper, {"model": str(folder)})


@pytest.fixture
def app(tmp_path: Path) -> upscaler.Upscaler:
    save_swin2sr(tmp_path)
    return with_settings(upscaler.Upscaler, {"classical_sr": str(tmp_path)})


def test_tiles_of_a_large_image_fit_together(
    app: upscaler.Upscaler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = Image.effect_noise((90, 61), 80).convert("RGB")
    image.save(tmp_path / "noise.png")
    monkeypatch.setattr(upscaler, "TILE", 32)
    made = darkroom.run(app, image_url=darkroom.Image(tmp_path / "noise.png"))
    with Image.open(made["image"]["$file"]) as large:
        assert large.size == (180, 122) == (made["image"]["width"], made["image"]["height"])

    # Each tile is where its part of the image is.
    class Doubling:
        config = type("Config", (), {"upscale": 2, "window_size": 8})

        def __call__(self, pixels: torch.Tensor) -> Any:
            doubled = pixels.repeat_interleave(2, -1).repeat_interleave(2, -2)
            return type("Made", (), {"reconstruction": doubled})

    pixels = torch.rand(3, 61, 90)
    doubled = pixels.repeat_interleave(2, -1).repeat_interleave(2, -2)
    assert torch.equal(app.upscaled(pixels, Doubling()), doubled)


def test_an_image_that_is_too_large_is_refused(
    app: upscaler.Upscaler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.new("RGB", (30, 30)).save(tmp_path / "large.png")
    monkeypatch.setattr(upscaler, "MAX_PIXELS", 800)
    with pytest.raises(darkroom.InvalidField, match="30×30 pixels") as caught:
        darkroom.run(app, image_url=darkroom.Image(tmp_path / "large.png"))
    assert caught.value.field == "image_url"


def test_the_transcript_has_fals_fields(listener: whisper.Whisper, tmp_path: Path) -> None:
    audio = darkroom.Audio(sound(tmp_path / "said.wav"))
    made = darkroom.run(listener, audio_url=audio, language="de", chunk_level="segment")
    assert made["inferred_languages"] == ["de"]
    assert made["diarization_segments"] == []
    assert made["chunks"]
    for chunk in made["chunks"]:
        begin, end = chunk["timestamp"]
        assert isinstance(chunk["text"], str)
        assert begin is None or end is None or begin <= end


@pytest.mark.filterwarnings("ignore:std")  # of one token, which only a tiny model says
def test_a_language_is_inferred_and_words_have_times(
    listener: whisper.Whisper, tmp_path: Path
) -> None:
    audio = darkroom.Audio(sound(tmp_path / "said.wav"))
    made = darkroom.run(listener, audio_url=audio, chunk_level="word", prompt="Names: Ada")
    assert set(made["inferred_languages"]) <= set(whisper.Language.__args__)
    assert made["inferred_languages"]
    assert darkroom.run(listener, audio_url=audio, chunk_level="none")["chunks"] == []


def test_a_file_without_sound_is_refused_with_its_field(
    listener: whisper.Whisper, tmp_path: Path
) -> None:
    (tmp_path / "text.mp3").write_text("no audio")
    Image.new("RGB", (8, 8)).save(tmp_path / "image.png")
    for name in ("text.mp3", "image.png"):
        with pytest.raises(darkroom.InvalidField) as caught:
            darkroom.run(listener, audio_url=darkroom.Audio(tmp_path / name))
        assert caught.value.field == "audio_url"


def test_sound_is_heard_as_mono_at_the_models_rate(tmp_path: Path) -> None:
    heard = whisper.samples(sound(tmp_path / "said.wav", seconds=1.5))
    assert heard.ndim == 1
    assert abs(len(heard) - 1.5 * whisper.RATE) < 100
    assert np.abs(heard).max() > 0.01


def test_text_becomes_a_wav_file(tmp_path: Path) -> None:
    save_dia(tmp_path)
    app = with_settings(speaker.Speaker, {"model": str(tmp_path), "max_new_tokens": 40})
    made = darkroom.run(app, text="Hello. (laughs)")
    assert made["audio"]["media_type"] == "audio/wav"
    with wave.open(made["audio"]["$file"]) as file:
        assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (44100, 1, 2)
        assert 0 < file.getnframes() <= 40 * DAC_HOP
    with pytest.raises(darkroom.InvalidField, match="more than 1000 bytes"):
        darkroom.run(app, text="ä" * 600)


def test_a_shipped_app_is_found_by_its_name(tmp_path: Path) -> None:
    assert found_at(Path("whisper")) == Path(whisper.__file__)
    own = tmp_path / "whisper"
    own.touch()
    assert found_at(own) == own
    with pytest.raises(Misconfigured, match="it has speaker, upscaler, whisper"):
        found_at(Path("nothing.py"))


async def test_a_shipped_app_is_deployed_with_settings_and_served(tmp_path: Path) -> None:
    save_swin2sr(tmp_path / "weights")
    settings = tmp_path / "settings.json"
    settings.write_text(json.dumps({"classical_sr": str(tmp_path / "weights")}))
    file = found_at(Path("upscaler"))
    (found,) = await asyncio.to_thread(describing.read_source, file)
    code = describing.bundle(file, [settings])
    described = await describing.describe(
        file.parent, "upscaler", found, Environments(tmp_path / "made")
    )
    digest = hashlib.sha256(code).hexdigest()
    stored = dict(entries({**described, "class": "upscaler:Upscaler"}, Choices(None), digest))
    assert list(stored) == ["fal-ai/swin2sr"]
    assert stored["fal-ai/swin2sr"]["category"] == "image-to-image"
    options = stored["fal-ai/swin2sr"]["options"]
    endpoint = Endpoint("fal-ai/swin2sr", "python", Weights(""), "json", options=options)
    red = BytesIO()
    Image.new("RGB", (20, 12), "red").save(red, "PNG")
    rig = ExecutorRig(tmp_path, code=code)
    rig.storage.objects["u/red.png"] = red.getvalue()
    url = "http://anywhere/files/u/red.png"
    await rig.replica.start()
    try:
        outcome = await rig.outcome(rig.offer("one", lease_endpoint=endpoint, image_url=url))
    finally:
        await rig.replica.aclose()
    assert outcome.failure is None
    (artifact,) = outcome.artifacts
    assert (artifact.width, artifact.height) == (40, 24)
