"""Masks as a DICOM Segmentation, and measures as a report, with highdicom (`pip install 'jaxunet[dicom]'`).

Patient and study are empty unless `Xray.patient` has them: see `xrays/dicom.py`.
"""

import copy
import io
import logging
from typing import Any

import numpy as np

from jaxunet import __name__ as package
from jaxunet import __version__
from jaxunet.core.errors import UserError
from jaxunet.data.targets import Records
from jaxunet.prediction import dicom_report
from jaxunet.xrays.orientation import as_stored
from jaxunet.xrays.pixels import Xray

_SERIES = 9001  # its number; X-rays have small ones
_NOMINAL = 1.0  # mm; readers require a thickness, though a projection has none
_ONE_FRAME = "1.2.840.10008.5.1.4.1.1.7"  # secondary capture


def files(
    xray: Xray, masks: dict[str, np.ndarray], records: Records, weights: str, row: dict[str, Any] | None
) -> list[bytes]:
    """The content of DICOM files: a segmentation with one segment per target and, of a `Prediction.row`, a report.

    `records`: of the masks, for their codes and colours. `weights`: tells the weights of the network from others.
    Raises UserError if the header lacks elements that the standard requires, or highdicom is not installed.
    """
    logging.getLogger("highdicom").setLevel(logging.CRITICAL + 1)  # its warnings quote the header
    source = copy.deepcopy(xray.header)
    source.pop("NumberOfFrames", None)  # the masks are those of the first
    source.SOPClassUID = _ONE_FRAME  # for highdicom
    source.SliceThickness = _NOMINAL
    try:
        found = [_segmentation(source, xray, masks, records, weights)]
        if row is not None:
            found.append(dicom_report.report(found[0], source, row, masks, records))
        return [_encoded(one, xray) for one in found]
    except Exception as error:  # highdicom raises many types for an unusual header
        said = str(error) if xray.patient is None else type(error).__name__  # the former may quote the patient
        reason = " ".join(said.split())[:120]
        raise UserError(f"no DICOM segmentation could be written ({reason})") from error


def _segmentation(source: Any, xray: Xray, masks: dict[str, np.ndarray], records: Records, weights: str) -> Any:
    import highdicom
    from pydicom.sr.codedict import codes
    from pydicom.uid import generate_uid

    algorithm = highdicom.AlgorithmIdentificationSequence(
        name=package,
        version=__version__,
        family=codes.DCM.ArtificialIntelligence,
        parameters={"weights_crc32": weights},
    )
    segments = [
        highdicom.seg.SegmentDescription(
            segment_number=number,
            segment_label=target,
            segmented_property_category=highdicom.sr.CodedConcept(*records[target].category),
            segmented_property_type=highdicom.sr.CodedConcept(*records[target].code),
            algorithm_type=highdicom.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
            algorithm_identification=algorithm,
            tracking_uid=generate_uid(entropy_srcs=[source.SOPInstanceUID, weights, target]),
            tracking_id=target,
            display_color=highdicom.color.CIELabColor.from_rgb(*records[target].colour),
        )
        for number, target in enumerate(masks, 1)
    ]
    measures = None
    if xray.spacing_mm is not None:
        spacing = xray.spacing_mm[::-1] if xray.moves[0] else xray.spacing_mm
        measures = highdicom.PixelMeasuresSequence(pixel_spacing=list(spacing), slice_thickness=_NOMINAL)
    stored = [as_stored(mask, xray.moves) for mask in masks.values()]
    segmentation = highdicom.seg.Segmentation(
        source_images=[source],
        pixel_array=np.stack(stored, axis=-1)[None].astype(np.uint8),
        segmentation_type=highdicom.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=segments,
        device_serial_number="0",
        pixel_measures=measures,
        omit_empty_frames=False,
        **dicom_report.origin(_SERIES, ", ".join(masks), __version__),
    )
    segmentation.PatientOrientation = source.get("PatientOrientation") or ""
    return segmentation


def _encoded(found: Any, xray: Xray) -> bytes:
    _refer(found, xray.header)
    found.update(xray.patient or {})
    data = io.BytesIO()
    found.save_as(data, enforce_file_format=True)
    return data.getvalue()


def _refer(found: Any, header: Any) -> None:
    """Makes all references to the X-ray name its SOP class and, of several frames, the first."""
    frames = "NumberOfFrames" in header
    for element in found.iterall():
        for item in element.value if element.VR == "SQ" else ():
            if item.get("ReferencedSOPInstanceUID") == header.SOPInstanceUID:
                item.ReferencedSOPClassUID = header.SOPClassUID
                if frames and element.keyword == "SourceImageSequence":
                    item.ReferencedFrameNumber = 1
            elif frames and item.get("ValueType") == "IMAGE":
                (image,) = item.ReferencedSOPSequence
                if image.ReferencedSOPInstanceUID == header.SOPInstanceUID:
                    image.ReferencedFrameNumber = 1
