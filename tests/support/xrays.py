"""X-rays as files of every kind, also broken and hostile ones, and a network whose answers can be counted by hand."""

import io
import struct
import zlib

import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from jaxunet.data.targets import TARGETS, Target
from jaxunet.prediction.predictor import Predictor
from jaxunet.scoring.detection import Rule

SIZE = 64  # pixels per side, of `picture` and `Threshold`


def records(*names: str) -> dict[str, Target]:
    """The records of these masks, as a network for them has."""
    return {name: TARGETS[name] for name in names}


def encoded(pixels: np.ndarray, kind: str = "png", **options: object) -> bytes:
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, kind, **options)
    return data.getvalue()


def bomb(height: int, width: int) -> bytes:
    """A PNG of a hundred bytes that claims any size."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0" * 1000))
        + chunk(b"IEND", b"")
    )


def dicom(values: np.ndarray, **attributes: object) -> bytes:
    """A DICOM file of unsigned 16 bits with a patient."""
    pydicom = pytest.importorskip("pydicom", reason="pydicom is not installed: pip install 'jaxunet[dicom]'")
    header = pydicom.Dataset()
    header.file_meta = pydicom.dataset.FileMetaDataset()
    header.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    header.SOPClassUID = header.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.1.1"
    header.SOPInstanceUID = header.file_meta.MediaStorageSOPInstanceUID = "1.2.3.4"
    header.StudyInstanceUID, header.SeriesInstanceUID, header.Modality = "1.2.3", "1.2.3.5", "DX"
    header.PatientName, header.PatientID, header.PatientBirthDate = "Doe^Jane", "SECRET42", "19700101"
    header.StudyDate, header.InstitutionName = "20200202", "St. Elsewhere"
    header.AccessionNumber, header.StudyID = "ACC99", "STUDY77"
    header.Rows, header.Columns = values.shape[-2:]
    header.SamplesPerPixel, header.PhotometricInterpretation = 1, "MONOCHROME2"
    header.BitsAllocated, header.BitsStored, header.HighBit, header.PixelRepresentation = 16, 16, 15, 0
    header.PixelData = values.astype(np.uint16).tobytes()
    for name, value in attributes.items():
        setattr(header, name, value)
    data = io.BytesIO()
    header.save_as(data, enforce_file_format=True)
    return data.getvalue()


# Where a patient's name may stand by mistake, and what is said of it; None where it is read all the same.
MISPLACED_NAMES = [
    ({"WindowCenter": "12345678", "WindowWidth": 5}, "it is damaged or cannot be decoded (ValueError)."),
    (
        {"PhotometricInterpretation": "12345678"},
        "its PhotometricInterpretation is not supported: convert it to MONOCHROME2.",
    ),
    (
        {"WindowCenter": 5, "WindowWidth": 5, "VOILUTFunction": "12345678"},
        "its VOILUTFunction is not LINEAR, LINEAR_EXACT or SIGMOID.",
    ),
    ({"Modality": "12345678"}, None),
    ({"Modality": ["CT", "12345678"]}, None),
]


def misplaced(values: np.ndarray, attributes: dict[str, object]) -> bytes:
    """As `dicom`, with a name for 12345678: pydicom would not write it."""
    return dicom(values, **attributes).replace(b"12345678", b"Doe^John")


def picture(top: int = 250) -> np.ndarray:
    """Two lungs of 150, in the one at the left a quarter of `top`."""
    image = np.full((SIZE, SIZE), 20, np.uint8)
    image[8:56, 6:26] = image[8:56, 38:58] = 150
    image[8:32, 6:16] = top
    return image


class Threshold(Predictor):
    """In place of a network: infection is brighter than 200, lung than 100. `seen` is the maximum of every image."""

    image_size, threshold = SIZE, 0.5

    def __init__(self, config: ConfigDict):
        config.dataset.targets = ("infection", "lung")
        super().__init__(config, 7, None, None, {"w": np.zeros(3)}, "made", Rule.not_chosen(answers=False))
        self.seen: list[int] = []

    def outputs(self, images: np.ndarray, batch_size: int | None = None) -> dict[str, np.ndarray]:
        assert len(images) <= (batch_size or self.config.eval.batch_size)
        self.seen += [int(image.max()) for image in images]
        return {"masks": np.stack([images.astype(np.float32) - 200, images.astype(np.float32) - 100], axis=-1)}
