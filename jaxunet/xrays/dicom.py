"""DICOM in and out: the only file that uses pydicom and highdicom (`pip install 'jaxunet[dicom]'`).

Of a patient's header nothing is kept but what a segmentation must say to be found beside its X-ray: identifiers of
study, series, image and frame of reference, and the geometry of the pixels.
"""

import io
import logging
import re
import struct
import warnings
from typing import Any

import numpy as np

from jaxunet.core.errors import UserError
from jaxunet.xrays.pixels import Xray, check_size, stretch, to_8_bits

warnings.filterwarnings("ignore", module="pydicom")  # what it says of a header quotes it, maybe the patient's name


_DEFLATED = "1.2.840.10008.1.2.1.99"
_RADIOGRAPHY = ("CR", "DX", "DR", "RG", "RF", "XA", "PX", "OT", "SC", "")
_LATERAL = ("LL", "RL", "LATERAL", "LAT", "LLD", "RLD")
_SPACINGS = ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing")
_LARGEST_PIXEL = 1000.0  # mm; areas must stay finite
# All that is taken from the source; highdicom copies nothing that is not there.
_LINKS = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID")
_GEOMETRY = ("Rows", "Columns", "PixelSpacing", "ImagePositionPatient", "ImageOrientationPatient")
_EMPTY = (
    "AccessionNumber",
    "ReferringPhysicianName",
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyDate",
    "StudyTime",
    "StudyID",
)


def read(data: bytes) -> Xray:
    """Decodes a DICOM file: modality LUT, then VOI LUT or the first window, MONOCHROME1 inverted.

    Without either of the two, the 0.5 and 99.5 percentiles become black and white. Of several frames, the first is
    taken.

    Raises:
      UserError: if it cannot be used, or pydicom is not installed.
    """
    try:
        import pydicom
    except ImportError as error:
        raise UserError("it is a DICOM file, which needs pydicom: pip install 'jaxunet[dicom]'.") from error
    logging.getLogger("pydicom").setLevel(logging.CRITICAL + 1)  # as for the warnings
    try:
        return _read(pydicom, data)
    except UserError:
        raise
    except Exception as error:  # pydicom and the decoders behind it raise whatever they meet, and may quote the header
        raise UserError(f"it is damaged or cannot be decoded ({type(error).__name__}).") from error


def _read(pydicom: Any, data: bytes) -> Xray:
    meta = pydicom.filereader.read_partial(io.BytesIO(data), stop_when=lambda tag, *_: tag.group > 2)
    if meta.file_meta.get("TransferSyntaxUID") == _DEFLATED:
        raise UserError("it is deflated as a whole, so its size cannot be known before: write it uncompressed.")
    header = pydicom.dcmread(io.BytesIO(data))
    if "PixelData" not in header:
        raise UserError("it is a DICOM file without an image.")
    frames = int(header.get("NumberOfFrames") or 1)
    check_size(int(header.Rows) * frames, int(header.Columns))
    if header.file_meta.TransferSyntaxUID.is_encapsulated:
        claimed = size_in_stream(pydicom.encaps.get_frame(header.PixelData, 0, number_of_frames=frames))
        if claimed not in (None, (header.Rows, header.Columns)):
            raise UserError(
                f"its compressed image claims {claimed} pixels, but its header {header.Rows, header.Columns}."
            )

    notes = [f"first of {frames} frames"] if frames > 1 else []
    modality = str(header.get("Modality") or "")
    if modality not in _RADIOGRAPHY:
        is_code = re.fullmatch("[A-Z]{2,4}", modality)  # else anything may stand there, also a name
        notes.append(f"modality {modality}, not radiography" if is_code else "a modality other than radiography")
    if str(header.get("ViewPosition", "")).upper() in _LATERAL:
        notes.append(f"view {header.ViewPosition}, not frontal")
    spacing, spacing_from = _spacing(header)
    return Xray(
        pixels=_gray(pydicom, header, frames),
        spacing_mm=spacing,
        spacing_from=spacing_from,
        mirrored=str((header.get("PatientOrientation") or [""])[0]).upper().startswith("R"),
        notes=tuple(notes),
        header=None if frames > 1 else _without_patient(pydicom, header),
    )


