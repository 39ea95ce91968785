"""Equal frames and samples become equal files, whatever lay in memory before: what goes on from a
snapshot ends in the file of an uninterrupted run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.engine

WRITES = """
import hashlib, json, sys
from fractions import Fraction
from pathlib import Path
import numpy as np
from deployments.engine.media.video_format import VideoForm
from deployments.engine.media.video_writer import VideoWriter
from deployments.engine.media.audio import write_audio

path, digests = Path(sys.argv[1]), {}
noise = np.random.default_rng(3)
still = noise.integers(190, 248, (64, 64, 3), dtype=np.uint8)
samples = noise.normal(0, 0.1, (2, 4000)).astype(np.float32)
KINDS = [
    ("video/mp4", "fast"),
    ("video/mp4", "balanced"),
    ("video/mp4", "small"),
    ("video/webm", "fast"),
    ("image/gif", "fast"),
]

def keep(name):
    digests[name] = hashlib.sha256(path.read_bytes()).hexdigest()

for kind, effort in KINDS:
    form = VideoForm(kind, 300, 200, Fraction(16), 9, "high", effort)
    rate = None if kind == "image/gif" else 48_000
    with VideoWriter(path, form, rate) as writer:
        for number in range(9):
            frame = still + noise.integers(0, 8, still.shape, dtype=np.uint8)
            frame[20:36, 4 * number : 4 * number + 12] = (220, 30, 40)
            writer.write(frame)
            if rate:
                writer.write_audio(samples[:, :3000])
    keep(f"{kind}, {effort}")
for kind in ("audio/wav", "audio/flac", "audio/mpeg", "audio/ogg"):
    write_audio(path, samples, 16_000, kind)
    keep(kind)
print(json.dumps(digests))
"""


def digests(path: Path, filling: int) -> dict[str, str]:
    """Digests of files from a process that gets memory full of ``filling`` from the C library."""
    ran = subprocess.run(
        [sys.executable, "-c", WRITES, str(path)],
        env=os.environ | {"MALLOC_PERTURB_": str(filling)},  # noqa: TID251 a child's environment
        capture_output=True,
        text=True,
        timeout=100,
        check=True,
    )
    return dict(json.loads(ran.stdout))


@pytest.mark.long
def test_equal_frames_and_samples_become_equal_files(tmp_path: Path) -> None:
    assert digests(tmp_path / "one", 1) == digests(tmp_path / "other", 85)
