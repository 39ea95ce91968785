"""A family without diffusers: its input says what goes well and what goes wrong.

It runs through the real engine, so steps, progress and cancellation are the real ones. Input:
``steps``, ``step_ms``, ``crash_at_step`` (the process kills itself), ``hang_s`` (one step blocks
the engine's thread for that long), ``fail`` (a message to fail with), ``artifact_bytes`` (size of a
file).
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from deployments.family import GenerationCall, Made, MediaFile, Product
from serve_app.domain.artifact import UploadTicket
from serve_app.domain.endpoint import Endpoint
from serve_app.domain.errors import WeightsUnavailable

if TYPE_CHECKING:
    from tests.fakes.probe_pipeline import ProbePipeline


class ProbeFamily:
    """An endpoint whose weights' source is ``missing`` cannot be loaded; options: ``load_s``."""

    name = "probe"

    def load(self, endpoint: Endpoint, device: str) -> ProbePipeline:
        from tests.fakes.probe_pipeline import ProbePipeline  # noqa: PLC0415

        time.sleep(float(endpoint.options.get("load_s", 0)))
        if endpoint.weights.source == "missing":
            raise WeightsUnavailable("The probe's weights are missing, as asked.")
        return ProbePipeline()

    def prepare(
        self, endpoint: Endpoint, input: Mapping[str, Any], pipeline: Any, seed: int
    ) -> GenerationCall:
        steps = int(input.get("steps", 0))
        size = int(input.get("artifact_bytes", 0))
        arguments = {
            "num_inference_steps": steps,
            "step_s": float(input.get("step_ms", 0)) / 1000,
            "crash_at_step": input.get("crash_at_step"),
            "hang_s": float(input.get("hang_s", 0)),
            "fail": input.get("fail"),
        }
        facts = {"seed": input.get("seed", seed), "artifact_bytes": size}
        return GenerationCall(arguments, facts, makes_files=size > 0)

    def deliver(
        self,
        endpoint: Endpoint,
        call: GenerationCall,
        made: Made,
        tickets: Sequence[UploadTicket],
    ) -> Product:
        output = {"steps": made.result, "seed": call.facts["seed"]}
        size = call.facts["artifact_bytes"]
        if not size:
            return Product(output)
        file = MediaFile(tickets[0], b"\x89" * size)
        return Product({**output, "file": {"artifact": file.ticket.key}}, [file], units=1.0)


def end_process() -> None:
    """As the kernel's out-of-memory killer does."""
    os.kill(os.getpid(), signal.SIGKILL)
