"""One X-ray file, PNG, JPEG, TIFF or DICOM, of any size and bit depth -> gray pixels of 8 bits and what goes with them.

How large a picture is, is read from its header before anything is decoded; nothing is unpacked to disk.
"""

import os
import warnings

import numpy as np
from PIL import Image

from jaxunet.core.errors import UserError
from jaxunet.core.files import local_path
from jaxunet.xrays import picture
from jaxunet.xrays.files import XrayFile
from jaxunet.xrays.kinds import HEAD, kind_of
from jaxunet.xrays.pixels import Xray, check_size, to_8_bits

Source = str | os.PathLike[str] | bytes | np.ndarray | Xray

warnings.simplefilter("error", Image.DecompressionBombWarning)  # above 89 million pixels: an error as any other


def read_xray(source: Source, *, keep_patient: bool = False) -> Xray:
    """Reads an X-ray: 8-bit gray pixels, and what the file says about them.

    8-bit gray is taken as it is. Colour becomes its luminance (ITU-R 601). Other pixels are scaled by what a DICOM file
    says about its display, or else so that the 0.5 and 99.5 percentiles become black and white. Padding and transparent
    pixels become black. A rotation in EXIF is done.

    Args:
      source: the path of a PNG, JPEG, TIFF or DICOM file; the content of one as bytes; gray pixels, a NumPy array
        [H, W] of any real dtype, white is dense; or an `Xray`, which is returned as it is.
      keep_patient: keep who was examined, from the header of a DICOM file, for the segmentation.

    Raises:
      UserError: if it cannot be used. The sentence names the path, if one was given.
    """
    if isinstance(source, Xray):
        return source
    if isinstance(source, np.ndarray):
        if source.ndim != 2 or source.dtype.kind not in "uif":
            shape = f"the shape {source.shape} and the dtype {source.dtype}"
            raise UserError(f"The array has {shape}: give gray pixels as numbers [H, W].")
        check_size(*source.shape)
        return Xray(source.copy() if source.dtype == np.uint8 else to_8_bits(source))
    if isinstance(source, bytes):
        return decode(source, keep_patient=keep_patient)
    if not isinstance(source, str | os.PathLike):
        raise UserError(f"An X-ray is a path, bytes, an array [H, W] or an Xray, not of type {type(source).__name__}.")
    path = local_path(source)
    if path.is_dir():
        raise UserError(f"{path} is a folder: give a list of its files, or use --mode=predict --input={path}.")
    try:
        return decode(XrayFile(path.name, "", path).read(), keep_patient=keep_patient)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error}).") from error
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def decode(data: bytes, *, also: tuple[str, ...] = (), keep_patient: bool = False) -> Xray:
    """Decodes a file; its first bytes say of which kind it is. `also`: further formats of Pillow, such as "BMP".

    Raises UserError if it cannot be used; the sentence does not name the file.
    """
    if not data:
        raise UserError("it is empty.")
    try:
        if kind_of(data[:HEAD]) == "DICOM":
            from jaxunet.xrays import dicom  # late: pydicom is optional

            return dicom.read(data, keep_patient=keep_patient)
        return picture.read(data, also)
    except MemoryError as error:
        raise UserError("decoding it needs more memory than there is.") from error
