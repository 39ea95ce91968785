"""A family whose files are there before it is asked, for ``benchmarks.image_cost``: all that it
costs to deliver a file, and nothing that it costs to draw one."""

from __future__ import annotations

import io
import time
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import av
import numpy as np

from benchmarks.thumbnails import photograph
from deployments.engine.media.images import encode
from deployments.families.base import GenerationCall, GenerationResult, Product
from deployments.transfer.uploader import MediaFile
from serve_app.domain.artifact import UploadTicket
from serve_app.domain.endpoint import Endpoint
from tests.fakes.probe_pipeline import ProbePipeline

VIDEO_BYTES = 20_000_000


class FinishedFiles:
    """Option of an endpoint: ``side`` of its image in pixels; 0: a video. An endpoint without it
    answers with the CPU seconds of the replica's event loop."""

    name = "finished"

    def load(self, endpoint: Endpoint, _device: str) -> ProbePipeline:
        if "side" in endpoint.options:
            make_file(endpoint.options["side"])
        return ProbePipeline()

    def prepare(
        self, endpoint: Endpoint, _input: Mapping[str, Any], _pipeline: Any, _seed: int
    ) -> GenerationCall:
        steps = {"num_inference_steps": 0, "step_s": 0.0, "crash_at_step": None, "hang_s": 0.0}
        return GenerationCall({**steps, "fail": None}, makes_files="side" in endpoint.options)

    def deliver(
        self,
        endpoint: Endpoint,
        _call: GenerationCall,
        _made: GenerationResult,
        tickets: Sequence[UploadTicket],
    ) -> Product:
        if "side" not in endpoint.options:
            return Product({"loop_s": time.thread_time()})
        side = endpoint.options["side"]
        body, pixels = make_file(side), side or None
        files = [MediaFile(ticket, body, pixels, pixels) for ticket in tickets]
        return Product({"images": [{"artifact": file.ticket.key} for file in files]}, files, 1.0)


@cache
def make_file(side: int) -> bytes:
    """An image as PNG, or for 0 a video of ``VIDEO_BYTES``."""
    return encode(photograph(side), "image/png") if side else _video()


def _video() -> bytes:
    """Noise, which takes any bit rate."""
    random, file = np.random.default_rng(1), io.BytesIO()
    with av.open(file, "w", "mp4") as container:
        stream = container.add_stream("mpeg4", 24)
        stream.width, stream.height, stream.pix_fmt = 512, 512, "yuv420p"
        stream.bit_rate = 100_000_000
        while file.tell() < VIDEO_BYTES:
            pixels = random.integers(0, 256, (512, 512, 3), np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels)))
        container.mux(stream.encode(None))
    return file.getvalue()
