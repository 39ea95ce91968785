"""How long images take beside a video in one pool, through HTTP, against what they take alone.

    python -m benchmarks.long_and_short URL KEY_FILE [--rounds 3] [--images 20] [--minutes 10]

By turns: images alone, one after the other; a video alone; and both, images for as long as the
video takes. An image may have to wait for the step that the video is at, so what it takes beside is
compared with what it takes alone and one step of the video. Written for the demo models.

With ``--minutes`` the video beside takes about so long, by the number of its steps, for which the
server needs DARKROOM_MODELS=…/benchmarks/long_video.yaml; the one alone has few steps.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2

IMAGE, IMAGE_WISH = "fal-ai/flux/schnell", {"image_size": "square", "num_inference_steps": 4}
VIDEO = "fal-ai/wan/v2.2-5b/text-to-video"
VIDEO_WISH = {
    "prompt": "a red circle moves to the right",
    "num_frames": 161,
}
STEPS = 50
FEW = 10  # steps of a video that only shows how long one takes
AIM = 1.5


@dataclass
class Taken:
    """Seconds, of all turns."""

    alone: list[float] = field(default_factory=list)
    beside: list[float] = field(default_factory=list)
    video: list[float] = field(default_factory=list)
    video_beside: list[float] = field(default_factory=list)
    steps: list[float] = field(default_factory=list)  # of videos alone, on average


class Client:
    """With its own connections; for one turn after the other."""

    def __init__(self, http: httpx2.AsyncClient) -> None:
        self._http = http
        self._images = 0

    async def image(self) -> float:
        self._images += 1
        prompt = f"a red circle above {self._images % 6 + 1} blue squares"
        began = time.perf_counter()
        wish = {**IMAGE_WISH, "prompt": prompt, "seed": self._images}
        answer = await self._http.post(f"/{IMAGE}", json=wish)
        answer.raise_for_status()
        return time.perf_counter() - began

    async def video(self, steps: int) -> tuple[float, float]:
        """What it took, and each of its denoising steps."""
        wish = {**VIDEO_WISH, "num_inference_steps": steps}
        steps_seen: list[tuple[float, int]] = []
        last: dict[str, Any] = {}
        began = time.perf_counter()
        async with self._http.stream("POST", f"/{VIDEO}/stream", json=wish) as events:
            async for line in events.aiter_lines():
                if not line.startswith("data: "):
                    continue
                last = json.loads(line.removeprefix("data: "))
                stands = last.get("darkroom")
                if isinstance(stands, dict) and stands.get("stage") == "denoising":
                    steps_seen.append((time.perf_counter(), int(stands["step"])))
        if "video" not in last:
            raise RuntimeError(f"The video was not made: {str(last)[:300]}")
        (first_at, first), (last_at, step) = steps_seen[0], steps_seen[-1]
        return time.perf_counter() - began, (last_at - first_at) / (step - first)


async def turn(client: Client, images: int, minutes: float | None, taken: Taken) -> None:
    taken.alone += [await client.image() for _ in range(images)]
    whole, step = await client.video(FEW if minutes else STEPS)
    taken.video.append(whole)
    taken.steps.append(step)
    steps = round(60 * minutes / step) if minutes else STEPS
    video = asyncio.create_task(client.video(steps))
    while not video.done():
        taken.beside.append(await client.image())
    taken.video_beside.append((await video)[0])


def p95(of: Sequence[float]) -> float:
    return statistics.quantiles(of, n=100, method="inclusive")[94]


def show(taken: Taken) -> None:
    step = statistics.mean(taken.steps)
    print(f"load average {os.getloadavg()[0]:.1f}; a step of the video alone {step:.3f} s")
    for name, images, videos in (
        ("alone", taken.alone, taken.video),
        ("beside each other", taken.beside, taken.video_beside),
    ):
        print(
            f"{name:20}{len(images):4} images, p50 {statistics.median(images):.2f} s, "
            f"p95 {p95(images):.2f} s; videos {statistics.mean(videos):.1f} s"
        )
    ratio = p95(taken.beside) / (p95(taken.alone) + step)
    print(f"p95 beside against alone and one step: {ratio:.2f} x (aim: {AIM})")


async def main(options: argparse.Namespace) -> None:
    headers = {"authorization": f"Key {options.key_file.read_text().strip()}"}
    taken = Taken()
    async with httpx2.AsyncClient(base_url=options.url, headers=headers, timeout=900) as http:
        client = Client(http)
        await client.image()  # loads
        await client.video(FEW)
        for number in range(options.rounds):
            await turn(client, options.images, options.minutes, taken)
            print(f"turn {number + 1}, load average {os.getloadavg()[0]:.1f}", flush=True)
    show(taken)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("url")
    parser.add_argument("key_file", type=Path, help="such as DATA_DIR/api_key")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--minutes", type=float, help="of computing, that the video takes")
    parser.add_argument("--images", type=int, default=20, help="alone, in a turn")
    asyncio.run(main(parser.parse_args()))
