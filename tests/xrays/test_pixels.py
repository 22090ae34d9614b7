"""PNG, JPEG and TIFF in any layout of samples are read as the picture that they hold; what is transparent is black."""

import io
import itertools
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from jaxunet.core.errors import UserError
from jaxunet.data.labelled_images import LabelledImages
from jaxunet.xrays.pixels import stretch
from jaxunet.xrays.read import read_xray
from tests.support.dicoms import SHOWN
from tests.support.hostile_input import chunk
from tests.support.tiffs import tiff_of

PICTURE = np.pad(SHOWN, ((0, 5), (0, 9)), mode="edge")  # no multiple of any tile or strip
BORDER = np.zeros(PICTURE.shape, bool)
BORDER[:, :8] = True


def resemblance(data: bytes, *, outside: np.ndarray | None = None, notes: tuple[str, ...] = ()) -> float:
    found = read_xray(data)
    assert found.pixels.shape == PICTURE.shape
    assert found.notes == notes
    if outside is not None:
        assert found.pixels[outside].max() == 0
    seen = np.ones(PICTURE.shape, bool) if outside is None else ~outside
    return float(np.corrcoef(found.pixels[seen], PICTURE[seen])[0, 1])


def as_type(name: str) -> np.ndarray:
    """The picture over nine tenths of what numbers of this type can say."""
    kind = np.dtype(name)
    if kind.kind == "f":
        return (PICTURE / 255 * 1.7 - 0.3).astype(kind)
    low, high = float(np.iinfo(kind).min), float(np.iinfo(kind).max)
    return ((PICTURE / 255 * 0.9 + 0.05) * (high - low) + low).astype(kind)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", ["u1", "i1", "u2", "i2", "u4", "i4", "u8", "f2", "f4", "f8"])
def test_tiff_of_any_type(kind, order):
    one = as_type(kind)
    opaque = np.ones_like(one)
    for channels, planar, tile in itertools.product((1, 2, 3, 4), (False, True), (None, (32, 16))):
        pixels = np.stack([one] * (1 if channels < 3 else 3) + [opaque] * (channels % 2 == 0), axis=-1)
        extra = {338: (2,)} if channels % 2 == 0 else {}
        for packed, predictor in ((False, False), (True, False), (True, one.dtype.kind != "f")):
            layout = {"order": order, "planar": planar and channels > 1, "tile": tile, "packed": packed}
            assert resemblance(tiff_of([(pixels, extra)], predictor=predictor, **layout)) > 0.99, (channels, layout)


@pytest.mark.parametrize("bits", [2, 4, 6, 10, 12, 14])
def test_tiff_of_numbers_that_are_no_whole_bytes(bits):
    values = PICTURE.astype(int) * (2**bits - 1) // 255
    ones = (values[..., None] >> np.arange(bits)[::-1] & 1).astype(np.uint8).reshape(len(values), -1)
    rows = np.packbits(ones, axis=1)
    data = tiff_of([(rows, {256: (PICTURE.shape[1],), 258: (bits,)})])
    assert resemblance(data) > (0.9 if bits < 4 else 0.99)


@pytest.mark.parametrize("factor", [1, 16, 257])
def test_tiff_palettes_of_any_depth(factor):
    colours = tuple(int(x) * factor for x in np.arange(256)[::-1]) * 3
    data = tiff_of([(255 - PICTURE, {262: (3,), 320: colours})])
    np.testing.assert_array_equal(read_xray(data).pixels, PICTURE)


def test_tiff_thumbnails_negatives_orientation_aspect_and_no_data():
    wide = PICTURE.astype(np.uint16) * 200
    pages = [(PICTURE[::4, ::4], {254: (1,)}), (PICTURE[::3, ::3], {254: (4,)}), (wide, {}), (255 - PICTURE, {})]
    assert resemblance(tiff_of(pages), notes=("first of 2 pages",)) > 0.99
    assert resemblance(tiff_of([(65535 - wide, {262: (0,)})])) > 0.99
    assert resemblance(tiff_of([(np.ascontiguousarray(wide.T), {274: (5,)})])) > 0.99
    assert resemblance(tiff_of([(np.ascontiguousarray(wide[::-1]), {274: (4,)})])) > 0.99
    border = np.where(BORDER, 65535, wide).astype(np.uint16)
    alpha = np.where(BORDER, 0, 65535).astype(np.uint16)
    assert resemblance(tiff_of([(np.dstack([border, alpha]), {338: (2,)})]), outside=BORDER) > 0.99
    negative = np.dstack([65535 - border, alpha])
    assert resemblance(tiff_of([(negative, {338: (2,), 262: (0,)})]), outside=BORDER) > 0.99
    not_there = np.where(BORDER, np.nan, PICTURE).astype(np.float32)
    assert resemblance(tiff_of([(not_there, {})]), outside=BORDER) > 0.99
    assert resemblance(tiff_of([(-not_there, {262: (0,)})]), outside=BORDER) > 0.99
    data = io.BytesIO()
    Image.fromarray(PICTURE).save(data, "tiff", dpi=(100, 50))
    assert resemblance(data.getvalue(), notes=("its pixels are not square (height : width is 2)",)) > 0.99


