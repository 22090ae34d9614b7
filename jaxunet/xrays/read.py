"""One X-ray file, PNG, JPEG, TIFF or DICOM, of any size and bit depth -> gray pixels of 8 bits and what goes with them.

How large a picture is, is read from its header before anything is decoded; nothing is unpacked to disk.
"""

import io
import warnings

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from jaxunet.core.errors import UserError
from jaxunet.xrays.pixels import MAX_PIXELS, Xray, check_size, to_8_bits

_WHITE_IS_ZERO = 0  # of TIFF's PhotometricInterpretation, tag 262
_COLOURED = 8.0  # mean difference between the largest and the smallest of red, green and blue


warnings.simplefilter("error", Image.DecompressionBombWarning)  # above 89 million pixels: an error as any other


def read_xray(data: bytes) -> Xray:
    """Decodes a file; what it is, its first bytes say.

    8-bit gray is taken as it is, colour as its luminance (ITU-R 601). More bits are scaled by what a DICOM file says
    about its display, else so that the 0.5 and 99.5 percentiles become black and white. A rotation in EXIF is done.

    Raises:
      UserError: if it cannot be used; the sentence does not name the file.
    """
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
