"""PNG, JPEG and TIFF -> gray pixels; Pillow decompresses, and samples that it would cut to 8 bits are kept whole."""

import io
import struct
from typing import Any

import numpy as np
from PIL import Image, ImageOps, TiffImagePlugin, UnidentifiedImageError

from jaxunet.core.errors import UserError
from jaxunet.xrays import streams, tiff, tiff_samples, worker
from jaxunet.xrays.kinds import JPEG, PNG, TIFF, other_kind_of
from jaxunet.xrays.orientation import not_square, upright
from jaxunet.xrays.pixels import IN_COLOUR, Xray, check_size, luminance, shown

_COLOUR_MODES = ("P", "PA", "RGBA", "RGB", "CMYK", "YCbCr", "LAB", "HSV", "RGBX", "RGBa")
_WIDE_PNG = {2: ("RGB", 3), 4: ("RGBA", 2), 6: ("RGBA", 4)}  # by colour type: mode, samples of a pixel


def read(data: bytes, also: tuple[str, ...] = ()) -> Xray:
    """Decodes a PNG, JPEG or TIFF file; of the formats of Pillow in `also`, 8 bits. UserError if it cannot be used."""
    try:
        if data[:8] == PNG:
            return _read_png(data)
        if data[:3] == JPEG:
            return _read_jpeg(data)
        if data[:4] in TIFF:
            return _read_tiff(data)
        if also:
            with Image.open(io.BytesIO(data), formats=also) as picture:
                check_size(picture.height, picture.width)
                return _of_pillow(picture)
    except UnidentifiedImageError:
        pass
    except (UserError, MemoryError):
        raise
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise UserError("its header claims more pixels than any X-ray has.") from error
    except Exception as error:  # of many kinds: what a damaged file makes Pillow stumble over
        raise UserError(f"it is damaged or cannot be decoded ({' '.join(str(error).split())[:120]}).") from error
    if (kind := other_kind_of(data)) and not also:
        raise UserError(f"it is a {kind} file, which is not supported: convert it to PNG, JPEG, TIFF or DICOM.")
    raise UserError("it is not a PNG, JPEG, TIFF or DICOM file.")


# ---- one format after the other --------------------------------------------------------------------------------------


def _read_png(data: bytes) -> Xray:
    width, height, bits, kind = struct.unpack_from(">IIBB", data.ljust(26, b"\0"), 16)
    check_size(height, width)
    streams.check_chunks(data)
    with Image.open(io.BytesIO(data), formats=("PNG",)) as picture:
        if bits != 16 or kind not in _WIDE_PNG:
            return _of_pillow(picture)
        mode, channels = _WIDE_PNG[kind]
        exif, notes = picture.getexif().get(0x0112, 1), _aspect(picture)
        values = _wide_png(data, mode, channels)
        hidden = picture.info.get("transparency") if kind == 2 else None
    outside = values[..., -1] == 0 if kind in (4, 6) else None
    if isinstance(hidden, tuple):
        outside = (values == np.array(hidden)).all(axis=-1)
    return _of_samples(values, 3 if kind in (2, 6) else 1, outside, exif=exif, notes=notes)


def _wide_png(data: bytes, mode: str, channels: int) -> np.ndarray:
    """uint16 [H, W, channels]: Pillow gives the high bytes of samples, or, asked for the other byte order, the low."""
    halves = []
    for order in "BL":
        raw = f"{mode};16{order}" if channels > 2 else "RGBA"  # gray and alpha, of 2 bytes each, are 4 bytes
        with Image.open(io.BytesIO(data), formats=("PNG",)) as picture:
            picture._mode, picture.tile = mode, [tile._replace(args=raw) for tile in picture.tile]
            halves.append(np.asarray(picture).astype(np.uint16))
    if channels == 2:
        return halves[0][..., ::2] << 8 | halves[0][..., 1::2]
    return halves[0] << 8 | halves[1]


def _read_jpeg(data: bytes) -> Xray:
    stream = streams.describe(data)
    assert stream is not None
    check_size(stream.height, stream.width)
    if stream.kind != "JPEG" or stream.bits != 8 or stream.lossless:  # Pillow cannot read it
        samples = decompress(data, stream, channels=stream.channels, red_green_blue=False)
        return _of_samples(samples, 3 if samples.shape[2] == 3 else 1, None)
    with Image.open(io.BytesIO(data), formats=("JPEG",)) as picture:
        check_size(picture.height, picture.width)
        return _of_pillow(picture)


