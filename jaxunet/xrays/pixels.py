"""An X-ray in memory, and how samples of any stored layout become its 8-bit gray pixels."""

import dataclasses
from typing import Any

import numpy as np
from PIL import Image

from jaxunet.core.errors import UserError

MAX_PIXELS = 80_000_000  # chest X-rays have up to 20 million
MAX_SIDE = 20_000  # pixels; the largest detectors have 9,000
MAX_BYTES = 512 * 2**20  # of a file
_ROBUST = (0.5, 99.5)  # percentiles that become black and white where nothing says what should
_COLOURED = 8.0  # mean difference between the largest and the smallest of red, green and blue, of 256
_LUMINANCE = (0.299, 0.587, 0.114)  # ITU-R 601
IN_COLOUR = "a picture in colour"


@dataclasses.dataclass(frozen=True)
class Xray:
    """An X-ray, ready to be predicted on.

    Attributes:
      pixels: uint8 [H, W], upright; white is dense.
      spacing_mm: height and width of a pixel, where the file says them.
      aspect: height of a pixel over its width, by a DICOM file.
      mirrored: whether the patient's left is at the left of the image; it is at the right otherwise.
      notes: sentences about what is unusual in the file.
      other: those of `notes` that say that it is no frontal chest X-ray.
      header: of a DICOM file, what a segmentation has to say about it; no name, number or date of the patient.
      patient: of a DICOM file, who was examined and when, if that was asked for.
      moves: how the stored picture was brought upright, for `orientation.as_stored`.
    """

    pixels: np.ndarray
    spacing_mm: tuple[float, float] | None = None
    aspect: float = 1.0
    mirrored: bool = False
    notes: tuple[str, ...] = ()
    other: tuple[str, ...] = ()
    header: Any = None
    patient: Any = None
    moves: tuple[bool, bool, bool] = (False, False, False)


def check_size(height: int, width: int) -> None:
    """Raises UserError if a picture of so many pixels should not be decoded."""
    why = ""
    if height < 1 or width < 1:
        why = "fewer than one"
    elif height * width > MAX_PIXELS:
        why = f"more than the {MAX_PIXELS // 10**6} million of any X-ray"
    elif max(height, width) > MAX_SIDE:
        why = f"more than the {MAX_SIDE:,} per side of any X-ray"
    if why:
        raise UserError(f"its header claims {height} x {width} pixels, {why}.")


# ---- stored bits -> numbers ------------------------------------------------------------------------------------------