def size_in_stream(data: bytes) -> tuple[int, int] | None:
    """(height, width) that a JPEG, JPEG-LS or JPEG 2000 stream claims, which decoders go by; None of other streams."""
    start = data.find(b"\xff\x4f\xff\x51", 0, 4096)  # JPEG 2000: start of codestream, then SIZ (ISO 15444-1 A.5.1)
    if start >= 0:
        right, bottom, left, top = struct.unpack_from(">4I", data, start + 8)
        return bottom - top, right - left
    at = 2
    while data[:2] == b"\xff\xd8" and at + 9 <= len(
        data
    ):  # JPEG: segments up to the start of frame (ISO 10918-1 B.1.1)
        marker, length = struct.unpack_from(">HH", data, at)
        if 0xFFC0 <= marker <= 0xFFCF and marker not in (0xFFC4, 0xFFC8, 0xFFCC) or marker == 0xFFF7:
            return struct.unpack_from(">HH", data, at + 5)
        at += 2 + length
    return None


def _gray(pydicom: Any, header: Any, frames: int) -> np.ndarray:
    """uint8 [H, W] as the file says it is to be shown, white being dense."""
    values = header.pixel_array[0] if frames > 1 else header.pixel_array
    kind = header.PhotometricInterpretation
    if kind.startswith(("RGB", "YBR")):
        from PIL import Image

        rgb = pydicom.pixels.pixel_array(header, index=0)  # brings YBR to RGB
        return np.asarray(Image.fromarray(rgb.astype(np.uint8)).convert("L"))
    if kind not in ("MONOCHROME1", "MONOCHROME2"):
        raise UserError("its PhotometricInterpretation is not supported: convert it to MONOCHROME2.")
    stored, values = values, pydicom.pixels.apply_modality_lut(values, header)
    if header.get("VOILUTSequence"):
        bits = header.VOILUTSequence[0].LUTDescriptor[2]
        pixels = stretch(pydicom.pixels.apply_voi(values, header), 0, 2**bits - 1)
    elif header.get("WindowWidth") is not None and header.get("WindowCenter") is not None:
        pixels = window(
            values, _first(header.WindowCenter), _first(header.WindowWidth), header.get("VOILUTFunction") or "LINEAR"
        )
    else:
        padding = header.get("PixelPaddingValue")
        pixels = to_8_bits(values, None if padding is None or (stored == padding).all() else stored != padding)
    return 255 - pixels if kind == "MONOCHROME1" else pixels


def window(values: np.ndarray, center: float, width: float, function: str) -> np.ndarray:
    """uint8, of the shape of `values`: the window functions of DICOM PS3.3 C.11.2, to [0, 255].

    Raises:
      UserError: if there is no such function or the width is too small.
    """
    if width < 1 and function == "LINEAR" or width <= 0:
        raise UserError(f"its WindowWidth {width} is too small.")
    if function == "LINEAR":
        if width == 1:
            return np.where(values > center - 0.5, 255, 0).astype(np.uint8)
        return stretch(values, center - 0.5 - (width - 1) / 2, center - 0.5 + (width - 1) / 2)
    if function == "LINEAR_EXACT":
        return stretch(values, center - width / 2, center + width / 2)
    if function == "SIGMOID":
        exponent = np.clip(-4 * (values.astype(np.float64) - center) / width, -80, 80)
        return np.rint(255 / (1 + np.exp(exponent))).astype(np.uint8)
    raise UserError("its VOILUTFunction is none of LINEAR, LINEAR_EXACT and SIGMOID.")


def _first(value: Any) -> float:
    return float(value[0] if hasattr(value, "__len__") and not isinstance(value, str) else value)


def _spacing(header: Any) -> tuple[tuple[float, float] | None, str]:
    """Height and width of a pixel in mm, and the attribute that says so."""
    for name in _SPACINGS:
        value = header.get(name)
        if value is not None and len(value) == 2 and all(0 < float(x) < _LARGEST_PIXEL for x in value):
            return (float(value[0]), float(value[1])), name
    return None, ""


def _without_patient(pydicom: Any, header: Any) -> Any:
    """A new header with what links to the source and with its geometry; everything about the patient is empty."""
    kept = pydicom.Dataset()
    kept.file_meta = pydicom.dataset.FileMetaDataset()
    kept.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    for name in (*_LINKS, *_GEOMETRY):
        if header.get(name):
            setattr(kept, name, header.get(name))
    for name in _EMPTY:
        setattr(kept, name, "")
    kept.Modality = header.get("Modality") or "OT"
    return kept
