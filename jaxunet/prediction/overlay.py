"""The picture of a prediction: the X-ray with the outlines of its masks."""

import numpy as np
from PIL import Image

from jaxunet.data.targets import Records

_SIDE = 1024  # pixels, enough to look at
INSIDE, OUTLINE = 1, 2  # values in `layers`


def paint(image: np.ndarray, masks: dict[str, np.ndarray], records: Records) -> np.ndarray:
    """X-ray uint8 [H, W] and masks bool [H, W] -> uint8 [h, w, 3]: at most 1024 pixels per side, masks outlined.

    `records`: of the masks, for their colours.
    """
    picture, drawn = layers(image, masks)
    painted = np.repeat(picture[..., None], 3, axis=-1)
    for target, layer in sorted(drawn.items(), key=lambda item: bool(records[item[0]].within)):  # findings on top
        painted[layer == OUTLINE] = records[target].colour
    return painted


def layers(image: np.ndarray, masks: dict[str, np.ndarray]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The parts of `paint`: the X-ray uint8 [h, w], and target -> uint8 [h, w]: 0 outside, INSIDE or OUTLINE."""
    step = -(-max(image.shape) // _SIDE)
    picture = np.asarray(Image.fromarray(image).reduce(step)) if step > 1 else image
    thick = max(1, max(picture.shape) // 400)
    drawn = {}
    for target, mask in masks.items():
        small = mask[::step, ::step]
        drawn[target] = np.where(_outline(small, thick), OUTLINE, INSIDE * small).astype(np.uint8)
    return picture, drawn


def _outline(mask: np.ndarray, thick: int) -> np.ndarray:
    """bool [H, W]: the pixels of the mask within `thick` pixels of its border."""
    padded = np.pad(mask, thick)
    inside = mask.copy()
    for axis in (0, 1):
        for shift in (-thick, thick):
            inside &= np.roll(padded, shift, axis)[thick:-thick, thick:-thick]
    return mask & ~inside
