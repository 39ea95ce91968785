"""Files that an input names, as families take them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from deployments.engine.clip_reading import read_clip
from deployments.engine.picture_reading import read_picture
from deployments.engine.sound_reading import read_sound
from deployments.task import GivenKind

LEAST_SIDE = 8
"""Pixels: an autoencoder makes one value of as many."""

READERS: Mapping[GivenKind, Callable[[bytes, str], Any]] = {
    GivenKind.PICTURE: partial(read_picture, least_side=LEAST_SIDE),
    GivenKind.CLIP: read_clip,
    GivenKind.SOUND: read_sound,
}
"""Each takes the file and its field's name; ``InvalidInput`` names the field."""