def numbers_of(rows: np.ndarray, bits: int, kind: str, *, big_endian: bool, low_bit_first: bool = False) -> np.ndarray:
    """The numbers [R, as many as fit] that rows of bytes hold. Raises UserError if there are no such numbers.

    Args:
      rows: uint8 [R, bytes], each row beginning at a whole byte.
      bits: of a number.
      kind: "u" for whole numbers, "i" for whole numbers with a sign, "f" for floating point.
      big_endian: whether the most significant byte of 16, 32 or 64 bits comes first.
      low_bit_first: of numbers that are no whole bytes, whether the first is in a byte's lowest bits, as in DICOM.
    """
    if bits in (8, 16, 32, 64) and (kind != "f" or bits > 8):
        whole = rows.shape[1] * 8 // bits
        used, name = np.ascontiguousarray(rows[:, : whole * bits // 8]), f"{kind}{bits // 8}"
        return used.view(f"{'>' if big_endian else '<'}{name}").astype(name, copy=False)
    if kind == "f" or not 1 <= bits <= 32:
        raise UserError(f"its samples have {bits} bits{' in floating point' * (kind == 'f')}, which is not supported.")
    if bits == 24 and not big_endian:
        rows = rows[:, : rows.shape[1] // 3 * 3].reshape(len(rows), -1, 3)[..., ::-1].reshape(len(rows), -1)
    values = np.concatenate([_bits_to_numbers(rows[i : i + 64], bits, low_bit_first) for i in range(0, len(rows), 64)])
    return with_sign(values, bits) if kind == "i" else values


def _bits_to_numbers(rows: np.ndarray, bits: int, low_bit_first: bool) -> np.ndarray:
    one_by_one = np.unpackbits(rows, axis=1, bitorder="little" if low_bit_first else "big")
    whole = one_by_one.shape[1] // bits
    values = np.zeros((len(rows), whole), np.uint16 if bits <= 16 else np.uint32)
    for i in range(bits):
        shift = i if low_bit_first else bits - 1 - i
        values |= one_by_one[:, i : whole * bits : bits].astype(values.dtype) << shift
    return values


def with_sign(values: np.ndarray, bits: int) -> np.ndarray:
    """int64: whole numbers whose lowest `bits` bits hold a number with a sign (two's complement)."""
    return ((values.astype(np.int64) & (2**bits - 1)) ^ 2 ** (bits - 1)) - 2 ** (bits - 1)


def roughness(values: np.ndarray) -> float:
    """The mean difference between neighbours in a row: numbers that were read wrongly jump."""
    some = values[:: 1 + len(values) // 512].astype(np.float64)
    return float(np.abs(np.diff(some, axis=1)).mean()) if some.shape[1] > 1 else 0.0


# ---- numbers -> gray -------------------------------------------------------------------------------------------------


def luminance(colours: np.ndarray) -> tuple[np.ndarray, bool]:
    """Gray [H, W] of red, green and blue [H, W, 3]: of uint8, uint8 as Pillow computes it; else float64.

    Also returns whether the picture is in colour, as X-rays are not.
    """
    small = colours[:: 1 + len(colours) // 256, :: 1 + colours.shape[1] // 256].astype(np.float64)
    scale = 1.0 if colours.dtype == np.uint8 else 255 / max(float(np.nanmax(np.abs(small))), 1e-30)
    coloured = float(np.mean(small.max(axis=-1) - small.min(axis=-1))) * scale > _COLOURED
    if colours.dtype == np.uint8:
        return np.asarray(Image.fromarray(np.ascontiguousarray(colours)).convert("L")), coloured
    return colours.astype(np.float64) @ np.array(_LUMINANCE), coloured


def to_8_bits(values: np.ndarray, where: np.ndarray | None = None) -> np.ndarray:
    """Numbers [H, W] -> uint8 [H, W]: the 0.5 and 99.5 percentiles become 0 and 255; all 0 if all values are the same.

    What is not finite becomes black. `where`: bool [H, W], which values the percentiles are taken of; None for all.
    """
    finite = np.isfinite(values)
    counted = values[finite if where is None else finite & where]
    if not counted.size:
        raise UserError("none of its pixels has a finite value.")
    low, high = (float(x) for x in np.percentile(counted, _ROBUST))
    if low == high:  # nearly all pixels are alike: the rest would be lost
        low, high = float(counted.min()), float(counted.max())
    return stretch(np.where(finite, values, low), low, high)


def stretch(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """uint8 of any shape: `low` and what is below becomes 0, `high` and what is above 255, between them a line."""
    if high <= low:
        return np.zeros(values.shape, np.uint8)
    largest = max(abs(low), abs(high))
    number: type[np.floating] = np.float32
    # float32 is not enough for a range that is small beside its distance from 0, and for very large numbers.
    if values.dtype.itemsize > 2 and (largest > 4096 * (high - low) or largest > 1e30 or largest < 1e-30):
        number = np.float64
        low, high, values = low / largest, high / largest, values / largest
    scaled = (values.astype(number) - number(low)) * number(255 / (high - low))
    return np.rint(np.clip(scaled, 0, 255)).astype(np.uint8)


def shown(
    values: np.ndarray, eight: np.ndarray | None = None, *, negative: bool = False, outside: np.ndarray | None = None
) -> np.ndarray:
    """The gray pixels uint8 [H, W] of numbers [H, W]; what is outside is black, and takes no part in the contrast.

    Args:
      values: the numbers.
      eight: uint8 [H, W], those pixels where the file says how bright they are; else percentiles of the values say it.
      negative: whether small values are bright.
      outside: bool [H, W], padding or transparent pixels; counts for nothing if it is all of the picture.
    """
    if values.dtype.kind == "f" and not (finite := np.isfinite(values)).all():
        outside = ~finite if outside is None else outside | ~finite
    if outside is not None and outside.all() and np.isfinite(values).any():
        outside = None
    if eight is None:
        eight = to_8_bits(values, None if outside is None else ~outside)
    pixels = 255 - eight if negative else eight
    return pixels if outside is None else np.where(outside, np.uint8(0), pixels)
