"""Pictures: a prediction beside the truth, and the one PNG encoder of the program."""

import io
import pathlib
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw

from jaxunet.core.files import write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_HIT, _FALSE, _MISSED = (70, 190, 90), (230, 70, 60), (60, 130, 240)


def painted(image: np.ndarray, truth: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """uint8 [H, W, 3]: the X-ray uint8 [H, W] with hits green, false alarms red and misses blue; masks bool [H, W]."""
    gray = np.repeat(image[..., None], 3, axis=-1).astype(np.float32)
    result = gray.copy()
    for where, colour in ((truth & predicted, _HIT), (predicted & ~truth, _FALSE), (truth & ~predicted, _MISSED)):
        result[where] = 0.6 * gray[where] + 0.4 * np.array(colour, np.float32)
    return result.astype(np.uint8)


def overlay(image: np.ndarray, truth: np.ndarray, predicted: np.ndarray, caption: str) -> Image.Image:
    """The X-ray uint8 [H, W], beside it the same with the masks bool [H, W], and a line of text below."""
    h, w = image.shape
    picture = Image.new("RGB", (2 * w + 4, h + 18), "white")
    picture.paste(Image.fromarray(image).convert("RGB"), (0, 0))
    picture.paste(Image.fromarray(painted(image, truth, predicted)), (w + 4, 0))
    ImageDraw.Draw(picture).text((4, h + 3), caption, fill="black")
    return picture


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


def save_figure(figure: "Figure", path: pathlib.Path, *, dpi: int) -> None:
    """Writes a Matplotlib figure as PNG and closes it."""
    import matplotlib.pyplot as plt  # late: most commands draw no figure

    data = io.BytesIO()
    figure.savefig(data, dpi=dpi)
    plt.close(figure)
    write_atomically(path, data.getvalue())
