"""What a thumbnail costs beside the encoding of its file.

    python -m benchmarks.thumbnails [--side 1024] [--rounds 9]

Both by the CPU time of their thread, in turns, with the median of the rounds. The image has detail
at every scale, as a photograph has. A replica makes thumbnails on its encoder threads while it
uploads the files, so a request takes longer only by what thumbnails take longer than uploads.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image

from deployments.engine.media.images import encode, thumbnail
from deployments.replica.files import shown_image
from deployments.transfer.uploader import MediaFile
from serve_app.domain.artifact import UploadTicket

FORMATS = "image/png", "image/jpeg", "image/webp"


def photograph(side: int) -> Image.Image:
    random = np.random.default_rng(1)
    levels = np.zeros((side, side, 3))
    for octave in range(2, 9):
        cells = random.integers(0, 256, (2**octave, 2**octave, 3), np.uint8)
        large = Image.fromarray(cells).resize((side, side), Image.Resampling.BICUBIC)
        levels += np.asarray(large, float) / 1.6**octave
    levels -= levels.min()
    return Image.fromarray((levels / levels.max() * 255).astype(np.uint8))


def spent_ms(work: Callable[[], Any]) -> float:
    began = time.thread_time()
    work()
    return (time.thread_time() - began) * 1e3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--side", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    image = photograph(options.side)
    for media_type in FORMATS:
        body = encode(image, media_type)
        file = MediaFile(UploadTicket("k", "", media_type, 10**9), body)
        kinds: dict[str, Callable[[], Any]] = {
            "encode": lambda of=media_type: encode(image, of),
            "thumbnail": lambda: thumbnail(image),
            "read and thumbnail": lambda of=file: thumbnail(shown_image(of)),
        }
        times: dict[str, list[float]] = {name: [] for name in kinds}
        for _ in range(options.rounds):
            for name, work in kinds.items():
                times[name].append(spent_ms(work))
        medians = {name: statistics.median(durations) for name, durations in times.items()}
        small = len(thumbnail(image)[0])
        print(
            f"{media_type}: {len(body)} bytes, thumbnail {small}; "
            + ", ".join(
                f"{name} {median / medians['encode']:.2f} ({median:.1f} ms)"
                for name, median in medians.items()
            )
        )


if __name__ == "__main__":
    main()
