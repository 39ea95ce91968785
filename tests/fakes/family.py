"""A family without diffusers: its input says what goes well and what goes wrong.

It runs through the real engine: steps, progress and cancellation are the real ones. Input, all
optional: ``steps``, ``step_ms``, ``sleep_s`` (in steps, so it can be cancelled),
``crash_at_step`` (the process kills itself), ``hang_s`` (the first step blocks the engine's
thread for that long), ``fail`` (a message to fail with), ``message`` (the same, word for word),
``artifacts`` (how many files), ``artifact_bytes`` (their size; one file if ``artifacts`` is not
given), ``content`` (what they hold), ``echo`` (comes back), ``seed``. An endpoint whose task takes
a video or audio reads as much of it as a model would.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from deployments.families.base import GenerationCall, GenerationResult, MediaFile, Product
from serve_app.domain.artifact import UploadTicket
from serve_app.domain.endpoint import Endpoint
from serve_app.domain.errors import PipelineFailed, WeightsUnavailable

if TYPE_CHECKING:
    from tests.fakes.probe_pipeline import ProbePipeline


NAP_S = 0.02


class ProbeFamily:
    """An endpoint whose weights' source is ``missing`` cannot be loaded. Options: ``load_s``."""

    name = "probe"

    def load(self, endpoint: Endpoint, _device: str) -> ProbePipeline:
        from tests.fakes.probe_pipeline import ProbePipeline  # noqa: PLC0415

        time.sleep(float(endpoint.options.get("load_s", 0)))
        if endpoint.weights.source == "missing":
            raise WeightsUnavailable("The probe's weights are missing, as asked.")
        return ProbePipeline()

    def prepare(
        self, _endpoint: Endpoint, input: Mapping[str, Any], _pipeline: Any, seed: int
    ) -> GenerationCall:
        if "video_url" in input:
            input["video_url"].frames(64, 64, Fraction(8), 200)
        if "audio_url" in input:
            input["audio_url"].samples(44_100, 2, 60.0)
        sleep_s = float(input.get("sleep_s", 0))
        arguments = {
            "num_inference_steps": int(input.get("steps", math.ceil(sleep_s / NAP_S))),
            "step_s": float(input.get("step_ms", NAP_S * 1000 if sleep_s else 0)) / 1000,
            "crash_at_step": input.get("crash_at_step"),
            "hang_s": float(input.get("hang_s", 0)),
            "fail": _error(input),
        }
        files = _files(input)
        output = {"echo": input["echo"]} if "echo" in input else {}
        facts = {"output": {**output, "seed": input.get("seed", seed)}, "files": files}
        return GenerationCall(arguments, facts, makes_files=bool(files))

    def deliver(
        self,
        _endpoint: Endpoint,
        call: GenerationCall,
        generated: GenerationResult,
        tickets: Sequence[UploadTicket],
    ) -> Product:
        output = {**call.output_facts["output"], "steps": generated.result}
        bodies = call.output_facts["files"]
        if not bodies:
            return Product(output)
        files = [MediaFile(*pair) for pair in zip(tickets, bodies, strict=False)]
        images = [{"artifact": file.ticket.key} for file in files]
        return Product({**output, "images": images}, files, units=float(len(files)))


def _error(input: Mapping[str, Any]) -> Exception | None:
    """With ``message`` an error of Darkroom's own, which keeps its words; else any pipeline's."""
    if "message" in input:
        return PipelineFailed(str(input["message"]))
    return ValueError(str(input["fail"])) if "fail" in input else None


def _files(input: Mapping[str, Any]) -> list[bytes]:
    size = int(input.get("artifact_bytes", 0))
    body = b"\x89" * size or str(input.get("content", "image")).encode()
    return [body] * int(input.get("artifacts", 1 if size else 0))
