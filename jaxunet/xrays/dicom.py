"""DICOM in: the only file of this folder that uses pydicom (`pip install 'jaxunet[dicom]'`).

Of a header, only what a segmentation needs to refer to its X-ray is kept: identifiers of study, series, image and frame
of reference, and the geometry of the pixels. `keep_patient` keeps patient and study, too.
"""

import io
import logging
import re
import warnings
import zlib
from typing import Any

import numpy as np

from jaxunet.core.errors import UserError
from jaxunet.xrays import dicom_display, dicom_samples, orientation
from jaxunet.xrays.attributes import Attributes
from jaxunet.xrays.pixels import Xray

warnings.filterwarnings("ignore", module="pydicom")  # its warnings quote the header, maybe the patient's name

_DEFLATED = "1.2.840.10008.1.2.1.99"
_DICOMDIR = "1.2.840.10008.1.3.10"
_MOST_INFLATED = 96 * 2**20  # bytes of a file that is deflated as a whole
_MOST_READS = 200_000  # of a header; usual are 1,000
_ITEM = b"\xfe\xff\x00\xe0"  # begins each part of compressed pixels
_RADIOGRAPHY = ("CR", "DX", "DR", "RG", "RF", "XA", "PX", "OT", "SC", "")
_LATERAL = ("LL", "RL", "LLD", "RLD", "LLO", "RLO", "LAT", "LATERAL")
_CHEST = ("CHEST", "THORA", "TORAX", "LUNG", "RIB", "HEART", "TRUNK", "BODY", "PULMON", "CLAVIC", "MEDIASTIN")
_SPACINGS = ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing")
_LARGEST_PIXEL = 1000.0  # mm; areas must stay finite
# All that is taken from the source; highdicom copies nothing that is not there.
_LINKS = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "PatientOrientation")
_SIZE = ("Rows", "Columns", "PixelSpacing", "NumberOfFrames")
_IN_SPACE = ("ImagePositionPatient", "ImageOrientationPatient", "FrameOfReferenceUID")
_EMPTY = (
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "ReferringPhysicianName"),
    *("AccessionNumber", "StudyDate", "StudyTime", "StudyID"),
)
_PATIENT = 0x0010  # group of the attributes of the patient
_STUDY = (
    *_EMPTY,
    *("SpecificCharacterSet", "StudyDescription", "IssuerOfAccessionNumberSequence", "ProcedureCodeSequence"),
    *("ReferringPhysicianIdentificationSequence", "ConsultingPhysicianName", "PhysiciansOfRecord"),
    *("NameOfPhysiciansReadingStudy", "ReferencedStudySequence", "AdmissionID", "TimezoneOffsetFromUTC"),
)


def read(data: bytes, *, keep_patient: bool = False) -> Xray:
    """Decodes a DICOM file: modality LUT, then VOI LUT or the first window, MONOCHROME1 inverted, padding black.

    Without either of the two, the 0.5 and 99.5 percentiles become black and white. Of several frames, the first is
    taken. Raises UserError if it cannot be used, or pydicom is not installed.
    """
    try:
        import pydicom
    except ImportError as error:
        raise UserError("it is a DICOM file, which needs pydicom: pip install 'jaxunet[dicom]'.") from error
    logging.getLogger("pydicom").setLevel(logging.CRITICAL + 1)  # as for the warnings
    try:
        return _read(pydicom, data, keep_patient)
    except (UserError, MemoryError):
        raise
    except Exception as error:  # pydicom raises whatever it meets, and may quote the header
        if isinstance(error.__context__, UserError):
            raise error.__context__ from None
        raise UserError(f"it is damaged or cannot be decoded ({type(error).__name__}).") from error


def _read(pydicom: Any, data: bytes, keep_patient: bool) -> Xray:
    header, syntax = _header(pydicom, data)
    said = Attributes(header)
    pixels, notes = dicom_display.gray(_stored(pydicom, header, said, syntax), said, big_endian=_is_big_endian(header))
    if (frames := said.count("NumberOfFrames", 1)) > 1:
        notes.insert(0, f"first of {frames} frames")
    rows, columns = (*said.texts("PatientOrientation"), "", "")[:2]
    if not (rows or columns):
        rows, columns = orientation.by_vectors(said.numbers("ImageOrientationPatient"))
    pixels, mirrored, turned, moves = orientation.by_patient(pixels, rows, columns)
    other = _doubts(said)
    spacing = _spacing(said)
    aspect = spacing or (*said.numbers("PixelAspectRatio"), 0.0, 0.0)[:2]
    if moves[0]:
        spacing, aspect = spacing and spacing[::-1], aspect[::-1]
    return Xray(
        pixels=pixels,
        spacing_mm=spacing,
        aspect=aspect[0] / aspect[1] if (uneven := orientation.not_square(*aspect)) else 1.0,
        mirrored=mirrored,
        notes=(*notes, *[turned] * bool(turned), *other, *uneven),
        other=tuple(other),
        header=_without_patient(pydicom, header, said),
        patient=_patient(pydicom, header) if keep_patient else None,
        moves=moves,
    )