def decompress(data: bytes, stream: streams.Stream, *, channels: int, red_green_blue: bool) -> np.ndarray:
    """The samples [H, W, channels] of a stream; three are red, green and blue.

    `red_green_blue`: what three channels are where the stream does not say it.
    Raises UserError if it cannot be decoded, or gives anything but what it claims.
    """
    if stream.kind == "JPEG" and not stream.lossless and stream.bits not in (8, 12):
        raise UserError(f"its JPEG stream has {stream.bits} bits, which is not supported.")
    as_said = red_green_blue if stream.red_green_blue is None else stream.red_green_blue
    colours = None
    if stream.kind == "JPEG" and stream.channels == 3 and not stream.lossless:
        colours = "RGB" if as_said else "YCBCR"
    samples = worker.decode(data, stream.kind, colours=colours)
    samples = samples[..., None] if samples.ndim == 2 else samples
    expected = (stream.height or samples.shape[0], stream.width or samples.shape[1], channels)
    if samples.shape != expected:
        raise UserError(f"it is damaged: its {stream.kind} stream has the shape {samples.shape}, not {expected}.")
    return samples


def _read_tiff(data: bytes) -> Xray:
    page, pages = tiff.first_page(data)
    page.check_work()
    notes = ((f"first of {pages} pages",) if pages > 1 else ()) + not_square(*page.densities)
    if page.is_read_by_pillow():
        with TiffImagePlugin.TiffImageFile(io.BytesIO(page.as_file())) as picture:
            return _of_pillow(picture, notes)
    values = tiff_samples.of_page(page)
    outside = None if page.alpha is None or page.alpha >= values.shape[2] else values[..., page.alpha] == 0
    if page.padding is not None:
        missing = (values[..., : page.colours] == page.padding).all(axis=-1)
        outside = missing if outside is None else outside | missing
    colours = page.colours
    if page.is_palette:
        values, colours = tiff_samples.palette(page, values[..., 0]), 3
    return _of_samples(values, colours, outside, page.negative, page.one(tiff.ORIENTATION, 1), notes)


# ---- samples and Pillow's images -> gray -----------------------------------------------------------------------------


def _of_samples(
    values: np.ndarray,
    colours: int,
    outside: np.ndarray | None,
    negative: bool = False,
    exif: int = 1,
    notes: tuple[str, ...] = (),
) -> Xray:
    """Of [H, W, channels], the first `colours` of which count; for the others see `shown` and `upright`."""
    if values.shape[2] < colours:
        raise UserError(f"it is damaged: its colours need {colours} channels, but it has {values.shape[2]}.")
    gray, coloured = luminance(values[..., :3]) if colours == 3 else (values[..., 0], False)
    pixels = shown(gray, gray if gray.dtype == np.uint8 else None, negative=negative, outside=outside)
    return Xray(upright(pixels, exif), notes=(*notes, *[IN_COLOUR] * coloured))


def _of_pillow(picture: Image.Image, notes: tuple[str, ...] | None = None) -> Xray:
    notes = _aspect(picture) if notes is None else notes
    picture = ImageOps.exif_transpose(picture)
    if picture.mode in _COLOUR_MODES:
        rgb = np.asarray(picture.convert("RGB") if picture.mode != "RGB" else picture)
        gray, coloured = luminance(rgb)
        return Xray(shown(gray, gray, outside=_transparent(picture)), notes=(*notes, *[IN_COLOUR] * coloured))
    if picture.mode in ("L", "1", "LA", "La"):  # of these, Pillow has turned a negative already
        gray = np.asarray(picture.convert("L"))
        return Xray(shown(gray, gray, outside=_transparent(picture)), notes=notes)
    values, hidden = np.asarray(picture), picture.info.get("transparency")
    return Xray(shown(values, outside=values == hidden if isinstance(hidden, int) else None), notes=notes)


def _transparent(picture: Image.Image) -> np.ndarray | None:
    """bool [H, W]: pixels that are not seen at all, whatever colour they hide."""
    if picture.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in picture.info:
        if picture.mode == "La":
            picture = picture.convert("LA")
        outside = np.asarray(picture.convert("RGBA").getchannel("A")) == 0
        return outside if outside.any() else None
    return None


def _aspect(picture: Image.Image) -> tuple[str, ...]:
    """See `not_square`."""
    said: Any = picture.info.get("aspect") or picture.info.get("jfif_density") or picture.info.get("dpi") or (0, 0)
    return not_square(float(said[0]), float(said[1]))
