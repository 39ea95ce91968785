"""CPU time that a description adds to writing a file: ``python -m benchmarks.described_files``.

Each file is written with and without it in turns, and the shares are of the medians.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
from PIL import Image

from deployments.engine.media.audio import write_audio
from deployments.engine.media.images import encode
from deployments.engine.media.scratch import Scratch
from deployments.engine.media.video_format import VideoForm
from deployments.engine.media.video_writer import VideoFile
from serve_app.domain.media.file_metadata import FileMetadata

SIDE, FRAMES, RATE = 1024, 33, 48_000
GIVEN = {
    "prompt": "a small red circle above a blue square " * 8,
    "image_size": {"width": SIDE, "height": SIDE},
    "num_inference_steps": 28,
    "guidance_scale": 3.5,
    "num_images": 1,
}


def comment() -> str:
    """Description, made anew for each file as a replica does."""
    return FileMetadata.of_input(
        GIVEN, endpoint="fal-ai/flux/dev", model="o/n@0", seed=7, request_id="0" * 36
    ).text()


def picture(seed: int = 0) -> Image.Image:
    """Smooth image with some noise, which compresses about as a photograph does."""
    across = np.linspace(0, 3, SIDE)
    waves = np.sin(across[:, None] * 4 + across[None]) * 60 + 128
    noise = np.random.default_rng(seed).normal(0, 4, (SIDE, SIDE, 3))
    return Image.fromarray(np.clip(waves[..., None] + noise, 0, 255).astype(np.uint8))


def writers(folder: Path) -> dict[str, Callable[[str], object]]:
    """By kind of file: writes one with a description, or with an empty one."""
    image = picture()
    frame = np.asarray(image.resize((512, 512)))
    samples = np.sin(np.arange(30 * RATE, dtype=np.float32) / 20)[None]

    def video(text: str) -> None:
        scratch = Scratch()
        scratch.description = text
        form = VideoForm("video/mp4", 512, 512, Fraction(16), FRAMES)
        file = VideoFile(folder / "a.mp4", form, scratch)
        for number in range(FRAMES):
            file.add(np.roll(frame, number, axis=1))
        file.finish()

    return {
        "PNG 1024²": lambda text: encode(image, "image/png", text),
        "JPEG 1024²": lambda text: encode(image, "image/jpeg", text),
        "WebP 1024²": lambda text: encode(image, "image/webp", text),
        f"MP4 512², {FRAMES} frames": video,
        "WAV, 30 s": lambda text: write_audio(
            folder / "a.wav", samples, RATE, "audio/wav", comment=text
        ),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as folder:
        for name, write in writers(Path(folder)).items():
            took: tuple[list[float], list[float]] = ([], [])
            for number in range(2 * rounds):
                began = time.process_time()
                write(comment() if number % 2 else "")
                took[number % 2].append(time.process_time() - began)
            plain, described = (statistics.median(durations) for durations in took)
            spread = (max(took[0]) - min(took[0])) / plain
            print(
                f"{name:<22} {plain * 1000:7.1f} ms, with a description {described / plain:.3f}× "
                f"(equal files differ by up to {spread:.2f}×)"
            )


if __name__ == "__main__":
    main()
