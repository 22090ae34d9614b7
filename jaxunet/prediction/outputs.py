"""What is written of one X-ray: masks, probabilities, an overlay, a DICOM segmentation; and the row that it returns."""

import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from jaxunet.core.errors import UserError
from jaxunet.core.files import write_atomically
from jaxunet.core.pictures import png
from jaxunet.data import targets
from jaxunet.data.targets import TARGETS
from jaxunet.prediction.measures import doubts, measure
from jaxunet.scoring.counts import positive
from jaxunet.scoring.detection import Rule
from jaxunet.xrays.files import output_name
from jaxunet.xrays.pixels import Xray

_OVERLAY_SIDE = 1024  # pixels; overlays are to be looked at
INSIDE, OUTLINE = 1, 2  # of a mask, in `overlay_layers`


def mask_path(output: pathlib.Path, name: str, target: str) -> pathlib.Path:
    """Where the mask of the file `name` is written."""
    return output / "masks" / f"{output_name(name)}_{target}.png"


def write(
    output: pathlib.Path,
    file_name: str,
    image: Xray,
    logits: np.ndarray,
    probability: float | None,
    settings: dict[str, Any],
) -> dict[str, Any]:
    """Writes the pictures of one X-ray and returns its row.

    Args:
      output: folder of the predictions.
      file_name: of the X-ray, `XrayFile.name`.
      image: the X-ray.
      logits, probability: see `describe`.
      settings: as for `describe`, and `probabilities`.
    """
    name = output_name(file_name)
    masks, row = describe(image, logits, probability, settings)
    if image.header is not None:
        row["warnings"] += _write_segmentation(output / "segmentations" / f"{name}.seg.dcm", image, masks)
    for i, (target, mask) in enumerate(masks.items()):
        if settings["probabilities"]:
            probability = 255 / (1 + np.exp(-np.clip(logits[..., i], -80, 80)))
            _write_png(output / "probabilities" / f"{name}_{target}.png", np.rint(probability).astype(np.uint8))
        _write_png(mask_path(output, file_name, target), mask.astype(np.uint8) * 255)
    _write_png(output / "overlays" / f"{name}.png", overlay(image.pixels, masks))
    return row


def masks_of(logits: np.ndarray, targets: Sequence[str], threshold: float) -> dict[str, np.ndarray]:
    """float32 [H, W, C] -> by target, bool [H, W]."""
    return {target: positive(logits[..., i], threshold) for i, target in enumerate(targets)}


def describe(
    image: Xray, logits: np.ndarray, probability: float | None, settings: dict[str, Any]
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """What is predicted of one X-ray.

    Args:
      image: the X-ray.
      logits: float32 [H, W, C] of the masks, at its size.
      probability: of COVID-19 for the whole image, if the network answers that.
      settings: `targets`; `threshold`; `detection`, the rule as `Rule.to_dict` gives it; `gate`, whether an X-ray
        that the network does not call COVID-19 has a blank mask of what it has learnt from COVID-19 images alone.

    Returns:
      Its masks, by target, bool [H, W]; and its row: its size, `measures.measure`, COVID-19 or not, and `warnings`, a
      list of sentences.
    """
    masks = masks_of(logits, settings["targets"], settings["threshold"])
    rule = Rule.from_dict(settings["detection"], answers=probability is not None)
    if settings["gate"] and not rule.calls(probability):
        masks = {name: np.zeros_like(mask) if TARGETS[name].learnt_from else mask for name, mask in masks.items()}
    finding, organ = (masks.get(of(settings["targets"])) for of in (targets.finding, targets.organ))
    measures = measure(finding, organ, spacing_mm=image.spacing_mm, mirrored=image.mirrored)
    height, width = image.pixels.shape
    pixel_height, pixel_width = image.spacing_mm or (None, None)
    row = {
        "height": height,
        "width": width,
        **{key: round(value, 4) if isinstance(value, float) else value for key, value in measures.items()},
        "pixel_height_mm": pixel_height,
        "pixel_width_mm": pixel_width,
        "covid19_probability": None if probability is None else round(probability, 6),
        "covid19_detected": rule.calls_xray(measures, probability),
        "warnings": [*image.notes, *doubts(image.pixels, organ)],
    }
    return masks, row


def _write_png(path: pathlib.Path, pixels: np.ndarray) -> None:
    write_atomically(path, png(pixels, compress_level=1))


def _write_segmentation(path: pathlib.Path, image: Xray, masks: dict[str, np.ndarray]) -> list[str]:
    """Returns why it was not written, if so."""
    from jaxunet.prediction import dicom_segmentation  # late: pydicom is optional

    try:
        dicom_segmentation.write_segmentation(path, image.header, masks, image.spacing_mm)
    except UserError as error:
        return [str(error)]
    return []


def overlay(image: np.ndarray, masks: dict[str, np.ndarray]) -> np.ndarray:
    """uint8 [h, w, 3]: the X-ray uint8 [H, W], at most 1024 pixels per side, with the outlines of the masks."""
    picture, layers = overlay_layers(image, masks)
    painted = np.repeat(picture[..., None], 3, axis=-1)
    for target, layer in sorted(layers.items(), reverse=True):  # infection on top
        painted[layer == OUTLINE] = TARGETS[target].colour
    return painted


def overlay_layers(image: np.ndarray, masks: dict[str, np.ndarray]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """What `overlay` lays over each other: the X-ray uint8 [h, w], and by target uint8 [h, w], 0 outside the mask."""
    step = -(-max(image.shape) // _OVERLAY_SIDE)
    picture = np.asarray(Image.fromarray(image).reduce(step)) if step > 1 else image
    thick = max(1, max(picture.shape) // 400)
    layers = {}
    for target, mask in masks.items():
        small = mask[::step, ::step]
        layers[target] = np.where(_outline(small, thick), OUTLINE, INSIDE * small).astype(np.uint8)
    return picture, layers


def _outline(mask: np.ndarray, thick: int) -> np.ndarray:
    """bool [H, W]: the pixels of the mask at most so far from one outside it."""
    padded = np.pad(mask, thick)
    inside = mask.copy()
    for axis in (0, 1):
        for shift in (-thick, thick):
            inside &= np.roll(padded, shift, axis)[thick:-thick, thick:-thick]
    return mask & ~inside
