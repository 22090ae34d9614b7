"""The pixel data of a DICOM file, in any layout or compression -> numbers, of as many bits as are allocated."""

import re
import zlib

import numpy as np

from jaxunet.core.errors import UserError
from jaxunet.xrays import streams, worker
from jaxunet.xrays.attributes import Attributes
from jaxunet.xrays.picture import decompress
from jaxunet.xrays.pixels import check_size, numbers_of

NATIVE = ("", "1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.2")
_RLE, _IN_PARTS, _DEFLATED_FRAMES = "1.2.840.10008.1.2.5", "1.2.840.10008.1.2.1.98", "1.2.840.10008.1.2.8.1"
_VIDEO = re.compile(r"1\.2\.840\.10008\.1\.2\.4\.10[0-9]")  # MPEG-2, MPEG-4 and HEVC
_JPIP = ("1.2.840.10008.1.2.4.94", "1.2.840.10008.1.2.4.95", "1.2.840.10008.1.2.4.204", "1.2.840.10008.1.2.4.205")


class Layout:
    """How the header says that pixels are stored: `shape` is height, width and samples of a pixel, of `bits` each."""

    def __init__(self, said: Attributes, kind: str, name: str, words: bool):
        """Raises UserError for an impossible size.

        `kind`: PhotometricInterpretation. `name`: of the attribute that holds the pixels. `words`: whether single bytes
        are stored as words of 16 bits.
        """
        self.shape = said.count("Rows", 0), said.count("Columns", 0), said.count("SamplesPerPixel", 1)
        check_size(*self.shape[:2])
        self.bits = {"FloatPixelData": 32, "DoubleFloatPixelData": 64}.get(name) or said.count("BitsAllocated", 16)
        self.kind, self.floating, self.words = kind, name != "PixelData", words
        self.planar = said.count("PlanarConfiguration", 0) == 1  # each colour is stored for itself


def of_bytes(data: bytes, layout: Layout, *, big_endian: bool) -> np.ndarray:
    """Numbers [H, W, channels] of the first frame, not compressed; three channels are red, green and blue.

    Raises UserError if there are fewer than the header says, or their layout is not supported.
    """
    height, width, channels = layout.shape
    halved = layout.kind == "YBR_FULL_422"  # two of luminance, then the two of colour that both share
    used = height * width * 2 if halved else -(-height * width * channels * layout.bits // 8)
    if len(data) < used:
        raise UserError("it is damaged: it holds fewer pixels than its header says.")
    raw = np.frombuffer(data, np.uint8, used)
    if big_endian and layout.words and layout.bits == 8:
        raw = np.frombuffer(data, np.uint8, min(used + used % 2, len(data) // 2 * 2)).reshape(-1, 2)[:, ::-1].ravel()
    numbers = numbers_of(raw[None], layout.bits, "uf"[layout.floating], big_endian=big_endian, low_bit_first=True)[0]
    if halved:
        pairs = numbers[:used].reshape(-1, 4)
        three = np.stack([pairs[:, :2].ravel(), pairs[:, 2].repeat(2), pairs[:, 3].repeat(2)], axis=-1)
        return _to_rgb(three.reshape(height, width, 3), layout)
    return _to_rgb(_arranged(numbers[: height * width * channels], layout), layout)


def of_stream(stream: bytes, layout: Layout, syntax: str) -> np.ndarray:
    """The same for a compressed frame. Its first bytes tell the codec, because the transfer syntax can be wrong.

    Raises UserError if it is damaged, not the picture that the header describes, or of a codec that is not supported.
    """
    height, width, channels = layout.shape
    found = streams.describe(stream)
    if found is not None:
        if found.height and (found.height, found.width) != (height, width):
            claimed = f"{found.height} x {found.width}"
            raise UserError(f"its compressed image claims {claimed} pixels, but its header {height} x {width}.")
        samples = decompress(stream, found, channels=channels, red_green_blue=layout.kind.startswith("RGB"))
        if found.kind == "JPEG" and not found.lossless or found.red_green_blue:
            return samples  # its decoder has made red, green and blue of it
        return _to_rgb(samples, layout)
    if syntax == _RLE:
        if layout.bits not in (8, 16, 32):
            raise UserError(f"RLE with samples of {layout.bits} bits is not supported: save it uncompressed.")
        planes = worker.decode(stream, "RLE", shape=(channels, height, width), bytes=layout.bits // 8)
        return _to_rgb(planes.transpose(1, 2, 0), layout)
    if syntax == _IN_PARTS:
        return of_bytes(stream, layout, big_endian=False)
    if syntax == _DEFLATED_FRAMES:
        most = height * width * channels * layout.bits // 8 + 2
        return of_bytes(zlib.decompressobj(-zlib.MAX_WBITS).decompress(stream, most), layout, big_endian=False)
    if _VIDEO.match(syntax):
        raise UserError("it is a video (MPEG), which is not supported: save one frame as an image.")
    if syntax in _JPIP:
        raise UserError("its pixels are on a server (JPIP), which is not supported: save them in the file.")
    raise UserError("it is damaged: its compressed image is not JPEG, JPEG-LS, JPEG 2000, JPEG XL or RLE.")


def _arranged(numbers: np.ndarray, layout: Layout) -> np.ndarray:
    """[H * W * channels] -> [H, W, channels].

    X-rays are gray, also in colour: where only one of the two arrangements makes them so, it is the right one.
    """
    height, width, channels = layout.shape
    by_pixel, by_plane = numbers.reshape(height, width, channels), numbers.reshape(channels, height, width)
    by_plane = by_plane.transpose(1, 2, 0)
    declared, other = (by_plane, by_pixel) if layout.planar else (by_pixel, by_plane)
    if channels == 3 and layout.kind.startswith("RGB") and _colourfulness(other) < _colourfulness(declared) / 20:
        return other
    return declared


def _colourfulness(colours: np.ndarray) -> float:
    return float(np.ptp(colours[:: 1 + len(colours) // 256].astype(np.float64), axis=-1).mean())


def _to_rgb(samples: np.ndarray, layout: Layout) -> np.ndarray:
    """Red, green and blue of luminance and two of colour (PS3.3 C.7.6.3.1.2), where the header says it is these."""
    if not layout.kind.startswith(("YBR_FULL", "YBR_PARTIAL")) or samples.shape[2] != 3:
        return samples
    if samples.dtype != np.uint8:
        return np.repeat(samples[..., :1], 3, axis=2)  # the luminance, which is all that is needed
    y, blue, red = (samples[..., i].astype(np.float32) - (0, 128, 128)[i] for i in range(3))
    rgb = np.stack([y + 1.402 * red, y - 0.344136 * blue - 0.714136 * red, y + 1.772 * blue], axis=-1)
    return np.clip(np.rint(rgb), 0, 255).astype(np.uint8)
