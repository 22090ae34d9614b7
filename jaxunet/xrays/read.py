"""One X-ray file, PNG, JPEG, TIFF or DICOM, of any size and bit depth -> gray pixels of 8 bits and what goes with them.

How large a picture is, is read from its header before anything is decoded; nothing is unpacked to disk.
"""

import io
import os
import warnings

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.TiffImagePlugin import TiffImageFile

from jaxunet.core.errors import UserError
from jaxunet.core.files import local_path
from jaxunet.xrays.files import XrayFile
from jaxunet.xrays.pixels import MAX_PIXELS, Xray, check_size, to_8_bits

Source = str | os.PathLike[str] | bytes | np.ndarray | Xray

_WHITE_IS_ZERO = 0  # of TIFF's PhotometricInterpretation, tag 262
_COLOURED = 8.0  # mean difference between the largest and the smallest of red, green and blue


warnings.simplefilter("error", Image.DecompressionBombWarning)  # above 89 million pixels: an error as any other


def read_xray(source: Source) -> Xray:
    """Reads an X-ray: 8-bit gray pixels, and what the file says about them.

    8-bit gray is taken as it is. Colour becomes its luminance (ITU-R 601). Other pixels are scaled by what a DICOM file
    says about its display, or else so that the 0.5 and 99.5 percentiles become black and white. A rotation in EXIF is
    done.

    Args:
      source: the path of a PNG, JPEG, TIFF or DICOM file; the content of one as bytes; gray pixels, a NumPy array
        [H, W] of any real dtype, white is dense; or an `Xray`, which is returned as it is.

    Raises:
      UserError: if it cannot be used. The sentence names the path, if one was given.
    """
    if isinstance(source, Xray):
        return source
    if isinstance(source, np.ndarray):
        return Xray(_read_array(source))
    if isinstance(source, bytes):
        return _decode(source)
    if not isinstance(source, str | os.PathLike):
        raise UserError(
            f"An X-ray is a path, bytes, a NumPy array [H, W] or an Xray, and this is of type {type(source).__name__}."
        )
    path = local_path(source)
    if path.is_dir():
        raise UserError(f"{path} is a folder: give a list of its files, or use --mode=predict --input={path}.")
    try:
        return _decode(XrayFile(path.name, "", path).read())
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error}).") from error
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def _read_array(pixels: np.ndarray) -> np.ndarray:
    """Numbers [H, W] -> uint8 [H, W], a copy."""
    if pixels.ndim != 2 or pixels.dtype.kind not in "uif":
        raise UserError(
            f"The array has the shape {pixels.shape} and the dtype {pixels.dtype}: give gray pixels as numbers [H, W]."
        )
    check_size(*pixels.shape)
    return pixels.copy() if pixels.dtype == np.uint8 else to_8_bits(pixels)


def _decode(data: bytes) -> Xray:
    """Decodes a file; its first bytes say of which kind it is."""
    if data[128:132] == b"DICM":
        from jaxunet.xrays import dicom  # late: pydicom is optional

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


def _read_picture(picture: Image.Image) -> Xray:
    notes = []
    negative = False
    if isinstance(picture, TiffImageFile):
        if picture.n_frames > 1:
            notes.append(f"first of {picture.n_frames} pages")
        negative = picture.tag_v2.get(262) == _WHITE_IS_ZERO
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
