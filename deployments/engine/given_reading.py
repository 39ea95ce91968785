"""Files that an input names, as families take them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from deployments.engine.picture_reading import read_picture
from deployments.task import GivenKind

READERS: Mapping[GivenKind, Callable[[bytes, str], Any]] = {
    GivenKind.PICTURE: read_picture,
}
"""Each takes the file and its field's name; ``InvalidInput`` names the field."""
