"""One X-ray file, PNG, JPEG, TIFF or DICOM, of any size and bit depth -> gray pixels of 8 bits and what goes with them.

How large a picture is, is read from its header before anything is decoded; nothing is unpacked to disk.
"""

import warnings

from PIL import Image

from jaxunet.core.errors import UserError
from jaxunet.xrays import picture, tiff
from jaxunet.xrays.pixels import Xray

warnings.simplefilter("error", Image.DecompressionBombWarning)  # above 89 million pixels: an error as any other
HEAD = 144  # bytes of a file that say what it is


def kind_of(head: bytes) -> str:
    """"PNG", "JPEG", "TIFF" or "DICOM", from the first `HEAD` bytes of a file; "" of others."""
    if head[128:132] == b"DICM":
        return "DICOM"
    if head[:8] == picture.PNG:
        return "PNG"
    if head[:3] == picture.JPEG:
        return "JPEG"
    if head[:4] in tiff.SIGNATURES:
        return "TIFF"
    return "DICOM" if _begins_without_preamble(head) else ""


def _begins_without_preamble(head: bytes) -> bool:
    """Whether a data set begins at once, as old and cut DICOM files do: its first tags, little- or big-endian."""
    if head[:4] == b"DICM":
        return True
    if head[:4] in (b"\2\0\0\0", b"\2\0\1\0", b"\2\0\2\0"):
        return head[4:6] in (b"UL", b"OB", b"UI")
    explicit = head[4:6].isalpha() and head[4:6].isupper()
    if head[:2] == b"\x08\0" and head[3:4] == b"\0":
        return explicit or head[6:8] == b"\0\0"
    return head[:2] == b"\0\x08" and head[2:3] == b"\0" and explicit


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
