"""The colours of the images and the videos: eight for objects, three more for backgrounds."""

from __future__ import annotations

from typing import Final

Rgb = tuple[int, int, int]

#: The colours that an object can have, sRGB.
OBJECT_COLOURS: Final[dict[str, Rgb]] = {
    "red": (222, 36, 40),
    "orange": (250, 136, 16),
    "yellow": (250, 222, 40),
    "green": (36, 160, 70),
    "cyan": (40, 205, 222),
    "blue": (36, 76, 222),
    "purple": (128, 48, 176),
    "pink": (250, 130, 190),
}

#: The colours that a background can have; an object never has its background's colour. Gray is a
#: light one: a field of middle gray is all zeros to an autoencoder, whose norms then amplify noise.
BACKGROUND_COLOURS: Final[dict[str, Rgb]] = {
    "white": (255, 255, 255),
    "gray": (184, 184, 184),
    "black": (16, 16, 16),
    **OBJECT_COLOURS,
}
