"""One X-ray file, PNG, JPEG, TIFF or DICOM, of any size and bit depth -> gray pixels of 8 bits and what goes with them.

How large a picture is, is read from its header before anything is decoded; nothing is unpacked to disk.
"""

import warnings

from PIL import Image

from jaxunet.core.errors import UserError
from jaxunet.xrays import picture
from jaxunet.xrays.kinds import HEAD, kind_of
from jaxunet.xrays.pixels import Xray

warnings.simplefilter("error", Image.DecompressionBombWarning)  # above 89 million pixels: an error as any other


def read_xray(data: bytes, *, also: tuple[str, ...] = ()) -> Xray:
    """Decodes a file; what it is, its first bytes say.

    8-bit gray is taken as it is, colour as its luminance (ITU-R 601). More bits are scaled by what a DICOM file says
    about its display, else so that the 0.5 and 99.5 percentiles become black and white. Padding and transparent pixels
    become black. A rotation in EXIF is done.

    Args:
      data: the file.
      also: further formats that are read, as Pillow calls them, such as "BMP".

    Raises:
      UserError: if it cannot be used; the sentence does not name the file.
    """
    if not data:
        raise UserError("it is empty.")
    if kind_of(data[:HEAD]) == "DICOM":
        from jaxunet.xrays import dicom  # late: pydicom is optional

        return dicom.read(data)
    return picture.read(data, also)
