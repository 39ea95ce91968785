"""Videos that are written during decoding."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch
from PIL import Image

from deployments.engine.accelerator.cpu import Cpu
from deployments.engine.engine import Engine
from deployments.engine.loop.options import GenerationOptions
from deployments.engine.media.images import fit, to_levels
from deployments.engine.media.scratch import Scratch
from deployments.engine.media.video_format import VideoForm
from deployments.families.video_recorder import VideoRecorder
from serve_app.domain.errors import Cancelled, PipelineFailed
from tests.deployments import videos
from tests.deployments.served import Served
from tests.deployments.videos import (
    HUNYUAN,
    HUNYUAN_I2V,
    LTX2,
    MAKE,
    SMALL_I2V,
    WAN_T2V,
    decode_video,
    deliver,
    input_image,
)
from tests.engine.conformance import zoo
from tests.samples import sample_params

pytestmark = [pytest.mark.engine, pytest.mark.filterwarnings("ignore")]

FORM = VideoForm("video/mp4", 32, 16, Fraction(8), 8, "maximum", "fast")


class Paused:
    """Fake generation that records pauses."""

    def __init__(self):
        self.calls = []

    def pause(self):
        self.calls.append("pause")

    def resume(self):
        self.calls.append("unpause")


@pytest.fixture
def encoders():
    with ThreadPoolExecutor(2) as pool:
        yield pool


@pytest.fixture
def scratch():
    scratch = Scratch()
    yield scratch
    scratch.close()


def chunk(number, frames=2):
    return torch.full((frames, 3, 16, 32), number / 8)


def begin_recording(scratch, encoders, form=FORM, most_waiting=32):
    recording = VideoRecorder(form, most_waiting=most_waiting)
    recording.begin(scratch, encoders, Cpu())
    generation = Paused()
    recording.follow(generation)
    return recording, generation


def test_frames_come_out_in_their_order_however_they_came(scratch, encoders):
    recording, _ = begin_recording(scratch, encoders)
    for number in range(4):
        recording.take(chunk(number))
    video = decode_video(recording.finish().path)
    levels = [frame.mean() for frame in video.frames]
    expected = [255 * (number // 2) / 8 for number in range(8)]
    assert levels == pytest.approx(expected, abs=4)


def test_a_generation_stands_still_while_its_frames_wait_and_then_goes_on(scratch, encoders):
    let = threading.Event()
    busy = [encoders.submit(let.wait, 20) for _ in range(2)]  # both writer threads are blocked
    recording, generation = begin_recording(scratch, encoders, most_waiting=4)
    recording.take(chunk(0))
    assert generation.calls == []
    recording.take(chunk(1))
    assert generation.calls == ["pause"]
    let.set()
    assert all(future.result() for future in busy)
    recording.take(chunk(2))
    recording.take(chunk(3))
    assert len(decode_video(recording.finish().path).frames) == 8
    assert generation.calls[-1] == "unpause"


def test_no_frames_are_no_file(scratch, encoders):
    recording, _ = begin_recording(scratch, encoders)
    assert recording.finish() is None


def test_too_few_frames_are_an_error(scratch, encoders):
    recording, _ = begin_recording(scratch, encoders)
    recording.take(chunk(0))
    with pytest.raises(PipelineFailed, match="made 2 frames, but the request needs 8"):
        recording.finish()


def test_frames_that_are_no_numbers_fail_the_video(scratch, encoders):
    recording, _ = begin_recording(scratch, encoders)
    for number in range(4):
        frames = chunk(number)
        if number == 2:
            frames[1, 0, 0, 0] = float("nan")
        recording.take(frames)
    with pytest.raises(PipelineFailed, match="pixels that are not finite numbers"):
        recording.finish()


def test_an_error_while_writing_is_reported_at_the_end_and_holds_no_one_up(scratch, encoders):
    recording, generation = begin_recording(scratch, encoders, most_waiting=2)
    scratch.close()
    recording.take(chunk(0))
    with pytest.raises(Cancelled):
        recording.finish()
    assert generation.calls[-1] == "unpause"
    recording.take(chunk(1))
    assert generation.calls[-1] == "unpause"


def test_an_abandoned_one_leaves_nothing(scratch, encoders):
    recording, _ = begin_recording(scratch, encoders)
    recording.take(chunk(0))
    folder = scratch.new_file("mp4").parent
    scratch.close()
    recording.abandon()
    recording.abandon()
    encoders.shutdown()
    recording.abandon()
    assert not folder.exists()


FIELDS = {"prompt": "a red dog", "num_inference_steps": 2, "seed": 7}
CASES = {WAN_T2V: {}, SMALL_I2V: {"image_url": input_image()}}


@pytest.mark.parametrize("endpoint_id", CASES)
def test_the_frames_that_are_handed_over_are_those_of_the_plain_run_bit_for_bit(endpoint_id):
    with Engine(device="cpu", threads=1) as engine:
        served = Served(videos.entry(endpoint_id), MAKE[endpoint_id](), engine)
        images = CASES[endpoint_id]
        fields = FIELDS | ({"image_url": "https://example.org/a.png"} if images else {})

        def call():
            return served.call(fields, num_frames=9, **images)

        whole = served.run(call()).frames
        came = []
        again = call()
        small = engine.submit(
            pipeline=endpoint_id,
            view=again.view,
            options=GenerationOptions(on_frames=lambda frames: came.append(to_levels(frames))),
            **again.arguments,
        ).result(60)
    assert len(came) == 3  # the first frame, and two chunks of four
    assert np.array_equal(np.concatenate(came), to_levels(whole[0]))
    assert small.frames.shape[:3] == whole.shape[:3]
    assert small.frames.numel() < whole.numel() / 50
    assert again.recording is not None


def test_an_autoencoder_that_blends_its_chunks_gives_them_all_at_once():
    with Engine(device="cpu", threads=1) as engine:
        pipeline = MAKE[WAN_T2V]()
        pipeline.vae.enable_tiling(16, 16, 8, 8)
        served = Served(videos.entry(WAN_T2V), pipeline, engine)
        came = []
        call = served.call(FIELDS, num_frames=5)
        engine.add("tiled", pipeline)
        result = engine.submit(
            pipeline="tiled", options=GenerationOptions(on_frames=came.append), **call.arguments
        ).result(60)
        assert came == []
        assert result.frames.shape == (1, 5, 3, 16, 32)


@pytest.mark.long
def test_a_video_that_comes_with_audio_is_the_same_file_as_one_written_afterwards(
    scratch, encoders
):
    with Engine(device="cpu", threads=1) as engine:
        served = Served(
            videos.entry(LTX2, video_format={"width": 32, "height": 32}), MAKE[LTX2](), engine
        )
        in_time(served.pipeline.vae)
        written = []
        for streamed in (True, False):
            call = served.call(FIELDS, resolution=None, num_frames=41)
            recording = call.recording if streamed else None
            file, came = file_of(served, replace(call, recording=recording), scratch, encoders)
            assert (came > 5) == streamed
            written.append(file.read_bytes())
            video = decode_video(file)
            assert video.audio[:2] == ("aac", 24000)
            assert video.audio[2] == pytest.approx(41 / 25, abs=0.1)
            assert len(video.frames) == 41
    assert written[0] == written[1]


HUNYUANS = {
    "HunyuanVideoPipeline": HUNYUAN,
    "HunyuanVideoImageToVideoPipeline": HUNYUAN_I2V,
    "HunyuanVideoImageToVideoPipeline, the image beside the noise": HUNYUAN_I2V,
}


@pytest.mark.long
@pytest.mark.parametrize("title", sample_params(HUNYUANS, "HunyuanVideoImageToVideoPipeline"))
def test_a_video_begins_where_the_pipeline_has_it_begin(title, scratch, encoders):
    endpoint_id = HUNYUANS[title]
    images = {"image_url": input_image()} if endpoint_id == HUNYUAN_I2V else {}
    fields = FIELDS | ({"image_url": "https://example.org/a.png"} if images else {})
    with Engine(device="cpu", threads=1) as engine:
        served = Served(videos.entry(endpoint_id), zoo.cases()[title].build(), engine)
        in_time(served.pipeline.vae)
        call = served.call(fields, num_frames=33, **images)
        whole = to_levels(served.run(call).frames[0])
        again = served.call(fields, num_frames=33, **images)
        came = []
        again.recording.begin(scratch, encoders, Cpu())
        again.recording.follow(Paused())
        engine.submit(
            pipeline=endpoint_id,
            view=again.view,
            options=GenerationOptions(
                on_frames=lambda frames: (came.append(len(frames)), again.recording.take(frames))
            ),
            **again.arguments,
        ).result(60)
        file = again.recording.finish()
    assert len(came) > 2
    form = again.output_facts["video"].form
    first = fit(Image.fromarray(whole[0]), form.width, form.height)
    assert file.poster.tobytes() == first.tobytes()


def in_time(vae):
    """Enable tiling in time: tiles of 8 frames with an overlap of 4, of any size in pixels."""
    length = vae.temporal_compression_ratio
    vae.use_framewise_decoding = True
    vae.tile_sample_min_num_frames = 2 * length
    vae.tile_sample_stride_num_frames = length


def file_of(served, call, scratch, encoders):
    """The video's file, and the number of chunks that its frames came in."""
    came = []
    if call.recording is not None:
        call.recording.begin(scratch, encoders, Cpu())
        call.recording.follow(Paused())

    def take(frames):
        came.append(frames)
        call.recording.take(frames)

    name = served.entry.endpoint.id
    served._engine.add(name, served.pipeline)
    result = served._engine.submit(
        pipeline=name,
        view=call.view,
        options=GenerationOptions(on_frames=take if call.recording is not None else None),
        **call.arguments,
    ).result(60)
    product = deliver(served, call, result)
    return product.files[0].body, len(came)
