"""Replica that paints real images, for tests of the page."""

from __future__ import annotations

import asyncio
import hashlib
import io
import secrets
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from PIL import Image

from serve_app.domain.artifact import Artifact
from serve_app.domain.lease import Finish, Lease, LeaseKey, Report
from serve_app.domain.media.draft import DRAFT, DRAFT_TYPE, DRAFTS
from serve_app.domain.outcome import Failure, Outcome, Usage
from serve_app.domain.progress import Preview, Progress, Stage
from tests.ingress.replica import REPLICA, ScriptedReplica

STEP_S = 0.02
SLOW_STEP_S = 1.0
IMAGE_ERROR = "image_load_error"


class Painter(ScriptedReplica):
    """Replica that obeys the prompt: ``slow`` makes it slow, ``held`` makes it wait at its second
    step until ``release``, ``fail`` makes it fail, ``bad seed`` makes it refuse the seed. With
    ``draft`` it makes drafts as well. Requests without steps are handled by the parent class."""

    def __init__(self, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self.shown: list[str] = []  # ids of requests, once per preview
        self._watched: set[LeaseKey] = set()
        self._released = asyncio.Event()

    def release(self) -> None:
        self._released.set()

    async def _run(self, lease: Lease) -> None:
        if "num_inference_steps" not in lease.input:
            await super()._run(lease)
            return
        prompt = str(lease.input["prompt"])
        self.ran.append(lease.request_id)
        steps = int(lease.input["num_inference_steps"])
        step_s = SLOW_STEP_S if "slow" in prompt else STEP_S
        await self._report(lease.key, Progress(Stage.LOADING))
        await asyncio.sleep(step_s)
        for step in range(steps):
            progress = Progress(Stage.DENOISING, step, steps, rate=1 / step_s if step else 0.0)
            await self._report(lease.key, progress)
            await asyncio.sleep(step_s)
            if "held" in prompt and step:
                await self._released.wait()
        outcome = _refusal(prompt) or await self._painted(lease, steps)
        await self._queue.finish(Finish(lease.key, REPLICA, outcome))
        self._running.pop(lease.key, None)

    async def _report(self, lease_key: LeaseKey, progress: Progress) -> None:
        previews: tuple[tuple[LeaseKey, Preview], ...] = ()
        if lease_key in self._watched and progress.step:
            image_now = image(32, 24, progress.step, "image/jpeg")
            previews = ((lease_key, Preview(progress.step, image_now)),)
            self.shown.append(lease_key.request_id)
        report = Report(REPLICA, (lease_key,), ((lease_key, progress),), previews)
        self._watched = set((await self._queue.report(report)).watched)

    async def _painted(self, lease: Lease, steps: int) -> Outcome:
        size = lease.input["image_size"]
        width, height = (512, 512) if size == "auto" else (size["width"], size["height"])
        seed = lease.input.get("seed")
        seed = 1234567 if seed is None else seed
        artifacts: list[Artifact] = []
        for number, ticket in enumerate(lease.upload_tickets):
            content = b"draft"
            if ticket.media_type != DRAFT_TYPE:
                content = image(width, height, seed + number, ticket.media_type)
            await self._storage.put(ticket.key, ticket.media_type, _chunks(content))
            digest = hashlib.sha256(content).hexdigest()
            artifacts.append(
                Artifact(ticket.key, ticket.media_type, len(content), digest, width, height)
            )
        drafts = tuple(artifact for artifact in artifacts if artifact.media_type == DRAFT_TYPE)
        artifacts = [artifact for artifact in artifacts if artifact not in drafts]
        output: dict[str, Any] = {
            "images": [{"artifact": artifact.key} for artifact in artifacts],
            "timings": {"inference": steps * STEP_S},
            "seed": seed,
            "has_nsfw_concepts": [False] * len(artifacts),
            "prompt": lease.input["prompt"],
            "darkroom_demo": True,
        }
        if unknown := lease.endpoint.unknown_words(lease.input["prompt"]):
            output["darkroom_demo_unknown"] = unknown
        if drafts:
            output[DRAFTS] = [_facts(lease.input, seed + at, steps) for at in range(len(drafts))]
        usage = Usage(run_s=0.25, steps=4)
        return Outcome(output=output, artifacts=tuple(artifacts), usage=usage, drafts=drafts)


def _facts(fields: Mapping[str, Any], seed: int, steps: int) -> dict[str, Any]:
    step = max(1, round(fields[DRAFT]["until"] * steps))
    noise = 1 - step / steps
    return {
        "id": secrets.token_urlsafe(16),
        "seed": seed,
        "step": step,
        "steps": steps,
        "noise": noise,
    }


@lru_cache(256)
def image(width: int, height: int, seed: int, media_type: str) -> bytes:
    """Soft landscape whose colours depend on the seed. Most tests have the same twelve."""
    hues = [(seed * 47 + offset) % 256 for offset in (0, 24)]
    sky = Image.linear_gradient("L").resize((width, height)).rotate(180)
    hill = Image.radial_gradient("L").resize((width, height))
    flat = Image.new("L", (width, height), hues[0])
    hue = Image.blend(flat, hill.point(lambda v: hues[1] + v // 8), 0.5)
    painted = Image.merge(
        "HSV", (hue, hill.point(lambda v: 60 + v // 3), sky.point(lambda v: 90 + v // 2))
    )
    out = io.BytesIO()
    painted.convert("RGB").save(out, format=media_type.removeprefix("image/"))
    return out.getvalue()


async def _chunks(content: bytes) -> Any:
    yield content


def _refusal(prompt: str) -> Outcome | None:
    if "bad seed" in prompt:
        return Outcome(failure=Failure("pipeline_failed", "This seed is unlucky.", False, "seed"))
    if "bad image" in prompt:
        message = "This file is not an image."
        return Outcome(failure=Failure("invalid_input", message, False, "image_size", IMAGE_ERROR))
    if "fail" in prompt:
        return Outcome(failure=Failure("pipeline_failed", "The paint has run out.", False))
    return None
