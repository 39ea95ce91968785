"""A picture of a sound: how far its samples swing, from left to right."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

from deployments.engine.sound_levels import Samples

WIDTH, HEIGHT = 960, 240  # pixels
GROUND, LINE, SWING = (18, 20, 24), (70, 76, 86), (120, 200, 255)


def waveform(samples: Samples) -> Image.Image:
    """Each column spans the least and the greatest sample of its part of the time, in any
    channel."""
    picture = Image.new("RGB", (WIDTH, HEIGHT), GROUND)
    draw = ImageDraw.Draw(picture)
    middle, reach = (HEIGHT - 1) / 2, (HEIGHT - 1) / 2 - 4
    draw.line((0, middle, WIDTH, middle), fill=LINE)
    edges = np.linspace(0, samples.shape[1], WIDTH + 1).astype(int)
    for column in range(WIDTH):
        # A sound of fewer samples than columns repeats some.
        part = samples[:, edges[column] : max(edges[column + 1], edges[column] + 1)]
        low, high = float(part.min(initial=0.0)), float(part.max(initial=0.0))
        if low != high:
            draw.line((column, middle - high * reach, column, middle - low * reach), fill=SWING)
    return picture
