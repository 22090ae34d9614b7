"""Writes masks as a DICOM Segmentation, with highdicom (`pip install 'jaxunet[dicom]'`).

The header of an X-ray holds no patient data here: see `xrays/dicom.py`.
"""

import pathlib
from typing import Any

import numpy as np

from jaxunet import __name__ as package
from jaxunet import __version__
from jaxunet.core.errors import UserError
from jaxunet.core.files import atomic_file
from jaxunet.data.targets import Records


def write_segmentation(
    path: pathlib.Path, header: Any, masks: dict[str, np.ndarray], records: Records, spacing: Any
) -> None:
    """Writes a DICOM Segmentation with one segment per target.

    Args:
      path: the file to write.
      header: `Xray.header`.
      masks: target -> bool [H, W], the size of the X-ray.
      records: of the masks, for their codes.
      spacing: `Xray.spacing_mm`.

    Raises:
      UserError: if the header lacks elements that the standard requires, or highdicom is not installed.
    """
    try:
        segmentation = _segmentation(header, masks, records, spacing)
    except Exception as error:  # highdicom raises many types for an unusual header
        reason = " ".join(str(error).split())[:120]
        raise UserError(f"no DICOM segmentation could be written ({reason})") from error
    with atomic_file(path) as file:
        segmentation.save_as(file)


def _segmentation(header: Any, masks: dict[str, np.ndarray], records: Records, spacing: Any) -> Any:
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
            segmented_property_category=highdicom.sr.CodedConcept(*records[target].category),
            segmented_property_type=highdicom.sr.CodedConcept(*records[target].code),
            algorithm_type=highdicom.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
            algorithm_identification=algorithm,
        )
        for number, target in enumerate(masks, 1)
    ]
    measures = None
    if spacing is not None:  # readers require a thickness, though a projection has none
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
