"""The pages and tags of a TIFF file, read within limits; Pillow is given one page with the tags that count.

Sample layouts that Pillow does not read as they are: see `tiff_samples.py`.
"""

import dataclasses
import struct

from jaxunet.core.errors import UserError
from jaxunet.xrays.pixels import check_size

WIDTH, _HEIGHT, BITS, COMPRESSION, PHOTOMETRIC, CHANNELS = 256, 257, 258, 259, 262, 277
_ROWS_PER_STRIP, PLANAR, PREDICTOR, COLOURS, TILE_WIDTH, EXTRA, FORMAT = 278, 284, 317, 320, 322, 338, 339
ORIENTATION, NO_DATA = 274, 42113
STRIPS, TILES = (273, 279), (324, 325)  # where they are, how long
_KEPT = (256, 257, 258, 259, 262, 266, 273, 274, 277, 278, 279, 282, 283, 284, 292, 293, 296, 317, 320, 322, 323, 324)
_KEPT = (*_KEPT, 325, 332, 338, 339, 347, *range(512, 522), 529, 530, 531, 532, 42113)
_TYPES = {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i", 13: "I", 16: "Q", 17: "q"}  # whole numbers
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_MOST_PAGES, _MOST_TAGS, _MOST_VALUES = 1000, 1000, 200_000
AS_BYTES = (1, 5, 8, 32773, 32946, 34925, 50000)  # compressions of any bytes: none, LZW, deflate and the like


@dataclasses.dataclass
class Page:
    """One image of a TIFF file; `tags` holds type and content of those that count, as bytes."""

    data: bytes
    order: str
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
        return self.one(_HEIGHT), self.one(WIDTH)

    @property
    def negative(self) -> bool:
        """Whether small values are white."""
        return self.one(PHOTOMETRIC, 1) == 0

    @property
    def is_palette(self) -> bool:
        """Whether the samples are numbers of colours in a table."""
        return self.one(PHOTOMETRIC, 1) == 3

    @property
    def colours(self) -> int:
        """How many samples of a pixel are its colour. Raises UserError if what they mean is not known here."""
        if (photometric := self.one(PHOTOMETRIC, 1)) not in (0, 1, 2, 3):
            raise UserError(f"its TIFF layout (PhotometricInterpretation {photometric}) is not supported.")
        return 3 if photometric == 2 else 1

    @property
    def alpha(self) -> int | None:
        """Which sample of a pixel says how opaque it is."""
        return next((self.colours + i for i, kind in enumerate(self.values(EXTRA)) if kind in (1, 2)), None)

    @property
    def densities(self) -> tuple[float, float]:
        """Pixels per unit along a row and along a column; 0 where that is not said."""
        x, y = (self.tags.get(tag, (5, b""))[1][:8].ljust(8, b"\0") for tag in (282, 283))
        (a, b), (c, d) = (struct.unpack(self.order + "2I", content) for content in (x, y))
        return a / max(b, 1), c / max(d, 1)

    @property
    def padding(self) -> float | None:
        """The value of pixels without data, which GDAL writes as text."""
        try:
            return float(self.tags[NO_DATA][1].rstrip(b"\0 "))
        except (KeyError, ValueError):
            return None

    def is_read_by_pillow(self) -> bool:
        """Whether Pillow gives the samples of this layout as they are."""
        bits, kinds = set(self.values(BITS, (1,))), set(self.values(FORMAT, (1,)))
        if self.is_palette or self.one(PHOTOMETRIC, 1) <= 3 and self.one(PLANAR, 1) == 2:
            return self.one(COMPRESSION, 1) not in AS_BYTES
        return bits in ({1}, {8}) and kinds <= {1, 4}

    def as_file(self, changes: dict[int, tuple[int, ...]] | None = None) -> bytes:
        """A TIFF file of this page alone, with some tags changed, or left out where they are given as ().

        Addresses have 32 bits: Pillow does not read all files of 64.
        """
        whole = {tag: self.values(tag) for tag, (kind, _) in self.tags.items() if kind in (16, 17)} | (changes or {})
        tags = {tag: content for tag, content in self.tags.items() if tag not in whole}
        tags |= {tag: (4, struct.pack(f"{self.order}{len(x)}I", *x)) for tag, x in whole.items() if x}
        start = len(self.data) + len(self.data) % 2
        rest = start + 6 + 12 * len(tags)
        directory, outside = struct.pack(self.order + "H", len(tags)), b""
        for tag, (kind, content) in sorted(tags.items()):
            field = content.ljust(4, b"\0")
            if len(content) > 4:
                field = struct.pack(self.order + "I", rest + len(outside))
                outside += content + b"\0" * (len(content) % 2)
            directory += struct.pack(self.order + "HHI", tag, kind, len(content) // _SIZES[kind]) + field
        head = struct.pack(self.order + "2sHI", b"II" if self.order == "<" else b"MM", 42, start)
        filler = b"\0" * (start - len(self.data))
        return b"".join([head, memoryview(self.data)[8:], filler, directory, bytes(4), outside])

    def check_work(self) -> None:
        """Raises UserError if the page is larger, or in more pieces, than that of any X-ray."""
        check_size(*self.size)
        lengths = self.values(TILES[1]) or self.values(STRIPS[1])
        if sum(lengths) > 2 * len(self.data):
            raise UserError("it is damaged: its parts claim more bytes than the file has.")
        if self.one(COMPRESSION, 1) in (6, 7) and self.data.count(b"\xff\xda") > len(lengths) + 100:
            raise UserError("its JPEG streams have more scans than those of any X-ray.")


def first_page(data: bytes) -> tuple[Page, int]:
    """The first page that is no thumbnail, and how many there are.

    Raises UserError if the file is damaged, or made to keep a reader busy.
    """
    order, big = "<" if data[:2] == b"II" else ">", data[2:4] in (b"+\0", b"\0+")
    word = "Q" if big else "I"
    seen: set[int] = set()
    found: list[Page] = []
    thumbnails: list[Page] = []
    try:
        (at,) = struct.unpack_from(order + word, data, 8 if big else 4)
        while at and at not in seen:
            if len(seen) >= _MOST_PAGES:
                raise UserError(f"it has more than {_MOST_PAGES:,} pages, more than any X-ray.")
            seen.add(at)
            page, at = _page(data, at, order, big)
            reduced = page.one(254) & 5 or page.one(255) == 2  # 1: reduced, 4: a mask
            (thumbnails if reduced else found).append(page)
    except struct.error as error:
        if not found:
            raise UserError("it is damaged: it ends within its list of pages.") from error
    if not found and not thumbnails:
        raise UserError("it is damaged: it has no pages.")
    return (found or thumbnails)[0], len(found or thumbnails)


def _page(data: bytes, at: int, order: str, big: bool) -> tuple[Page, int]:
    """The page whose directory is at `at`, and where the next one is."""
    word, count, entry = ("Q", "Q", 20) if big else ("I", "H", 12)
    (number,) = struct.unpack_from(order + count, data, at)
    if number > _MOST_TAGS:
        raise UserError(f"it has a page of {number:,} tags, more than any X-ray ({_MOST_TAGS:,}).")
    start, tags = at + struct.calcsize(f"={count}"), {}
    for i in range(number):
        field = start + entry * i
        tag, kind, length = struct.unpack_from(order + "HH" + word, data, field)
        if tag not in (*_KEPT, 254, 255) or kind not in _SIZES:
            continue
        if length > _MOST_VALUES:
            raise UserError(f"one of its tags has {length:,} values, more than any X-ray ({_MOST_VALUES:,}).")
        size = length * _SIZES[kind]
        place = field + (12 if big else 8)
        if size > (8 if big else 4):
            (place,) = struct.unpack_from(order + word, data, place)
        content = data[place : place + size]
        if len(content) < size:
            raise UserError("it is damaged: it ends within its list of pages.")
        tags[tag] = kind, content
    (following,) = struct.unpack_from(order + word, data, start + entry * number)
    return Page(data, order, tags), following
