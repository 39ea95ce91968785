"""What lies outside an inpainting mask is the original, and the border between them is soft."""

import numpy as np
import pytest
from PIL import Image, ImageDraw

from deployments.engine.media.inpainting import BLACK, FEATHER, keep_outside

SIDE = 48
BOX = (16, 16, 31, 31)


def noise(seed):
    levels = np.random.default_rng(seed).integers(0, 256, (SIDE, SIDE, 3), np.uint8)
    return Image.fromarray(levels)


def box_mask(mode="L", size=SIDE):
    mask = Image.new(mode, (size, size))
    ImageDraw.Draw(mask).rectangle([side * size // SIDE for side in BOX], fill="white")
    return mask


def share(mask):
    """How much of the new image there is in each pixel, 0 to 1."""
    new, old = (Image.new("RGB", (SIDE, SIDE), colour) for colour in ("white", "black"))
    (image,) = keep_outside([new], old, mask)
    return np.asarray(image)[:, :, 0] / 255


def test_each_image_is_the_original_outside_the_mask_and_itself_deep_inside():
    original, drawn = noise(0), [noise(1), noise(2)]
    outside = np.asarray(box_mask()) == 0
    for image, drawing in zip(keep_outside(drawn, original, box_mask()), drawn, strict=True):
        assert (np.asarray(image)[outside] == np.asarray(original)[outside]).all()
        inside = (slice(16 + FEATHER, 32 - FEATHER),) * 2
        assert (np.asarray(image)[inside] == np.asarray(drawing)[inside]).all()


def test_the_border_is_soft_inside_the_mask_and_none_is_at_the_edge_of_the_image():
    across = share(box_mask())[24, 14:22]
    assert across == pytest.approx([0, 0, 0.25, 0.5, 0.75, 1, 1, 1], abs=0.01)
    assert (share(Image.new("L", (SIDE, SIDE), 255)) == 1).all()


def test_grey_parts_of_a_mask_are_blended_by_their_level():
    ramp = Image.fromarray(np.tile(np.linspace(0, 255, SIDE).astype(np.uint8), (SIDE, 1)))
    shares = share(ramp)[0]
    assert (np.diff(shares) >= 0).all()
    assert (shares <= np.asarray(ramp)[0] / 255).all()
    assert shares[-1] > 0.9


def test_the_noise_of_a_jpeg_and_the_ringing_of_a_resized_mask_draw_nothing():
    far = np.ones((SIDE, SIDE), bool)
    far[14:34, 14:34] = False
    noisy = Image.fromarray(np.maximum(np.asarray(box_mask()), BLACK - 1))
    resized = box_mask(size=SIDE * 8).resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    assert not share(noisy)[far].any()
    assert not share(resized)[far].any()


@pytest.mark.parametrize("line", [(0, 24, 47, 24), (5, 5, 40, 40), (5, 9, 42, 30)])
def test_a_stroke_over_a_scratch_is_drawn_in_full(line):
    mask = Image.new("L", (SIDE, SIDE))
    ImageDraw.Draw(mask).line(line, fill=255, width=3)
    assert (share(mask) == np.asarray(mask) / 255).all()


def test_a_round_mask_is_soft_all_around():
    mask = Image.new("L", (SIDE, SIDE))
    ImageDraw.Draw(mask).ellipse((4, 4, 43, 43), fill=255)
    inside = np.asarray(mask) > 0
    within = np.pad(inside, 1)
    border = inside & ~(within[:-2, 1:-1] & within[2:, 1:-1] & within[1:-1, :-2] & within[1:-1, 2:])
    assert share(mask)[border].max() < 0.3
