"""TIFF files in layouts that Pillow does not write, for tests."""

import struct
import zlib

import numpy as np

_KINDS = {"u": 1, "i": 2, "f": 3}


def tiff_of(
    pages: list[tuple[np.ndarray, dict[int, tuple[int, ...]]]],
    *,
    order: str = "<",
    planar: bool = False,
    packed: bool = False,
    predictor: bool = False,
    tile: tuple[int, int] | None = None,
) -> bytes:
    """A TIFF of some pages.

    Args:
      pages: numbers [H, W] or [H, W, channels], and further tags, each some whole numbers.
      order: of bytes, "<" or ">".
      planar: whether each channel is stored for itself.
      packed: whether the parts are deflated.
      predictor: whether whole numbers are stored as differences along rows.
      tile: height and width of tiles; strips of 20 rows if not given.
    """
    data, links = bytearray(struct.pack(order + "2sHI", b"II" if order == "<" else b"MM", 42, 0)), [4]
    for pixels, more in pages:
        pixels = pixels[..., None] if pixels.ndim == 2 else pixels
        channels, bits = pixels.shape[2], pixels.dtype.itemsize * 8
        parts = _parts(pixels, order, planar, predictor, tile)
        places, lengths = [], []
        for part in parts:
            part = zlib.compress(part) if packed else part
            places.append(len(data))
            lengths.append(len(part))
            data += part + b"\0" * (len(part) % 2)
        tags = {256: (pixels.shape[1],), 257: (pixels.shape[0],), 258: (bits,) * channels, 259: (8 if packed else 1,)}
        tags |= {262: (2 if channels > 2 else 1,), 277: (channels,), 284: (1 + planar,), 317: (1 + predictor,)}
        tags |= {339: (_KINDS[pixels.dtype.kind],) * channels, 324 if tile else 273: tuple(places)}
        tags |= {325 if tile else 279: tuple(lengths)} | ({322: (tile[1],), 323: (tile[0],)} if tile else {278: (20,)})
        directory, at = _directory(tags | more, order, len(data))
        struct.pack_into(order + "I", data, links[-1], at)
        data += directory
        links.append(at + 2 + 12 * len(tags | more))
    return bytes(data)


def _parts(pixels: np.ndarray, order: str, planar: bool, predictor: bool, tile: tuple[int, int] | None) -> list[bytes]:
    height, width, channels = pixels.shape
    rows, columns = tile or (20, width)
    if tile:
        pixels = np.pad(pixels, ((0, -height % rows), (0, -width % columns), (0, 0)), mode="edge")
    planes = [pixels[..., i : i + 1] for i in range(channels)] if planar else [pixels]
    parts = []
    for plane in planes:
        for top in range(0, plane.shape[0], rows):
            for left in range(0, plane.shape[1], columns):
                part = plane[top : top + rows, left : left + columns]
                if predictor:
                    part = np.concatenate([part[:, :1], part[:, 1:] - part[:, :-1]], axis=1)
                parts.append(part.astype(part.dtype.newbyteorder(order)).tobytes())
    return parts


def _directory(tags: dict[int, tuple[int, ...]], order: str, start: int) -> tuple[bytes, int]:
    """The values that do not fit, then the directory; and where the directory is, if all lies at `start`."""
    outside, entries = b"", b""
    for tag, values in sorted(tags.items()):
        content = struct.pack(f"{order}{len(values)}I", *values)
        if len(values) > 1:
            place = start + len(outside)
            outside += content
            content = struct.pack(order + "I", place)
        entries += struct.pack(order + "HHI", tag, 4, len(values)) + content
    return outside + struct.pack(order + "H", len(tags)) + entries + bytes(4), start + len(outside)
