"""What a file is, by its first bytes; its name does not count."""

HEAD = 512  # bytes that are enough to tell
PNG = b"\x89PNG\r\n\x1a\n"
JPEG = b"\xff\xd8\xff"
TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # the last two with addresses of 64 bits
_DICOMDIR = b"1.2.840.10008.1.3.10\0"
_OTHERS = {
    b"BM": "BMP",
    b"GIF8": "GIF",
    b"RIFF": "WebP or other RIFF",
    b"\0\0\0\x0cjP": "JPEG 2000",
    b"\xff\x4f\xff\x51": "JPEG 2000",
    b"%PDF": "PDF",
    b"PK\x03\x04": "zip",
    b"\x1f\x8b": "gzip",
    b"SIMPLE": "FITS",
    b"\x93NUMPY": "NumPy",
    b"8BPS": "Photoshop",
    b"P5": "PGM",
}


def kind_of(head: bytes) -> str:
    """ "PNG", "JPEG", "TIFF" or "DICOM", from the first `HEAD` bytes of a file; "" of others."""
    if head[128:132] == b"DICM":
        return "DICOM"
    if head[:8] == PNG:
        return "PNG"
    if head[:3] == JPEG:
        return "JPEG"
    if head[:4] in TIFF:
        return "TIFF"
    return "DICOM" if _begins_without_preamble(head) else ""


def other_kind_of(head: bytes) -> str:
    """What a file is that cannot be read; "" if that is not known."""
    return next((name for start, name in _OTHERS.items() if head.startswith(start)), "")


def is_dicomdir(head: bytes) -> bool:
    """Whether a DICOM file is a list of others."""
    return head[128:132] == b"DICM" and _DICOMDIR in head


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
