"""Writes predicted masks as a DICOM Segmentation, with highdicom (`pip install 'jaxunet[dicom]'`).

The header it starts from holds no patient data: see `xrays/dicom.py`.
"""

import pathlib
from typing import Any

import numpy as np

from jaxunet import __name__ as package
from jaxunet import __version__
from jaxunet.core.errors import UserError
from jaxunet.core.files import atomic_file
from jaxunet.data.targets import TARGETS


def write_segmentation(path: pathlib.Path, header: Any, masks: dict[str, np.ndarray], spacing: Any) -> None:
    """Writes a DICOM Segmentation with one segment per target.

    Args:
      path: of the file.
      header: of the X-ray, `Xray.header`.
      masks: target -> bool [H, W] at the X-ray's size.
      spacing: `Xray.spacing_mm`.

    Raises:
      UserError: if the header lacks what the standard demands, or highdicom is not installed.
    """
    try:
        segmentation = _segmentation(header, masks, spacing)
    except Exception as error:  # highdicom raises whatever it meets in an odd header
        reason = " ".join(str(error).split())[:120]
        raise UserError(f"no DICOM segmentation could be made ({reason})") from error
    with atomic_file(path) as file:
        segmentation.save_as(file)


def _segmentation(header: Any, masks: dict[str, np.ndarray], spacing: Any) -> Any:
    import highdicom
    from pydicom.sr.codedict import codes
    from pydicom.uid import generate_uid

    algorithm = highdicom.AlgorithmIdentificationSequence(
        name=package, version=__version__, family=codes.DCM.ArtificialIntelligence
    )
    segments = [
        highdicom.seg.SegmentDescription(
            segment_number=number,
            segment_label=target,
            segmented_property_category=highdicom.sr.CodedConcept(*TARGETS[target].category),
            segmented_property_type=highdicom.sr.CodedConcept(*TARGETS[target].code),
            algorithm_type=highdicom.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
            algorithm_identification=algorithm,
        )
        for number, target in enumerate(masks, 1)
    ]
    measures = None
    if spacing is not None:  # a projection has no thickness, but readers (highdicom among them) insist on one
        measures = highdicom.PixelMeasuresSequence(pixel_spacing=list(spacing), slice_thickness=1.0)
    return highdicom.seg.Segmentation(
        source_images=[header],
        pixel_array=np.stack(list(masks.values()), axis=-1)[None].astype(np.uint8),
        segmentation_type=highdicom.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=segments,
        series_instance_uid=generate_uid(),
        series_number=1,
        sop_instance_uid=generate_uid(),
        instance_number=1,
        manufacturer=package,
        manufacturer_model_name=package,
        software_versions=__version__,
        device_serial_number="0",
        pixel_measures=measures,
        omit_empty_frames=False,
    )
