"""Samples of a TIFF page in layouts that Pillow would cut to 8 bits, wrap around or refuse -> numbers.

Pillow is given the page as one of single bytes, which it decompresses; they become numbers here.
"""

import io

import numpy as np
from PIL import TiffImagePlugin

from jaxunet.core.errors import UserError
from jaxunet.xrays import tiff
from jaxunet.xrays.pixels import MAX_BYTES, numbers_of

_NAMES = {6: "old-style JPEG", 7: "JPEG", 34712: "JPEG 2000", 33003: "JPEG 2000", 33005: "JPEG 2000", 50001: "WebP"}
_LEFT_OUT = (tiff.ORIENTATION, tiff.PREDICTOR, tiff.COLOURS, tiff.EXTRA, tiff.FORMAT, tiff.PLANAR, tiff.NO_DATA)
_KINDS = {1: "u", 2: "i", 3: "f", 4: "u"}


def of_page(page: tiff.Page) -> np.ndarray:
    """Numbers [H, W, channels], as stored. Raises UserError if the layout is not supported."""
    height, width = page.size
    channels, planar = page.one(tiff.CHANNELS, 1), page.one(tiff.PLANAR, 1) == 2
    bits, kinds = set(page.values(tiff.BITS, (1,))), set(page.values(tiff.FORMAT, (1,)))
    compression = page.one(tiff.COMPRESSION, 1)
    if compression not in tiff.AS_BYTES:
        name = _NAMES.get(compression, f"compression {compression}")
        raise UserError(f"its TIFF layout ({name} of {max(bits)} bits) is not supported: save it uncompressed.")
    if channels < 1 or len(bits) > 1 or len(kinds) > 1 or not kinds <= set(_KINDS):
        raise UserError("its TIFF samples are complex numbers or of several types, which is not supported.")
    if height * width * channels * max(bits) // 8 > MAX_BYTES:
        raise UserError(
            f"it claims {channels} channels of {max(bits)} bits, more bytes than any X-ray ({MAX_BYTES:,})."
        )
    planes = channels if planar else 1
    together = channels // planes  # samples of one pixel that lie side by side
    parts = [_plane(page, i, planes, together, max(bits), _KINDS[max(kinds)]) for i in range(planes)]
    return np.concatenate([part.reshape(height, -1, together)[:, :width] for part in parts], axis=2)


def _plane(page: tiff.Page, number: int, planes: int, together: int, bits: int, kind: str) -> np.ndarray:
    """Numbers [H, at least W * together]."""
    tiled = bool(page.values(tiff.TILES[0]))
    places, lengths = tiff.TILES if tiled else tiff.STRIPS
    height, width = page.size
    across = page.one(tiff.TILE_WIDTH, width) if tiled else width
    row = -(-across * together * bits // 8)  # bytes
    count = len(page.values(places)) // planes
    changes: dict[int, tuple[int, ...]] = dict.fromkeys(_LEFT_OUT, ())
    changes |= {tiff.WIDTH: (row * -(-width // max(across, 1)),), tiff.BITS: (8,)}
    changes |= {tiff.PHOTOMETRIC: (1,), tiff.CHANNELS: (1,)} | ({tiff.TILE_WIDTH: (row,)} if tiled else {})
    changes |= {tag: page.values(tag)[number * count : (number + 1) * count] for tag in (places, lengths)}
    with TiffImagePlugin.TiffImageFile(io.BytesIO(page.as_file(changes))) as picture:
        rows = np.asarray(picture).reshape(height, -1, row)
    return _without_predictor(rows, page.one(tiff.PREDICTOR, 1), across, together, bits, kind, page.order == ">")


def _without_predictor(
    rows: np.ndarray, predictor: int, across: int, together: int, bits: int, kind: str, big_endian: bool
) -> np.ndarray:
    """Bytes [H, tiles, bytes of a row] -> numbers [H, numbers]; differences are summed up (TIFF 6 section 14)."""
    height, tiles, length = rows.shape
    flat = rows.reshape(height * tiles, length)
    if predictor == 3:  # bytes of equal weight side by side, the most significant first, as differences
        sums = np.cumsum(flat.reshape(len(flat), -1, together), axis=1, dtype=np.uint8)
        flat = sums.reshape(len(flat), bits // 8, -1).transpose(0, 2, 1).reshape(len(flat), -1)
        big_endian = True
    values = numbers_of(flat, bits, "u" if predictor == 2 else kind, big_endian=big_endian)[:, : across * together]
    if predictor == 2:
        sums = np.cumsum(values.reshape(len(flat), -1, together), axis=1, dtype=values.dtype)
        values = sums.reshape(len(flat), -1).view(f"{kind}{values.dtype.itemsize}")
    return values.reshape(height, -1)


def palette(page: tiff.Page, indices: np.ndarray) -> np.ndarray:
    """Red, green and blue, uint8 [H, W, 3], of indices [H, W]. Raises UserError if there is no table."""
    table = np.array(page.values(tiff.COLOURS), np.int64)
    if not len(table) or len(table) % 3:
        raise UserError("it is damaged: its table of colours is missing.")
    table >>= max(int(table.max()).bit_length() - 8, 0)  # of 16 bits, as the standard has it, or of fewer
    return table.reshape(3, -1).T.astype(np.uint8)[np.minimum(indices, len(table) // 3 - 1)]
