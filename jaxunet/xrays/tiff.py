"""The pages and tags of a TIFF file, read within limits; Pillow is given one page with the tags that count.

Sample layouts that Pillow does not read as they are come out of it as bytes, which it decompresses, and become numbers
here.
"""

import dataclasses
import io
import struct

import numpy as np
from PIL import TiffImagePlugin

from jaxunet.core.errors import UserError
from jaxunet.xrays.pixels import MAX_BYTES, check_size, numbers_of

SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _CHANNELS = 256, 257, 258, 259, 262, 277
_ROWS_PER_STRIP, _PLANAR, _PREDICTOR, _COLOURS, _TILE_WIDTH, _EXTRA, _FORMAT = 278, 284, 317, 320, 322, 338, 339
_STRIPS, _TILES = (273, 279), (324, 325)  # where they are, how long
_KEPT = (256, 257, 258, 259, 262, 266, 273, 274, 277, 278, 279, 282, 283, 284, 292, 293, 296, 317, 320, 322, 323, 324)
_KEPT = (*_KEPT, 325, 332, 338, 339, 347, *range(512, 522), 529, 530, 531, 532, 42113)
_TYPES = {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i", 13: "I", 16: "Q", 17: "q"}  # whole numbers
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_MOST_PAGES, _MOST_TAGS, _MOST_VALUES = 1000, 1000, 200_000
_AS_BYTES = {1, 5, 8, 32773, 32946, 34925, 50000}  # compressions of bytes: none, LZW, deflate, PackBits, LZMA, Zstandard
_NAMES = {6: "old-style JPEG", 7: "JPEG", 34712: "JPEG 2000", 33003: "JPEG 2000", 33005: "JPEG 2000", 50001: "WebP"}
_KINDS = {1: "u", 2: "i", 3: "f", 4: "u"}


@dataclasses.dataclass
class Page:
    """One image of a TIFF file; `tags` holds type and content of those that count, as bytes."""

    data: bytes
    order: str
    big: bool
    tags: dict[int, tuple[int, bytes]]

    def values(self, tag: int, default: tuple[int, ...] = ()) -> tuple[int, ...]:
        """Whole numbers."""
        kind, content = self.tags.get(tag, (0, b""))
        if kind not in _TYPES:
            return default
        return struct.unpack(f"{self.order}{len(content) // _SIZES[kind]}{_TYPES[kind]}", content) or default

    def one(self, tag: int, default: int = 0) -> int:
        return self.values(tag, (default,))[0]

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.one(_HEIGHT), self.one(_WIDTH)

    @property
    def negative(self) -> bool:
        """Whether small values are white."""
        return self.one(_PHOTOMETRIC, 1) == 0

    @property
    def is_palette(self) -> bool:
        """Whether the samples are numbers of colours in a table."""
        return self.one(_PHOTOMETRIC, 1) == 3

    @property
    def colours(self) -> int:
        """How many samples of a pixel are its colour.

        Raises:
          UserError: if what they mean is not known here.
        """
        if (photometric := self.one(_PHOTOMETRIC, 1)) not in (0, 1, 2, 3):
            raise UserError(f"its TIFF layout (PhotometricInterpretation {photometric}) is not supported.")
        return 3 if photometric == 2 else 1

    @property
    def alpha(self) -> int | None:
        """Which sample of a pixel says how opaque it is."""
        return next((self.colours + i for i, kind in enumerate(self.values(_EXTRA)) if kind in (1, 2)), None)

    @property
    def densities(self) -> tuple[float, float]:
        """Pixels per unit along a row and along a column; 0 where that is not said."""
        x, y = (struct.unpack(self.order + "2I", self.tags.get(tag, (5, bytes(8)))[1][:8].ljust(8, b"\0")) for tag in (282, 283))
        return x[0] / max(x[1], 1), y[0] / max(y[1], 1)

    @property
    def orientation(self) -> int:
        return self.one(274, 1)

    @property
    def padding(self) -> float | None:
        """The value of pixels without data, which GDAL writes as text."""
        try:
            return float(self.tags[42113][1].rstrip(b"\0 "))
        except (KeyError, ValueError):
            return None

    def is_read_by_pillow(self) -> bool:
        """Whether Pillow gives the samples of this layout as they are."""
        bits, kinds = set(self.values(_BITS, (1,))), set(self.values(_FORMAT, (1,)))
        if self.is_palette:
            return self.one(_COMPRESSION, 1) not in _AS_BYTES
        return bits in ({1}, {8}) and kinds <= {1, 4}

    def as_file(self, changes: dict[int, tuple[int, ...]] | None = None) -> bytes:
        """A TIFF file of this page alone, with some tags changed, or left out where they are given as ()."""
        tags = dict(self.tags)
        for tag, values in (changes or {}).items():
            tags.pop(tag, None)
            if values:
                tags[tag] = 16 if self.big else 4, struct.pack(f"{self.order}{len(values)}{'IQ'[self.big]}", *values)
        word, count, entry = ("Q", "Q", 20) if self.big else ("I", "H", 12)
        start = len(self.data) + len(self.data) % 2
        rest = start + struct.calcsize(f"={count}") + entry * len(tags) + struct.calcsize(f"={word}")
        directory, outside = struct.pack(self.order + count, len(tags)), b""
        for tag, (kind, content) in sorted(tags.items()):
            field = content
            if len(content) > entry - 8 - 4 * self.big:
                field = struct.pack(self.order + word, rest + len(outside))
                outside += content + b"\0" * (len(content) % 2)
            directory += struct.pack(self.order + "HH" + word, tag, kind, len(content) // _SIZES[kind])
            directory += field.ljust(8 if self.big else 4, b"\0")
        directory += struct.pack(self.order + word, 0)
        head = self.data[:8] if self.big else self.data[:4]
        body = memoryview(self.data)[16 if self.big else 8 :]
        filler = b"\0" * (start - len(self.data))
        return b"".join([head, struct.pack(self.order + word, start), body, filler, directory, outside])

    def check_work(self) -> None:
        """Raises UserError if the page is larger, or in more pieces, than that of any X-ray."""
        check_size(*self.size)
        lengths = self.values(_TILES[1]) or self.values(_STRIPS[1])
        if sum(lengths) > 2 * len(self.data):
            raise UserError("it is damaged: its parts are together larger than the file.")
        if self.one(_COMPRESSION, 1) in (6, 7) and self.data.count(b"\xff\xda") > len(lengths) + 100:
            raise UserError("its JPEG streams have more scans than those of any X-ray.")

    def samples(self) -> np.ndarray:
        """Numbers [H, W, channels], as stored.

        Raises:
          UserError: if the layout is not supported.
        """
        height, width = self.size
        channels, planar = self.one(_CHANNELS, 1), self.one(_PLANAR, 1) == 2
        bits, kinds = set(self.values(_BITS, (1,))), set(self.values(_FORMAT, (1,)))
        compression = self.one(_COMPRESSION, 1)
        if compression not in _AS_BYTES:
            name = _NAMES.get(compression, f"compression {compression}")
            raise UserError(f"its TIFF layout ({name} of {max(bits)} bits) is not supported: save it uncompressed.")
        if len(bits) > 1 or len(kinds) > 1 or not kinds <= set(_KINDS):
            raise UserError("its TIFF samples are complex numbers or of several kinds, which is not supported.")
        if height * width * channels * max(bits) // 8 > MAX_BYTES:
            raise UserError(f"it claims {channels} channels of {max(bits)} bits: this is no X-ray.")
        planes = channels if planar else 1
        together = channels // planes  # samples of one pixel that lie side by side
        parts = [self._plane(i, planes, together, bits.copy().pop(), _KINDS[kinds.copy().pop()]) for i in range(planes)]
        return np.concatenate([part.reshape(height, -1, together)[:, :width] for part in parts], axis=2)

    def _plane(self, number: int, planes: int, together: int, bits: int, kind: str) -> np.ndarray:
        """Numbers [H, at least W * together]."""
        places, lengths = _TILES if self.values(_TILES[0]) else _STRIPS
        height, width = self.size
        across = self.one(_TILE_WIDTH, width) if places in _TILES else width
        row = -(-across * together * bits // 8)  # bytes
        count = len(self.values(places)) // planes
        changes: dict[int, tuple[int, ...]] = dict.fromkeys((_PREDICTOR, _COLOURS, _EXTRA, _FORMAT, _PLANAR, 42113), ())
        changes |= {_WIDTH: (row * -(-width // max(across, 1)),), _BITS: (8,), _PHOTOMETRIC: (1,), _CHANNELS: (1,)}
        changes |= {tag: self.values(tag)[number * count : (number + 1) * count] for tag in (places, lengths)}
        changes |= {274: ()} | ({_TILE_WIDTH: (row,)} if places in _TILES else {})
        with TiffImagePlugin.TiffImageFile(io.BytesIO(self.as_file(changes))) as picture:
            rows = np.asarray(picture).reshape(height, -1, row)
        return _without_predictor(rows, self.one(_PREDICTOR, 1), across, together, bits, kind, self.order == ">")


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


def first_page(data: bytes) -> tuple[Page, int]:
    """The first page that is no thumbnail, and how many there are.

    Raises:
      UserError: if the file is damaged, or made to keep a reader busy.
    """
    order, big = "<" if data[:2] == b"II" else ">", data[2:4] in (b"+\0", b"\0+")
    word = "Q" if big else "I"
    seen, found, thumbnails = set(), [], []
    try:
        (at,) = struct.unpack_from(order + word, data, 8 if big else 4)
        while at and at not in seen:
            if len(seen) >= _MOST_PAGES:
                raise UserError(f"it has more than {_MOST_PAGES:,} pages: this is no X-ray.")
            seen.add(at)
            page, at = _page(data, at, order, big)
            reduced = page.one(254) & 5 or page.one(255) == 2  # 1: reduced, 4: a mask
            (thumbnails if reduced else found).append(page)
    except struct.error as error:
        if not found:
            raise UserError("it is damaged: it ends within its list of pages.") from error
    if not found and not thumbnails:
        raise UserError("it is damaged: it has no page.")
    return (found or thumbnails)[0], len(found or thumbnails)


def _page(data: bytes, at: int, order: str, big: bool) -> tuple[Page, int]:
    """The page whose directory is at `at`, and where the next one is."""
    word, count, entry = ("Q", "Q", 20) if big else ("I", "H", 12)
    (number,) = struct.unpack_from(order + count, data, at)
    if number > _MOST_TAGS:
        raise UserError(f"it has a page of {number:,} tags: this is no X-ray.")
    start, tags = at + struct.calcsize(f"={count}"), {}
    for i in range(number):
        field = start + entry * i
        tag, kind, length = struct.unpack_from(order + "HH" + word, data, field)
        if tag not in (*_KEPT, 254, 255) or kind not in _SIZES:
            continue
        if length > _MOST_VALUES:
            raise UserError(f"it is in {length:,} parts, or has as many values in one tag: this is no X-ray.")
        size = length * _SIZES[kind]
        place = field + (12 if big else 8)
        if size > (8 if big else 4):
            (place,) = struct.unpack_from(order + word, data, place)
        content = data[place : place + size]
        if len(content) < size:
            raise UserError("it is damaged: it ends within its list of pages.")
        tags[tag] = kind, content
    (following,) = struct.unpack_from(order + word, data, start + entry * number)
    return Page(data, order, big, tags), following


def palette(page: Page, indices: np.ndarray) -> np.ndarray:
    """Red, green and blue, uint8 [H, W, 3], of indices [H, W].

    Raises:
      UserError: if there is no table.
    """
    table = np.array(page.values(_COLOURS), np.int64)
    if not len(table) or len(table) % 3:
        raise UserError("it is damaged: it has no table of its colours.")
    table >>= max(int(table.max()).bit_length() - 8, 0)  # of 16 bits, as the standard has it, or of fewer
    return table.reshape(3, -1).T.astype(np.uint8)[np.minimum(indices, len(table) // 3 - 1)]
