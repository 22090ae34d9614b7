"""The measures of one X-ray as a DICOM structured report (TID 1500). `dicom_segmentation.py` writes it.

Areas refer to the segments. Concepts that no public scheme has are in the scheme 99JAXUNET, by their column names.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxunet import __name__ as package
from jaxunet.data.targets import Records
from jaxunet.scoring.detection import RESEMBLES

_SCHEME = "99JAXUNET"
_SERIES = 9002  # its number, after that of the segmentation


def origin(series: int, words: str, version: str) -> dict[str, Any]:
    """What every file that is made here says of its series and of who made it, for highdicom."""
    from pydicom.uid import generate_uid

    return {
        "series_instance_uid": generate_uid(),
        "series_number": series,
        "series_description": f"{package}: {words}"[:64],
        "sop_instance_uid": generate_uid(),
        "instance_number": 1,
        "manufacturer": package,
        "manufacturer_model_name": package,
        "software_versions": version,
    }


def report(
    segmentation: Any, source: Any, row: Mapping[str, Any], masks: Mapping[str, np.ndarray], records: Records
) -> Any:
    """A Comprehensive SR with severity, areas and the answer, as far as the row of the X-ray has them.

    The report takes algorithm and tracking identifiers from the segmentation of the masks. `source`: the header of the
    X-ray. `records`: of the masks, for their codes.
    """
    from highdicom import coding_schemes, sr
    from pydicom.sr.codedict import codes
    from pydicom.uid import generate_uid

    version = segmentation.SoftwareVersions
    (algorithm,) = segmentation.SegmentSequence[0].SegmentationAlgorithmIdentificationSequence
    by = sr.AlgorithmIdentification(package, version, [algorithm.AlgorithmParameters])
    millimetres = row["pixel_height_mm"], row["pixel_width_mm"]

    def area(target: str) -> Any:
        pixels = int(masks[target].sum())
        if None in millimetres:
            return sr.Measurement(codes.SCT.Area, pixels, sr.CodedConcept("{pixels}", "UCUM", "pixels"))
        cm2 = round(pixels * millimetres[0] * millimetres[1] / 100, 4)
        return sr.Measurement(codes.SCT.Area, cm2, codes.UCUM.SquareCentimeter)

    severity = sr.CodedConcept("severity_percent", _SCHEME, "Infection inside the predicted lung, of the lung")
    sides = {"": None, "right_": codes.SCT.Right, "left_": codes.SCT.Left}
    whole = [
        sr.Measurement(severity, value, codes.UCUM.Percent, finding_sites=[sr.FindingSite(codes.SCT.Lung, side)])
        for name, side in sides.items()
        if (value := row[f"severity_{name}percent"]) is not None
    ]
    if row["covid19_probability"] is not None:
        chance = sr.CodedConcept("covid19_prob", _SCHEME, "Probability of COVID-19, as in the training data")
        whole.append(sr.Measurement(chance, row["covid19_probability"], codes.UCUM.NoUnits))
    questions = {
        "usable": "Usable as a frontal chest X-ray",
        "covid19_detected": f"{RESEMBLES[:1].upper()}{RESEMBLES[1:]}",
    }
    answers = [
        sr.QualitativeEvaluation(sr.CodedConcept(key, _SCHEME, meaning), codes.SCT.Yes if row[key] else codes.SCT.No)
        for key, meaning in questions.items()
        if row[key] is not None
    ]
    image = source.SOPClassUID, source.SOPInstanceUID
    groups: list[Any] = [
        sr.PlanarROIMeasurementsAndQualitativeEvaluations(
            sr.TrackingIdentifier(uid=segment.TrackingUID, identifier=segment.TrackingID),
            referenced_segment=sr.ReferencedSegmentationFrame(
                segmentation.SOPClassUID,
                segmentation.SOPInstanceUID,
                frame_number=place,
                segment_number=place,
                source_image=sr.SourceImageForSegmentation(*image),
            ),
            finding_type=sr.CodedConcept(*records[segment.SegmentLabel].code),
            algorithm_id=by,
            measurements=[area(segment.SegmentLabel)],
        )
        for place, segment in enumerate(segmentation.SegmentSequence, 1)
    ]
    groups.append(
        sr.MeasurementsAndQualitativeEvaluations(
            sr.TrackingIdentifier(uid=generate_uid(), identifier="X-ray"),
            algorithm_id=by,
            measurements=whole,
            qualitative_evaluations=answers,
            source_images=[sr.SourceImageForMeasurementGroup(*image)],
        )
    )
    device = sr.DeviceObserverIdentifyingAttributes(generate_uid(entropy_srcs=[package]), name=package)
    observer = sr.ObserverContext(codes.DCM.Device, device)
    found = sr.ComprehensiveSR(
        evidence=[segmentation, source],
        content=sr.MeasurementReport(
            sr.ObservationContext(observer_device_context=observer),
            procedure_reported=sr.CodedConcept("399208008", "SCT", "Plain chest X-ray"),
            imaging_measurements=groups,
        ),
        is_complete=True,
        **origin(_SERIES, "measures", version),
        coding_schemes=[coding_schemes.CodingSchemeIdentificationItem(_SCHEME, name=package, version=version)],
    )
    for element in found.iterall():
        if element.keyword == "ReferencedSOPSequence" and "ReferencedSegmentNumber" in element.value[0]:
            element.value[0].pop("ReferencedFrameNumber", None)  # highdicom's; only one of the two is allowed
    return found
