"""BentoML, with its adaptive batching. Run by `bentoml serve`, so configured by the environment."""

from __future__ import annotations

import base64
import os

import bentoml

from benchmarks.peers.drawing import Drawing
from benchmarks.wishes import Wish

BATCH = int(os.environ.get("PEER_BATCH", "16"))  # noqa: TID251 no part of Darkroom
THREADS = int(os.environ.get("PEER_THREADS", "1"))  # noqa: TID251


@bentoml.service(workers=1, traffic={"timeout": 600, "max_concurrency": 256})
class Draws:
    """Takes lists of wishes, gives lists of PNG files in base64."""

    def __init__(self) -> None:
        self._drawing = Drawing(THREADS)

    # What it thinks would take longer than `max_latency_ms` it answers with 503.
    @bentoml.api(route="/draw", batchable=True, max_batch_size=BATCH, max_latency_ms=600_000)
    def draw(self, wanted: list[dict]) -> list[str]:
        files = self._drawing.draw([Wish.of_json(fields) for fields in wanted])
        return [base64.b64encode(file).decode() for file in files]