@pytest.mark.parametrize(
    ("tags", "words"), [({339: (5,)}, "complex"), ({262: (32803,)}, "32803"), ({259: (7,)}, "JPEG")]
)
def test_tiff_that_is_not_supported_is_named(tags, words):
    with pytest.raises(UserError, match=words) as caught:
        read_xray(tiff_of([(PICTURE.astype(np.uint16), tags)]))
    assert "not supported" in str(caught.value)


def png_16(samples: np.ndarray, *extra: bytes) -> bytes:
    """A PNG of uint16 [H, W, channels]."""
    height, width, channels = samples.shape
    header = struct.pack(">IIBBBBB", width, height, 16, {1: 0, 2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)
    chunks = [chunk(b"IHDR", header), *extra, chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("factor", [16, 257])
def test_png_of_16_bits(channels, factor):
    gray = [PICTURE.astype(np.uint16) * factor] * (1 if channels < 3 else 3)
    opaque = [np.full(PICTURE.shape, 65535, np.uint16)] * (channels % 2 == 0)
    assert resemblance(png_16(np.dstack(gray + opaque))) > 0.999
    white = [np.where(BORDER, 65535, one).astype(np.uint16) for one in gray]
    hidden = [np.where(BORDER, 0, 65535).astype(np.uint16)] * (channels % 2 == 0)
    hides = chunk(b"tRNS", b"\xff\xff" * channels) if channels % 2 else b""
    assert resemblance(png_16(np.dstack(white + hidden), hides), outside=BORDER) > 0.999


@pytest.mark.parametrize("mode", ["LA", "RGBA", "P", "L"])
def test_transparent_borders_are_black(mode):
    white = np.where(BORDER, 255, np.minimum(PICTURE, 254)).astype(np.uint8)
    alpha = np.where(BORDER, 0, 255).astype(np.uint8)
    data, options = io.BytesIO(), {} if "A" in mode else {"transparency": 255}
    if mode == "P":
        image = Image.fromarray(white)
        image.putpalette(bytes(np.arange(256, dtype=np.uint8).repeat(3)))
    else:
        image = Image.fromarray(np.dstack([white] * (3 if mode == "RGBA" else 1) + [alpha]) if "A" in mode else white)
    image.save(data, "png", **options)
    assert resemblance(data.getvalue(), outside=BORDER) > 0.999


def test_a_narrow_range_far_from_zero_keeps_its_shades():
    values = np.arange(4_000_000_000, 4_000_000_256).astype(np.uint32)[None]
    np.testing.assert_array_equal(stretch(values, 4e9, 4e9 + 255)[0], np.arange(256))
    np.testing.assert_array_equal(stretch(np.array([[0.0, 1e300]]), 0, 1e300)[0], [0, 255])


def test_other_files_are_called_by_their_name():
    jpeg_2000 = b"\0\0\0\x0cjP  \r\n\x87\n"
    for start, name in ((b"BM", "BMP"), (b"GIF89a", "GIF"), (b"%PDF-1.7", "PDF"), (jpeg_2000, "JPEG 2000")):
        with pytest.raises(UserError, match=f"{name} file, which is not supported"):
            read_xray(start + b"\0" * 200)


def test_images_to_pretrain_on_are_read_like_x_rays(tmp_path):
    for split in ("train", "val"):
        (tmp_path / split / "a").mkdir(parents=True)
        Image.fromarray(SHOWN.astype(np.uint16) * 16).save(tmp_path / split / "a" / "x.png")
        Image.fromarray(SHOWN).save(tmp_path / split / "a" / "y.bmp")
    images = LabelledImages(str(tmp_path), "train", image_size=64)
    for i in range(2):  # today's Pillow makes of more than 8 bits white
        assert np.corrcoef(images[i]["image"].ravel(), SHOWN.ravel())[0, 1] > 0.99
    np.testing.assert_array_equal(images[1]["image"], SHOWN)
