"""DICOM files of any layout, to be read by tests; all of them show the picture `SHOWN` unless told otherwise."""

import io
import warnings
from typing import Any

import numpy as np
import pytest

ROWS, COLUMNS = np.mgrid[:64, :64]
SHOWN = (30 + 2.4 * COLUMNS + 40 * ((ROWS - 20) ** 2 + (COLUMNS - 40) ** 2 < 150) + 20 * (ROWS > 40)).astype(np.uint8)
TWELVE = SHOWN.astype(np.uint16) * 16  # 12 bits
IN_12 = {"BitsStored": 12, "HighBit": 11, "WindowCenter": 2048, "WindowWidth": 4096}
EIGHT = {"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7}
EXPLICIT, IMPLICIT, BIG_ENDIAN = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2", "1.2.840.10008.1.2.2"
_AS_US_OR_SS = ("PixelPaddingValue", "PixelPaddingRangeLimit")


def dicom_of(
    pixels: np.ndarray | bytes | None, syntax: str = EXPLICIT, *, stream: bytes | None = None, **attributes: Any
) -> bytes:
    """A DICOM file; 16 bits of gray unless `attributes` say otherwise.

    Args:
      pixels: what is stored, in the byte order of `syntax`.
      syntax: the transfer syntax.
      stream: a compressed frame instead of `pixels`.
      **attributes: by keyword; (VR, value) where the VR matters; `Pixels` is that of the pixel data.
    """
    pydicom = pytest.importorskip("pydicom", reason="pydicom is not installed: pip install 'jaxunet[dicom]'")
    header = pydicom.Dataset()
    header.file_meta = pydicom.dataset.FileMetaDataset()
    header.file_meta.TransferSyntaxUID = syntax
    header.SOPClassUID = header.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.1.1"
    header.SOPInstanceUID = header.file_meta.MediaStorageSOPInstanceUID = "1.2.3.4"
    header.Rows, header.Columns, header.SamplesPerPixel = 64, 64, 1
    header.PhotometricInterpretation, header.PixelRepresentation = "MONOCHROME2", 0
    header.BitsAllocated, header.BitsStored, header.HighBit = 16, 16, 15
    vr = attributes.pop("Pixels", "OW")
    with warnings.catch_warnings(action="ignore"):  # of values that are not as the standard has them
        _set(header, attributes)
    if stream is not None:
        header.add_new(0x7FE00010, "OB", pydicom.encaps.encapsulate([stream]))
        header["PixelData"].is_undefined_length = True
    elif pixels is not None:
        header.add_new(0x7FE00010, vr, pixels if isinstance(pixels, bytes) else pixels.tobytes())
    data = io.BytesIO()
    pydicom.dcmwrite(
        data, header, implicit_vr=syntax == IMPLICIT, little_endian=syntax != BIG_ENDIAN, enforce_file_format=True
    )
    return data.getvalue()


def _set(header: Any, attributes: dict[str, Any]) -> None:
    from pydicom.datadict import tag_for_keyword

    for name, value in attributes.items():
        if name in _AS_US_OR_SS and not isinstance(value, tuple):
            value = ("US" if value >= 0 else "SS", value)
        if isinstance(value, tuple):
            header.add_new(tag_for_keyword(name), *value)
        else:
            setattr(header, name, value)


def item(**attributes: Any) -> Any:
    """A sequence of one item; attributes as for `dicom_of`."""
    pydicom = pytest.importorskip("pydicom", reason="pydicom is not installed: pip install 'jaxunet[dicom]'")
    only = pydicom.Dataset()
    _set(only, attributes)
    return pydicom.Sequence([only])


def table(entries: int, first: int, bits: int, data: Any, vr: str = "OW") -> Any:
    """A VOI or modality LUT, whose data may be anything."""
    sign = "SS" if first < 0 else "US"
    return item(
        LUTDescriptor=(sign, [entries, first, bits]), LUTData=(vr, data), LUTExplanation="", ModalityLUTType="US"
    )
