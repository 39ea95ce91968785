"""CPU time that signing adds to writing a file: ``python -m benchmarks.marking``.

Each file is written plain, marked, and marked and signed in turns, so that what else the machine
does falls on all three. The signer is in the same process: a replica waits for a call to the
ingress besides. ``--large``: only sign a video of that many MB, and print the growth of memory.
"""

from __future__ import annotations

import argparse
import asyncio
import resource
import statistics
import tempfile
import threading
import time
from fractions import Fraction
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.described_files import SIDE, picture
from deployments.engine.media.images import encode
from deployments.engine.media.scratch import Scratch
from deployments.engine.media.video_format import VideoForm
from deployments.engine.media.video_writer import VideoFile
from deployments.transfer.manifest import GenerationFacts, ManifestWriter
from deployments.transfer.uploader import MediaFile
from serve_app.domain.artifact import UploadTicket
from serve_app.domain.lease import LeaseKey
from serve_app.provenance.certificates import local_identity

IDENTITY = local_identity(bytes(32))
FACTS = GenerationFacts("fal-ai/flux/dev", "o/n@0", 7, "0" * 36, 28)


class Signer:
    """Signs without a queue."""

    async def sign_claim(self, lease_key: LeaseKey, claim: bytes) -> bytes:
        del lease_key
        return IDENTITY.sign(claim)

    async def report_unsigned(self, lease_key: LeaseKey, reason: str) -> None:
        del lease_key
        raise RuntimeError(reason)


def ticket(media_type: str) -> UploadTicket:
    return UploadTicket("k", "http://s/k", media_type, 2**32)


def images(writer: ManifestWriter, rounds: int) -> None:
    image = Image.fromarray(np.asarray(picture()))
    for media_type in ("image/png", "image/jpeg", "image/webp"):
        took: tuple[list[float], ...] = ([], [], [])
        sizes = [0, 0, 0]
        for number in range(3 * rounds):
            way = number % 3
            began = time.process_time()
            body = encode(image, media_type, marked=way > 0)
            if way == 2:
                body = writer.add_manifest(MediaFile(ticket(media_type), body), FACTS).in_memory()
            took[way].append(time.process_time() - began)
            sizes[way] = len(body)
        plain, marked, signed = (statistics.median(durations) * 1000 for durations in took)
        print(
            f"{media_type} {SIDE}²: {plain:.1f} ms, marked {marked / plain:.3f}× "
            f"(+{sizes[1] - sizes[0]} bytes), signed {signed / plain:.3f}× "
            f"(+{signed - marked:.1f} ms, +{sizes[2] - sizes[1]} bytes)"
        )


def large(writer: ManifestWriter, folder: Path, megabytes: int) -> None:
    """Sign a video that is made large by noise that its index does not name."""
    scratch = Scratch()
    scratch.marked = True
    path = folder / "a.mp4"
    video = VideoFile(path, VideoForm("video/mp4", 512, 512, Fraction(8), 8), scratch)
    for number in range(8):
        video.add(np.roll(np.asarray(picture().resize((512, 512))), number, axis=1))
    video.finish()
    with path.open("ab") as file:
        file.write((8 + (megabytes << 20)).to_bytes(4, "big") + b"free")
        for _ in range(megabytes):
            file.write(np.random.default_rng(0).bytes(1 << 20))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.process_time()
    writer.add_manifest(MediaFile(ticket("video/mp4"), path), FACTS)
    took = time.process_time() - began
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    print(
        f"MP4 of {megabytes} MB from file to file: {took:.2f} s, {grown:.0f} MiB more at its peak"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--large", type=int, default=0, metavar="MB")
    options = parser.parse_args()
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, daemon=True).start()
    writer = ManifestWriter(Signer(), LeaseKey("one", 1), IDENTITY.chain, loop)
    if not options.large:
        images(writer, options.rounds)
    else:
        with tempfile.TemporaryDirectory() as folder:
            large(writer, Path(folder), options.large)


if __name__ == "__main__":
    main()
