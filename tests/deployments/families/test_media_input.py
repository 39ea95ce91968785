"""Endpoints with input video or audio: from the file to the arguments of plain pipelines."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch
from diffusers import WanVideoToVideoPipeline
from PIL import Image

from deployments.engine.engine import Engine
from deployments.engine.interception.pipeline import view_of
from deployments.engine.media.audio import read_audio
from deployments.engine.media.video_reader import read_video
from deployments.families import video_io
from deployments.families.audio import AudioFamily
from deployments.families.video import VideoFamily
from serve_app.domain.endpoint import Endpoint, Weights
from serve_app.domain.errors import InvalidInput, Misconfigured
from tests.deployments.videos import MAKE, SHORT_TEXT, WAN_T2V
from tests.engine.conformance import zoo
from tests.engine.media.test_audio_reading import audio
from tests.engine.media.test_video_reader import video

pytestmark = [pytest.mark.engine, pytest.mark.filterwarnings("ignore")]

VIDEO = Endpoint(
    "me/again",
    "video",
    Weights("/"),
    "open",
    options={
        "task": "video-to-video",
        "pipeline": "WanVideoToVideoPipeline",
        "arguments": {"strength": "strength", "guidance_scale": "guidance_scale"},
        "video_format": {"width": 48, "height": 32},
        "multiple": 16,
        "fixed": SHORT_TEXT,
    },
)
ASKED = {"prompt": "a red dog", "num_inference_steps": 4, "seed": 7, "strength": 0.5}


def input_video(tmp_path, **how):
    return read_video(video(tmp_path, **how), "video_url")


def call(tmp_path, endpoint=VIDEO, pipeline=None, how=None, **changes):
    return VideoFamily().prepare(
        endpoint,
        {**ASKED, "video_url": input_video(tmp_path, **(how or {})), **changes},
        pipeline or MAKE[WAN_T2V](),
        1,
    )


def test_a_video_is_drawn_anew_as_the_plain_pipeline_does_it(tmp_path):
    pipeline = MAKE[WAN_T2V]()
    prepared = call(tmp_path, pipeline=pipeline, how={"frames": 9, "size": (48, 32)})
    frames = prepared.arguments["video"]
    assert [frame.size for frame in frames] == [(48, 32)] * 9
    assert prepared.output_facts["video"].form.fps == 8
    with Engine(device="cpu", threads=1) as engine:
        engine.add("wan", pipeline)
        result = engine.submit(pipeline="wan", view=prepared.view, **prepared.arguments).result(60)
    plain = view_of(pipeline, WanVideoToVideoPipeline)(
        **{**prepared.arguments, "generator": torch.Generator().manual_seed(7)}
    )
    assert torch.equal(result.frames, plain.frames)
    assert result.frames.shape[:2] == (1, 9)


@pytest.mark.parametrize(
    ("frames", "asked", "taken", "delivered", "fps"),
    [
        (8, {}, 9, 8, 8),  # the last frame is repeated: the autoencoder makes 4n + 1 frames
        (8, {"num_frames": 3}, 5, 3, 8),
        (8, {"frames_per_second": 4}, 5, 4, 4),
        (8, {"fps": 16, "duration": 0.5}, 9, 8, 16),
        (2, {"num_frames": 81}, 5, 2, 8),
        (1, {}, 1, 1, 8),
    ],
)
def test_as_many_frames_are_taken_as_are_asked_for_and_there(
    tmp_path, frames, asked, taken, delivered, fps
):
    prepared = call(tmp_path, how={"frames": frames}, **asked)
    form = prepared.output_facts["video"].form
    assert len(prepared.arguments["video"]) == taken
    assert (form.num_frames, form.fps) == (delivered, Fraction(fps))


def test_a_video_whose_frames_would_fill_memory_is_refused(tmp_path, monkeypatch):
    nine = {"frames": 9}
    arguments = call(tmp_path, how=nine, num_frames=4).arguments
    size = arguments["width"], arguments["height"]
    monkeypatch.setattr(video_io, "MAX_PIXELS", 4 * size[0] * size[1])
    assert call(tmp_path, how=nine, num_frames=4).output_facts["video"].form.num_frames == 4
    with pytest.raises(InvalidInput, match=f"more than 4 frames of {size[0]}×{size[1]}") as caught:
        call(tmp_path, how=nine, num_frames=5)
    assert caught.value.problems[0].loc == ("body", "video_url")


def test_an_entry_may_say_the_pace_and_the_argument(tmp_path):
    options = {
        **VIDEO.options,
        "pipeline": "CogVideoXVideoToVideoPipeline",
        "video_format": {"width": 48, "height": 32, "num_frames": 4, "fps": 4},
        "multiple": 16,
        "fixed": {},
    }
    pipeline = zoo.cases()["CogVideoXVideoToVideoPipeline"].build()
    prepared = call(tmp_path, replace(VIDEO, options={**options, "pipeline": None}), pipeline)
    assert len(prepared.arguments["video"]) >= 4
    assert prepared.output_facts["video"].form.num_frames == 4
    assert prepared.output_facts["video"].form.fps == 4
    with pytest.raises(Misconfigured, match="has no argument control_video"):
        call(tmp_path, replace(VIDEO, options={**options, "video": "control_video"}), pipeline)


def test_the_shape_is_that_of_the_given_video(tmp_path):
    prepared = call(tmp_path, how={"size": (48, 96)})
    assert prepared.arguments["video"][0].size == (16, 48)  # the area of 48×32, in multiples of 16
    wide = call(tmp_path, how={"size": (48, 96)}, image_size={"width": 64, "height": 32})
    assert isinstance(wide.arguments["video"][0], Image.Image)
    assert wide.arguments["video"][0].size == (64, 32)


def test_a_video_that_is_missing_is_named(tmp_path):
    body = {**ASKED, "video_url": None}
    with pytest.raises(InvalidInput) as raised:
        VideoFamily().prepare(VIDEO, body, MAKE[WAN_T2V](), 1)
    assert raised.value.problems[0].loc == ("body", "video_url")


AUDIO = Endpoint(
    "me/remix",
    "audio",
    Weights("/"),
    "open",
    options={
        "task": "audio-to-audio",
        "audio_format": {"length": "duration", "input": "audio"},
        "arguments": {"noise": "init_noise_level"},
    },
)
WORDS = {"prompt": "a low tone", "num_inference_steps": 2, "seed": 7}


def heard(tmp_path, seconds=0.2):
    return read_audio(audio(tmp_path, seconds=seconds, rate=16_000), "audio_url")


def test_an_audio_file_is_changed_as_the_plain_pipeline_does_it(tmp_path):
    pipeline = zoo.cases()["StableAudio3AudioToAudioPipeline"].build()
    body = {**WORDS, "audio_url": heard(tmp_path), "noise": 0.4}
    prepared = AudioFamily().prepare(AUDIO, body, pipeline, 1)
    form, given_audio = prepared.output_facts["audio"].form, prepared.arguments["audio"]
    assert form.seconds == pytest.approx(0.2, abs=0.01)
    assert given_audio.shape[0] == 1
    assert given_audio.shape[2] == pytest.approx(0.2 * form.rate, abs=2)
    with Engine(pipeline, threads=1) as engine:
        result = engine.submit(**prepared.arguments).result(60).audios
    plain = pipeline(**{**prepared.arguments, "generator": torch.Generator().manual_seed(7)}).audios
    assert np.array_equal(np.asarray(result), np.asarray(plain))
    other = AudioFamily().prepare(AUDIO, {**body, "noise": 0.9}, pipeline, 1)
    assert other.arguments["init_noise_level"] == 0.9
    # A schema passes an unset field on as None.
    same = AudioFamily().prepare(AUDIO, {**body, "seconds_total": None}, pipeline, 1)
    assert same.output_facts["audio"].form == form


def test_stable_audio_gets_the_rate_of_the_audio_too(tmp_path):
    pipeline = zoo.cases()["StableAudioPipeline"].build()
    timing = {"end": "audio_end_in_s", "start": "audio_start_in_s"}
    given_as = {"input": "initial_audio_waveforms", "input_rate": "initial_audio_sampling_rate"}
    endpoint = replace(
        AUDIO, options={"task": "audio-to-audio", "audio_format": {**timing, **given_as}}
    )
    prepared = AudioFamily().prepare(
        endpoint, {**WORDS, "audio_url": heard(tmp_path, 2.0)}, pipeline, 1
    )
    assert prepared.arguments["initial_audio_sampling_rate"] == pipeline.vae.config.sampling_rate
    # Not longer than the model's maximum.
    assert prepared.output_facts["audio"].form.seconds == pytest.approx(0.16)
    with Engine(pipeline, threads=1) as engine:
        assert torch.isfinite(
            torch.as_tensor(engine.submit(**prepared.arguments).result(60).audios)
        ).all()


def test_an_entry_that_does_not_say_what_takes_the_audio_is_misconfigured(tmp_path):
    options = {**AUDIO.options, "audio_format": {"length": "duration"}}
    pipeline = zoo.cases()["StableAudio3AudioToAudioPipeline"].build()
    with pytest.raises(Misconfigured, match="needs `given`"):
        AudioFamily().prepare(
            replace(AUDIO, options=options), {**WORDS, "audio_url": heard(tmp_path)}, pipeline, 1
        )
