"""PNG pictures. Every PNG that the program stores, writes or sends is encoded here."""

import io
import pathlib
import zlib
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from jaxunet.core.files import write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def png(picture: np.ndarray | Image.Image, *, compress_level: int = 6) -> bytes:
    """Encodes a picture as a PNG file.

    Args:
      picture: uint8 [H, W] or [H, W, 3], or a Pillow image.
      compress_level: 0 to 9. Level 1 is several times faster than 6, and its files are somewhat larger.
    """
    image = Image.fromarray(picture) if isinstance(picture, np.ndarray) else picture
    data = io.BytesIO()
    image.save(data, "png", compress_level=compress_level)
    return data.getvalue()


def is_whole_png(path: pathlib.Path) -> bool:
    """Whether `path` is a PNG file as it was written: every chunk has its checksum, and the last one is there."""
    try:
        data, at = path.read_bytes(), 8
    except OSError:
        return False
    while data[at + 4 : at + 8] != b"IEND":
        length = int.from_bytes(data[at : at + 4])
        end = at + 8 + length
        if end + 4 > len(data) or zlib.crc32(data[at + 4 : end]) != int.from_bytes(data[end : end + 4]):
            return False
        at = end + 4
    return data.startswith(b"\x89PNG\r\n\x1a\n") and data[at:] == b"\0\0\0\0IEND\xaeB`\x82"


def save_figure(figure: "Figure", path: pathlib.Path, *, dpi: int) -> None:
    """Writes a Matplotlib figure as PNG and closes it."""
    import matplotlib.pyplot as plt  # late: most commands draw no figure

    data = io.BytesIO()
    figure.savefig(data, dpi=dpi)
    plt.close(figure)
    write_atomically(path, data.getvalue())
