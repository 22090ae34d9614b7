"""Decodes the 8-bit grayscale PNG files of a dataset."""

import io
import struct

import numpy as np
from PIL import Image


def decode_gray_png(data: bytes, side: int) -> np.ndarray:
    """uint8 [side, side] from an 8-bit gray PNG; ValueError for any other file."""
    if not data.startswith(b"\x89PNG\r\n\x1a\n") or len(data) < 33:
        raise ValueError(f"is not a PNG file ({len(data)} bytes)")
    _check_size(struct.unpack(">II", data[16:24]), side)  # from the header, before Pillow allocates memory for it
    try:
        image = Image.open(io.BytesIO(data), formats=["PNG"])
        mode, size = image.mode, image.size
        pixels = np.asarray(image) if (mode, size) == ("L", (side, side)) else None
    except Exception as error:  # damaged files raise many kinds of errors in Pillow
        raise ValueError(f"is damaged ({error})") from error
    _check_size(size, side)
    if pixels is None:
        raise ValueError(f"has mode {mode}, not 8-bit gray (L)")
    return pixels


def _check_size(size: tuple[int, int], side: int) -> None:
    if size != (side, side):
        raise ValueError(f"is {size[0]}x{size[1]} pixels, not {side}x{side}")