def _stored(pydicom: Any, header: Any, said: Attributes, syntax: str) -> np.ndarray:
    """Numbers [H, W, channels] of the first frame."""
    name = next((n for n in ("PixelData", "FloatPixelData", "DoubleFloatPixelData") if header.get(n)), None)
    if name is None:
        raise UserError("it is a DICOM file that holds no image.")
    element = header[name]
    layout = dicom_samples.Layout(said, dicom_display.photometric(said), name, element.VR == "OW")
    if element.value[:4] == _ITEM and (element.is_undefined_length or syntax not in dicom_samples.NATIVE):
        stream = pydicom.encaps.get_frame(element.value, 0, number_of_frames=said.count("NumberOfFrames", 1) or 1)
        return dicom_samples.of_stream(stream, layout, syntax)
    return dicom_samples.of_bytes(element.value, layout, big_endian=_is_big_endian(header))


def _is_big_endian(header: Any) -> bool:
    return header.original_encoding[1] is False


# ---- the header ------------------------------------------------------------------------------------------------------


class _Counted(io.BytesIO):
    """Lets a header be read in no more steps than an X-ray's can have."""

    reads = 0

    def read(self, *arguments: Any) -> bytes:
        self.reads += 1
        if self.reads > _MOST_READS:
            raise UserError("its header has more parts than that of any X-ray.")
        return super().read(*arguments)


def _header(pydicom: Any, data: bytes) -> tuple[Any, str]:
    """The data set, and the transfer syntax that it names, or ""."""
    start = 132 if data[128:132] == b"DICM" else 4 if data[:4] == b"DICM" else 0
    head = _Counted(data)
    head.seek(start)
    meta: Any = {}
    if data[start : start + 2] == b"\2\0":
        meta = pydicom.filereader.read_dataset(head, False, True, stop_when=lambda tag, *_: tag.group != 2)
    syntax = str(meta.get("TransferSyntaxUID") or "")
    if str(meta.get("MediaStorageSOPClassUID") or "") == _DICOMDIR:
        raise UserError("it is a DICOMDIR, which lists files and holds no image: give the files.")
    if syntax == _DEFLATED:
        inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        content = inflater.decompress(data[head.tell() :], _MOST_INFLATED)
        if not inflater.eof and len(content) >= _MOST_INFLATED:
            raise UserError(f"it is deflated and takes more than {_MOST_INFLATED:,} bytes: save it uncompressed.")
        return pydicom.filereader.read_dataset(_Counted(content), False, True), syntax
    whole = _Counted(data[4:] if start == 4 else data)
    return pydicom.filereader.read_partial(whole, force=True), syntax


def _spacing(said: Attributes) -> tuple[float, float] | None:
    """Height and width of a pixel in mm."""
    for name in _SPACINGS:
        value = said.numbers(name)
        if len(value) == 2 and all(0 < x < _LARGEST_PIXEL for x in value):
            return value[0], value[1]
    return None


def _doubts(said: Attributes) -> list[str]:
    """What the header says of the picture that makes it no frontal X-ray of a chest. Free text is never quoted."""
    notes, modality, view = [], "\\".join(said.texts("Modality")), said.text("ViewPosition")
    if modality not in _RADIOGRAPHY:
        is_code = re.fullmatch("[A-Z]{2,4}", modality)  # else anything may stand there, also a name
        notes.append(f"modality {modality}, not radiography" if is_code else "a modality other than radiography")
    meaning = " ".join(Attributes(item).text("CodeMeaning") for item in said.items("ViewCodeSequence"))
    words = set(re.findall("[A-Z]+", f"{said.text('SeriesDescription')} {said.text('ProtocolName')}"))
    called_lateral = words & {"LAT", "LATERAL"} and not words & {"PA", "AP", "FRONTAL"}
    if view in _LATERAL:
        notes.append(f"view {view}, not frontal")
    elif re.search("LATERAL|OBLIQUE", f"{view} {meaning}") or called_lateral:
        notes.append("a view that is not frontal")
    regions = [Attributes(item).text("CodeMeaning") for item in said.items("AnatomicRegionSequence")]
    regions.append(said.text("BodyPartExamined"))
    if any(regions) and not any(part in region for part in _CHEST for region in regions):
        notes.append("a part of the body other than the chest")
    return notes


def _without_patient(pydicom: Any, header: Any, said: Attributes) -> Any:
    """A new header with what links to the source and with its geometry; everything about the patient is empty."""
    kept = pydicom.Dataset()
    kept.file_meta = pydicom.dataset.FileMetaDataset()
    kept.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    in_space = [len(said.texts(name)) for name in (*_IN_SPACE[:2], "PixelSpacing")] == [3, 6, 2]
    for name in (*_LINKS, *_SIZE, *_IN_SPACE * (in_space and "FrameOfReferenceUID" in header)):
        if (value := said.get(name)) is not None:
            setattr(kept, name, value)
    for name in _EMPTY:
        setattr(kept, name, "")
    kept.Modality = header.get("Modality") or "OT"
    return kept


def _patient(pydicom: Any, header: Any) -> Any:
    """A new header with what a PACS files a picture by: patient and study, word for word."""
    kept = pydicom.Dataset()
    for tag in header.keys():  # noqa: SIM118 (a data set yields its elements)
        if tag.group == _PATIENT or pydicom.datadict.keyword_for_tag(tag) in _STUDY:
            kept.add(header[tag])
    return kept
