"""The apps that come with Darkroom, with tiny models in the format of the real ones."""

from __future__ import annotations

import asyncio
import hashlib
import importlib
import json
import wave
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from PIL import Image

import darkroom
from darkroom.app import endpoints_of
from darkroom_apps import background, rembg, speaker, upscaler, whisper
from darkroom_apps.shared import tiles
from deployments.executors.code import unpack
from deployments.executors.describing import bundle
from deployments.executors.environment import Environments
from deployments.executors.python.deploying import entries
from deployments.executors.python.describing import describe, read_source
from serve_app.catalog import suggestions
from serve_app.cli.apps.deployable import found_at
from serve_app.domain.endpoint import Endpoint, Weights
from serve_app.domain.errors import AppNotStarted, Misconfigured
from serve_app.domain.executors.deployable import Choices
from tests.darkroom_apps.setup import with_settings
from tests.darkroom_apps.tiny_models import (
    DAC_HOP,
    ESRGAN,
    save_birefnet,
    save_depth_anything,
    save_dia,
    save_esrgan,
    save_sam2,
    save_swin2sr,
    save_whisper,
)
from tests.deployments.executors.rig import ExecutorRig
from tests.samples import sample_params


def sound(path: Path, seconds: float = 2.0, rate: int = 8000) -> Path:
    samples = np.random.default_rng(0).normal(0, 3000, (int(seconds * rate), 2)).astype("<i2")
    with wave.open(str(path), "wb") as file:
        file.setnchannels(2)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(samples.tobytes())
    return path


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
    monkeypatch.setattr(tiles, "SIDE", 32)
    output = darkroom.run(app, image_url=darkroom.Image(tmp_path / "noise.png"))
    with Image.open(output["image"]["$file"]) as large:
        assert large.size == (180, 122) == (output["image"]["width"], output["image"]["height"])

    # Each tile is where its part of the image is.
    def doubled(pixels: torch.Tensor) -> torch.Tensor:
        return pixels.repeat_interleave(2, -1).repeat_interleave(2, -2)

    pixels = torch.rand(3, 61, 90)
    assert torch.equal(tiles.enlarge(pixels, 2, doubled), doubled(pixels))


def test_the_transcript_has_fals_fields(listener: whisper.Whisper, tmp_path: Path) -> None:
    audio = darkroom.Audio(sound(tmp_path / "said.wav"))
    transcript = darkroom.run(listener, audio_url=audio, language="de", chunk_level="segment")
    assert transcript["inferred_languages"] == ["de"]
    assert transcript["diarization_segments"] == []
    assert transcript["chunks"]
    for chunk in transcript["chunks"]:
        begin, end = chunk["timestamp"]
        assert isinstance(chunk["text"], str)
        assert begin is None or end is None or begin <= end


@pytest.mark.filterwarnings("ignore:std")  # of one token, which only a tiny model says
def test_a_language_is_inferred_and_words_have_times(
    listener: whisper.Whisper, tmp_path: Path
) -> None:
    audio = darkroom.Audio(sound(tmp_path / "said.wav"))
    transcript = darkroom.run(listener, audio_url=audio, chunk_level="word", prompt="Names: Ada")
    assert set(transcript["inferred_languages"]) <= set(whisper.Language.__args__)
    assert transcript["inferred_languages"]
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


def test_text_becomes_a_file_of_each_format(tmp_path: Path) -> None:
    save_dia(tmp_path)
    app = with_settings(speaker.Speaker, {"model": str(tmp_path), "max_new_tokens": 40})
    output = darkroom.run(app, text="Hello. (laughs)")
    assert output["audio"]["media_type"] == "audio/wav"
    with wave.open(output["audio"]["$file"]) as file:
        assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (44100, 1, 2)
        assert 0 < file.getnframes() <= 40 * DAC_HOP
    for name, (media_type, container, *_) in speaker.FORMATS.items():
        spoken = darkroom.run(app, text="Hello.", format=name)["audio"]
        assert spoken["media_type"] == media_type
        with av.open(spoken["$file"]) as file:
            assert file.format.name == container
            assert sum(frame.samples for frame in file.decode(audio=0)) > 0
    with pytest.raises(darkroom.InvalidField, match="more than 1000 bytes"):
        darkroom.run(app, text="ä" * 600)


def test_a_shipped_app_is_found_by_its_name(tmp_path: Path) -> None:
    assert found_at(Path("whisper")) == Path(whisper.__file__)
    own = tmp_path / "whisper"
    own.touch()
    assert found_at(own) == own
    with pytest.raises(
        Misconfigured, match="it has background, depth, depth_anything, esrgan, rembg"
    ):
        found_at(Path("nothing.py"))


