"""Video endpoints: from the frames to the files."""

from __future__ import annotations

from io import BytesIO
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from deployments.engine.media.images import fit, to_levels
from deployments.engine.media.scratch import Scratch
from deployments.families.base import GenerationResult
from serve_app.domain.errors import Cancelled, InvalidInput, Misconfigured
from tests.deployments.served import Served
from tests.deployments.video_cases import (
    body,
    call_of,
    engine,
    pipelines,
    serve,
)
from tests.deployments.videos import (
    LTX2,
    LTX_T2V,
    SMALL_T2V,
    decode_video,
    deliver,
    tickets,
)

__all__ = ["engine", "pipelines", "serve"]

pytestmark = [pytest.mark.engine, pytest.mark.filterwarnings("ignore")]


def as_delivered(served: Served, product: Any) -> Any:
    return decode_video(product.files[0].body)


def test_the_product_is_a_video_with_its_first_frame_and_fals_facts_about_it(serve):
    served = serve(LTX_T2V)
    call = served.call(body(LTX_T2V))
    result = served.run(call)
    product = deliver(served, call, result)
    assert product.output == {
        "video": {
            "artifact": "key-0",
            "width": 64,
            "height": 32,
            "content_type": "video/mp4",
            "file_size": product.files[0].size,
            "fps": 25,
            "duration": 0.36,
            "num_frames": 9,
        },
        "poster": {
            "artifact": "key-1",
            "width": 64,
            "height": 32,
            "content_type": "image/jpeg",
            "file_size": product.files[1].size,
        },
        "seed": 7,
        "prompt": "a red dog",
        "timings": {"inference": 1.5},
    }
    assert product.units == 0.36
    video = decode_video(product.files[0].body)
    assert (video.codec, video.pixels, video.size, video.fps) == ("h264", "yuv420p", (64, 32), 25)
    assert video.duration_s == 0.36
    assert len(video.frames) == 9
    drawn = [
        np.asarray(fit(Image.fromarray(pixels), 64, 32), dtype=int)
        for pixels in to_levels(result.frames[0])
    ]
    for number, frame in enumerate(video.frames):  # scaled and lossy, but in order
        errors = [np.abs(frame.astype(int) - drawing).mean() for drawing in drawn]
        assert np.argmin(errors) == number
    poster = Image.open(BytesIO(product.files[1].body))
    assert (poster.format, poster.size) == ("JPEG", (64, 32))


def test_the_same_seed_gives_the_same_bytes(serve):
    def made() -> bytes:
        served = serve(LTX_T2V)
        call = served.call(body(LTX_T2V))
        return deliver(served, call, served.run(call)).files[0].body.read_bytes()

    assert made() == made()


def test_ltx_2_comes_with_its_audio_unless_it_is_not_wanted(serve):
    served = serve(LTX2, video_format={"width": 64, "height": 32})
    result = served.run(call_of(served, body(LTX2), resolution=None))
    for has_audio, audio in ((True, ("aac", 24000)), (False, None)):
        call = call_of(served, body(LTX2, generate_audio=has_audio), resolution=None)
        product = deliver(served, call, result)
        video = decode_video(product.files[0].body)
        assert (video.audio[:2] if video.audio else None) == audio
        assert video.duration_s == pytest.approx(0.36, abs=0.03)
        assert product.output["video"]["num_frames"] == len(video.frames) == 9


@pytest.mark.long
def test_a_file_of_1080p_has_1080_lines_of_the_1088_that_are_rendered(serve):
    served = serve(LTX2, native_size=None)
    call = call_of(served, body(LTX2, generate_audio=False))
    rendered = (call.arguments["height"], call.arguments["width"])
    frames = torch.zeros(1, 9, 3, *rendered)
    frames[..., 4:-4, :] = 1.0  # the part that must remain
    product = deliver(served, call, SimpleNamespace(frames=frames))
    video = decode_video(product.files[0].body)
    assert video.size == (1920, 1080)
    assert np.stack(video.frames).min() > 250
    assert (product.output["video"]["width"], product.output["video"]["height"]) == video.size


@pytest.mark.parametrize(("name", "codec"), [("webm", "vp9"), ("gif", "gif")])
def test_other_formats_are_written_as_asked(serve, name, codec):
    served = serve(LTX_T2V)
    call = served.call(body(LTX_T2V, output_format=name))
    product = deliver(served, call, served.run(call))
    video = decode_video(product.files[0].body)
    assert (video.codec, video.size, len(video.frames)) == (codec, (64, 32), 9)
    assert product.output["video"]["content_type"] == call.output_facts["video"].form.media_type


def test_a_gif_is_refused_at_a_pace_that_it_cannot_have(serve):
    with pytest.raises(InvalidInput, match="output_format: a GIF has at most 50"):
        serve(SMALL_T2V).call(
            body(SMALL_T2V, output_format="gif", frames_per_second=60, num_frames=17)
        )


def test_the_quality_and_the_effort_of_the_file_are_the_requests(serve):
    served = serve(LTX_T2V)
    sizes = {}
    result = served.run(served.call(body(LTX_T2V)))
    for quality in ("low", "maximum"):
        fields = body(LTX_T2V, video_quality=quality, video_write_mode="fast")
        sizes[quality] = deliver(served, served.call(fields), result).files[0].size
    assert sizes["low"] < sizes["maximum"]


def test_files_that_are_no_longer_waited_for_are_given_up_between_two_frames(serve):
    served = serve(LTX_T2V)
    call = served.call(body(LTX_T2V))
    result = served.run(call)
    reported: list[tuple[int, int]] = []

    def on_made(done: int, total: int) -> None:
        reported.append((done, total))
        if done == 3:
            scratch.close()

    scratch = Scratch(on_made)
    generated = GenerationResult(result, 1.0, 2, scratch)
    folder = scratch.new_file("mp4").parent
    with pytest.raises(Cancelled), scratch.busy():
        served.family.deliver(served.entry.endpoint, call, generated, tickets())
    assert reported == [(1, 9), (2, 9), (3, 9)]
    assert not folder.exists()


def test_a_lease_with_tickets_for_other_files_is_a_mistake_of_ours(serve):
    served = serve(LTX_T2V)
    call = served.call(body(LTX_T2V))
    generated = GenerationResult(served.run(call), 1.0, 2)
    for wrong in ((), tickets(media_type="video/webm")):
        with pytest.raises(Misconfigured, match=r"makes a video as video/mp4"):
            served.family.deliver(served.entry.endpoint, call, generated, wrong)


def test_a_video_without_a_second_ticket_has_no_poster(serve):
    served = serve(LTX_T2V)
    call = served.call(body(LTX_T2V))
    product = deliver(served, call, served.run(call), count=1)
    assert "poster" not in product.output
    assert len(product.files) == 1
