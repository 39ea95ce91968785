"""Sizes of videos by fal's names."""

from __future__ import annotations

from collections.abc import Mapping

VIDEO_SIZES: Mapping[str, Mapping[str, tuple[int, int]]] = {
    "480p": {"16:9": (832, 480), "9:16": (480, 832), "1:1": (624, 624)},
    "580p": {"16:9": (1024, 576), "9:16": (576, 1024), "1:1": (768, 768)},
    "720p": {"16:9": (1280, 720), "9:16": (720, 1280), "1:1": (960, 960)},
    "1080p": {"16:9": (1920, 1080), "9:16": (1080, 1920), "1:1": (1440, 1440)},
    "1440p": {"16:9": (2560, 1440), "9:16": (1440, 2560), "1:1": (1920, 1920)},
    "2160p": {"16:9": (3840, 2160), "9:16": (2160, 3840), "1:1": (2880, 2880)},
}
"""Resolution → aspect ratio → width and height in pixels. Wan was trained with the sizes up to
720p."""
