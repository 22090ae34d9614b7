"""An X-ray in memory, and how stored sample values become its 8-bit gray pixels."""

import dataclasses
from typing import Any

import numpy as np

from jaxunet.core.errors import UserError

MAX_PIXELS = 80_000_000  # chest X-rays have up to 20 million
MAX_BYTES = 512 * 2**20  # of a file
_ROBUST = (0.5, 99.5)  # percentiles that become black and white where nothing says what should


@dataclasses.dataclass(frozen=True)
class Xray:
    """An X-ray, ready to be predicted on.

    Attributes:
      pixels: uint8 [H, W], upright; white is dense.
      spacing_mm: height and width of a pixel, where the file says them.
      spacing_from: the DICOM attribute that says them.
      mirrored: whether the patient's left is at the left of the image; it is at the right otherwise.
      notes: sentences about what is unusual in the file.
      header: of a DICOM file, what a segmentation has to say about it; no name, number or date of the patient.
    """

    pixels: np.ndarray
    spacing_mm: tuple[float, float] | None = None
    spacing_from: str = ""
    mirrored: bool = False
    notes: tuple[str, ...] = ()
    header: Any = None


def check_size(height: int, width: int) -> None:
    """Raises UserError if a picture of so many pixels should not be decoded."""
    if height < 1 or width < 1:
        raise UserError(f"it claims to have {height} x {width} pixels.")
    if height * width > MAX_PIXELS:
        raise UserError(f"it claims {height} x {width} pixels, more than {MAX_PIXELS // 10**6} million: no X-ray has.")


def to_8_bits(values: np.ndarray, where: np.ndarray | None = None) -> np.ndarray:
    """Scales so that the 0.5 and 99.5 percentiles become 0 and 255.

    Args:
      values: numbers [H, W]; what is not finite becomes black.
      where: bool [H, W], which of them the percentiles are taken of; None for all.

    Returns:
      uint8 [H, W], all 0 if all values are the same.
    """
    finite = np.isfinite(values)
    counted = values[finite if where is None else finite & where]
    if not counted.size:
        raise UserError("it has no pixel with a finite value.")
    low, high = (float(x) for x in np.percentile(counted, _ROBUST))
    if low == high:  # nearly all pixels are alike: the rest would be lost
        low, high = float(counted.min()), float(counted.max())
    return stretch(np.where(finite, values, low), low, high)


def stretch(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """uint8 of any shape: `low` and what is below becomes 0, `high` and what is above 255, between them a line."""
    if high <= low:
        return np.zeros(values.shape, np.uint8)
    scaled = (values.astype(np.float32) - np.float32(low)) * np.float32(255 / (high - low))
    return np.rint(np.clip(scaled, 0, 255)).astype(np.uint8)