@pytest.fixture(scope="module")
def apps_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory of a node, with the environment of the apps which have one of their own. Skips
    where no package index is reachable."""
    directory = tmp_path_factory.mktemp("apps")
    environments = Environments(directory / "environments")
    assert background.Background.requirements == rembg.Rembg.requirements
    try:
        asyncio.run(environments.python(rembg.Rembg.requirements))
    except AppNotStarted as error:
        pytest.skip(f"onnxruntime cannot be installed here: {error.message}")
    return directory


@dataclass(frozen=True)
class Shipped:
    """A shipped app, a setting with its weights, and the image that it makes of 20 × 12 pixels."""

    app: str
    class_name: str
    endpoint_id: str
    save: Callable[[Path], None]
    setting: str = "model"
    size: tuple[int, int] = (20, 12)
    files: int = 1
    options: Mapping[str, Any] = field(default_factory=dict)
    path: str = ""
    file: str = ""  # in the folder of the weights, which the setting names


SHIPPED = [
    Shipped("upscaler", "Upscaler", "fal-ai/swin2sr", save_swin2sr, "classical_sr", (40, 24)),
    Shipped(
        *("esrgan", "Esrgan", "fal-ai/esrgan", save_esrgan, "RealESRGAN_x4plus", (40, 24)),
        file=ESRGAN,
    ),
    Shipped("depth", "Depth", "fal-ai/imageutils/depth", save_depth_anything),
    Shipped(
        *("depth_anything", "DepthAnything", "fal-ai/image-preprocessors/depth-anything/v2"),
        save_depth_anything,
    ),
    Shipped(
        *("segmenter", "Segmenter", "fal-ai/sam2", save_sam2),
        options={"prompts": [{"x": 4, "y": 5, "label": "1"}], "apply_mask": True},
        path="/image",
    ),
]
IN_OWN_ENVIRONMENT = [
    Shipped(
        *("background", "Background", "fal-ai/birefnet", save_birefnet),
        setting="General Use (Light)",
        files=2,
        options={"output_mask": True},
        path="/v2",
    ),
    Shipped("rembg", "Rembg", "fal-ai/imageutils/rembg", save_birefnet),
]


@pytest.mark.long
@pytest.mark.parametrize(
    "shipped", sample_params(SHIPPED, SHIPPED[0]), ids=lambda shipped: shipped.app
)
async def test_a_shipped_app_is_deployed_with_settings_and_served(
    shipped: Shipped, tmp_path: Path
) -> None:
    await assert_served(shipped, tmp_path, tmp_path / "apps")


@pytest.mark.long
@pytest.mark.parametrize("shipped", IN_OWN_ENVIRONMENT, ids=lambda shipped: shipped.app)
async def test_a_shipped_app_is_served_in_an_environment_of_its_own(
    shipped: Shipped, apps_dir: Path, tmp_path: Path
) -> None:
    await assert_served(shipped, tmp_path, apps_dir)


def test_an_endpoint_that_is_missing_names_the_app_that_serves_it() -> None:
    apps: dict[str, str] = {}
    for file in Path(whisper.__file__).parent.glob("[!_]*.py"):
        module = importlib.import_module(f"darkroom_apps.{file.stem}")
        (kind,) = [getattr(module, source.name) for source in read_source(file)]
        paths = [path.rstrip("/") for path in endpoints_of(kind)]
        apps |= {kind.name + path: file.stem for path in paths}
    assert apps == suggestions.APPS
    for endpoint_id, app in apps.items():
        assert f"`darkroom deploy {app}`" in suggestions.sentence(endpoint_id, {}, apps)


async def assert_served(shipped: Shipped, folder: Path, apps_dir: Path) -> None:
    environments = Environments(apps_dir / "environments")
    shipped.save(folder / "weights")
    settings = folder / "settings.json"
    settings.write_text(json.dumps({shipped.setting: str(folder / "weights" / shipped.file)}))
    file = found_at(Path(shipped.app))
    (source,) = await asyncio.to_thread(read_source, file)
    code = bundle(file, [settings])
    unpack(code, folder / "code")
    described = await describe(folder / "code", shipped.app, source, environments)
    named = {**described, "class": f"{shipped.app}:{shipped.class_name}"}
    stored = dict(entries(named, Choices(None), hashlib.sha256(code).hexdigest()))
    endpoint_id = shipped.endpoint_id + shipped.path
    assert all(name.startswith(shipped.endpoint_id) for name in stored)
    assert stored[endpoint_id]["category"] == "image-to-image"
    options = stored[endpoint_id]["options"]
    endpoint = Endpoint(endpoint_id, "python", Weights(""), "json", options=options)
    red = BytesIO()
    Image.new("RGB", (20, 12), "red").save(red, "PNG")
    rig = ExecutorRig(folder, code=code, apps_dir=apps_dir)
    rig.storage.objects["u/red.png"] = red.getvalue()
    arguments = {"image_url": "http://anywhere/files/u/red.png", **shipped.options}
    await rig.replica.start()
    try:
        outcome = await rig.outcome(rig.offer("one", lease_endpoint=endpoint, **arguments))
    finally:
        await rig.replica.aclose()
    assert outcome.failure is None
    assert [(artifact.width, artifact.height) for artifact in outcome.artifacts] == (
        [shipped.size] * shipped.files
    )
