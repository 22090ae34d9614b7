"""What a compressed stream of an image claims, from its header, so that nothing is decoded that should not be."""

import dataclasses
import struct

from jaxunet.core.errors import UserError

_MOST_SEGMENTS = 20_000  # of a JPEG
_MOST_CHUNKS = 100_000  # of a PNG
_MOST_SCANS = 100  # of a progressive JPEG; usual are 6 to 10
_MOST_SCANNED = 1_000_000_000  # pixels times scans
_NO_FRAME = (0xFFC4, 0xFFC8, 0xFFCC)  # markers between those that start a frame
_PROGRESSIVE = (0xFFC2, 0xFFCA)
_LOSSLESS = (0xFFC3, 0xFFCB)
_HIERARCHICAL = (0xFFC5, 0xFFC6, 0xFFC7, 0xFFCD, 0xFFCE, 0xFFCF)
_JP2 = b"\0\0\0\x0cjP  \r\n\x87\n"


@dataclasses.dataclass(frozen=True)
class Stream:
    """What a stream says of itself."""

    kind: str  # "JPEG", "JPEG-LS", "JPEG 2000" or "JPEG XL"
    height: int = 0  # height, width: 0 where its header does not say them
    width: int = 0
    bits: int = 0  # of a sample; 0 where unknown
    channels: int = 0  # 0 where unknown
    # whether three channels are these (True) or luminance and two of colour (False); None if unsaid
    red_green_blue: bool | None = None
    lossless: bool = False  # whether it is the lossless kind of JPEG


def describe(data: bytes) -> Stream | None:
    """What the stream `data` claims; None if it is none of those kinds.

    Raises UserError if it is damaged, or made to keep a decoder busy.
    """
    if data[:2] == b"\xff\xd8":
        return _jpeg(data)
    if data[:4] == b"\xff\x4f\xff\x51":
        return _jpeg_2000(data, 0)
    if data[:12] == _JP2:
        return _jpeg_2000(data, _codestream(data))
    if data[:2] == b"\xff\x0a" or data[4:12] == b"JXL \r\n\x87\n":
        return Stream("JPEG XL")
    return None


def _jpeg(data: bytes) -> Stream:
    """Goes through the segments up to the start of the scan (ISO 10918-1 B.1.1)."""
    at, found, colours = 2, None, None
    for _ in range(_MOST_SEGMENTS):
        while data[at : at + 2] == b"\xff\xff":  # fill bytes
            at += 1
        if at + 4 > len(data) or data[at] != 0xFF:
            break
        marker, length = struct.unpack_from(">HH", data, at)
        if marker == 0xFFDA:
            break
        body = data[at + 4 : at + 2 + length]
        if (0xFFC0 <= marker <= 0xFFCF and marker not in _NO_FRAME) or marker == 0xFFF7:
            if found is not None or len(body) < 6:
                raise UserError("it is damaged: its JPEG stream has several headers, or half of one, with its size.")
            if marker in _HIERARCHICAL:
                raise UserError("its JPEG stream is hierarchical, which is not supported.")
            bits, height, width, channels = struct.unpack_from(">BHHB", body)
            if channels == 3 and body[6:15:3] == b"RGB":
                colours = True
            found = Stream(
                "JPEG-LS" if marker == 0xFFF7 else "JPEG", height, width, bits, channels, lossless=marker in _LOSSLESS
            )
            scans = data.count(b"\xff\xda", at)
            if scans > _MOST_SCANS or marker in _PROGRESSIVE and scans * height * width > _MOST_SCANNED:
                raise UserError(f"its JPEG stream has {scans:,} scans, more than that of any X-ray.")
        elif marker == 0xFFEE and body[:5] == b"Adobe" and len(body) >= 12:
            colours = body[11] == 0
        elif marker == 0xFFE0 and body[:4] == b"JFIF" and colours is None:
            colours = False
        at += 2 + length
    else:
        raise UserError(f"its JPEG stream has more than {_MOST_SEGMENTS:,} segments, more than that of any X-ray.")
    if found is None:
        raise UserError("it is damaged: its JPEG stream does not say how large it is.")
    return dataclasses.replace(found, red_green_blue=colours)


def _codestream(data: bytes) -> int:
    """Where the codestream of a JP2 file begins: its boxes say so (ISO 15444-1 I.4)."""
    at = 0
    for _ in range(1000):
        if at + 16 > len(data):
            break
        length, name = struct.unpack_from(">I4s", data, at)
        head = 8
        if length == 1:
            (length,), head = struct.unpack_from(">Q", data, at + 8), 16
        if name == b"jp2c":
            return at + head
        if length < head:
            break
        at += length
    raise UserError("it is damaged: its JPEG 2000 file holds no image.")


def _jpeg_2000(data: bytes, at: int) -> Stream:
    """From the marker segment SIZ, which comes first (ISO 15444-1 A.5.1)."""
    begins = data[at : at + 4] == b"\xff\x4f\xff\x51" and at + 46 <= len(data)
    right, bottom, left, top, tile_width, tile_height = struct.unpack_from(">6I", data, at + 8) if begins else [0] * 6
    if right <= left or bottom <= top or not tile_width or not tile_height:
        raise UserError("it is damaged: its JPEG 2000 stream does not say how large it is.")
    channels, bits = struct.unpack_from(">HB", data, at + 40)
    if -(-(right - left) // tile_width) * -(-(bottom - top) // tile_height) > 65_535:
        raise UserError("it is damaged: its JPEG 2000 stream claims more tiles than the format allows (65,535).")
    while data[at : at + 1] == b"\xff" and (segment := data[at : at + 9])[1:2] not in (b"\x52", b"\x90", b""):
        at += 2 if segment[1] == 0x4F else 2 + int.from_bytes(segment[2:4], "big")
    transformed = len(data) > at + 8 and data[at + 1] == 0x52 and data[at + 8] == 1  # COD, which follows SIZ (A.6.1)
    return Stream("JPEG 2000", bottom - top, right - left, (bits & 127) + 1, channels, transformed or None)


def check_chunks(png: bytes) -> None:
    """Raises UserError if a PNG has more chunks than any X-ray."""
    at = 8
    for _ in range(_MOST_CHUNKS):
        if at + 8 > len(png):
            return
        at += 12 + int.from_bytes(png[at : at + 4], "big")
    raise UserError(f"it has more than {_MOST_CHUNKS:,} chunks, more than any X-ray.")
