"""One X-ray file, PNG, JPEG, TIFF or DICOM, of any size and bit depth -> gray pixels of 8 bits and what goes with them.

How large a picture is, is read from its header before anything is decoded; nothing is unpacked to disk.
"""

import dataclasses
import io
import warnings
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from jaxunet.errors import UserError

MAX_PIXELS = 80_000_000  # chest X-rays have up to 20 million
MAX_BYTES = 512 * 2**20  # of a file
_ROBUST = (0.5, 99.5)  # percentiles that become black and white where nothing says what should
_WHITE_IS_ZERO = 0  # of TIFF's PhotometricInterpretation, tag 262
_COLOURED = 8.0  # mean difference between the largest and the smallest of red, green and blue

warnings.simplefilter("error", Image.DecompressionBombWarning)  # above 89 million pixels: an error as any other


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


def read(data: bytes) -> Xray:
    """Decodes a file; what it is, its first bytes say.

    8-bit gray is taken as it is, colour as its luminance (ITU-R 601). More bits are scaled by what a DICOM file says
    about its display, else so that the 0.5 and 99.5 percentiles become black and white. A rotation in EXIF is done.

    Raises:
      UserError: if it cannot be used; the sentence does not name the file.
    """
    if data[128:132] == b"DICM":
        from jaxunet import dicom  # late: pydicom is optional

        return dicom.read(data)
    try:
        with Image.open(io.BytesIO(data), formats=("PNG", "JPEG", "TIFF")) as picture:
            check_size(picture.height, picture.width)
            return _read_picture(picture)
    except UnidentifiedImageError as error:
        raise UserError("this is no PNG, JPEG, TIFF or DICOM file.") from error
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise UserError(f"it claims more than {MAX_PIXELS // 10**6} million pixels: this is no X-ray.") from error
    except (OSError, ValueError, SyntaxError, EOFError, MemoryError, TypeError, KeyError, IndexError) as error:
        raise UserError(f"it is damaged or cannot be decoded ({' '.join(str(error).split())[:120]}).") from error


def check_size(height: int, width: int) -> None:
    """Raises UserError if a picture of so many pixels should not be decoded."""
    if height < 1 or width < 1:
        raise UserError(f"it claims to have {height} x {width} pixels.")
    if height * width > MAX_PIXELS:
        raise UserError(f"it claims {height} x {width} pixels, more than {MAX_PIXELS // 10**6} million: no X-ray has.")


def _read_picture(picture: Image.Image) -> Xray:
    notes = []
    if picture.format == "TIFF" and getattr(picture, "n_frames", 1) > 1:
        notes.append(f"first of {picture.n_frames} pages")
    negative = picture.format == "TIFF" and picture.tag_v2.get(262) == _WHITE_IS_ZERO
    picture = ImageOps.exif_transpose(picture)
    if picture.mode in ("P", "PA", "RGBA", "RGB", "CMYK", "YCbCr", "LAB", "HSV", "RGBX", "RGBa"):
        rgb = np.asarray(picture.convert("RGB")) if picture.mode != "RGB" else np.asarray(picture)
        small = rgb[:: 1 + len(rgb) // 256, :: 1 + rgb.shape[1] // 256].astype(np.int16)
        if np.mean(small.max(axis=-1) - small.min(axis=-1)) > _COLOURED:
            notes.append("a picture in colour")
        return Xray(np.asarray(Image.fromarray(rgb).convert("L")), notes=tuple(notes))
    if picture.mode in ("L", "1", "LA", "La"):  # of these, Pillow has turned a negative already
        return Xray(np.asarray(picture.convert("L")), notes=tuple(notes))
    pixels = to_8_bits(np.asarray(picture))
    return Xray(255 - pixels if negative else pixels, notes=tuple(notes))


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
