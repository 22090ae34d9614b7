"""PNG pictures. Every PNG that the program stores, writes or sends is encoded here."""

import io
import pathlib
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from jaxunet.core.files import write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def png(picture: np.ndarray | Image.Image, *, compress_level: int = 6) -> bytes:
    """Encodes a picture, uint8 [H, W] or [H, W, 3] or a Pillow image, as a PNG file. `compress_level` 1 of 0 to 9 is
    several times faster than 6, and its files are somewhat larger."""
    image = Image.fromarray(picture) if isinstance(picture, np.ndarray) else picture
    data = io.BytesIO()
    image.save(data, "png", compress_level=compress_level)
    return data.getvalue()


def save_figure(figure: "Figure", path: pathlib.Path, *, dpi: int) -> None:
    """Writes a Matplotlib figure as PNG and closes it."""
    import matplotlib.pyplot as plt  # late: most commands draw no figure

    data = io.BytesIO()
    figure.savefig(data, dpi=dpi)
    plt.close(figure)
    write_atomically(path, data.getvalue())
