"""X-rays as files of every kind, also broken and hostile ones, and a network whose answers can be counted by hand."""

import base64
import io

import numpy as np
from ml_collections import ConfigDict
from PIL import Image

from jaxunet.data.targets import TARGETS, Target
from jaxunet.prediction.predictor import Predictor
from jaxunet.scoring.detection import Rule
from tests.support.dicoms import dicom_of
from tests.support.hostile_input import png_of

SIZE = 64  # pixels per side, of `picture` and `Threshold`


def records(*names: str) -> dict[str, Target]:
    """The records of these masks, as a network for them has."""
    return {name: TARGETS[name] for name in names}


def encoded(pixels: np.ndarray | Image.Image, kind: str = "png", **options: object) -> bytes:
    data = io.BytesIO()
    (Image.fromarray(pixels) if isinstance(pixels, np.ndarray) else pixels).save(data, kind, **options)
    return data.getvalue()


def decoded(text: str) -> np.ndarray:
    """The pixels of a picture in base64."""
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(text))))


def bomb(height: int, width: int) -> bytes:
    """A PNG of a hundred bytes that claims any size."""
    return png_of(width, height, bytes(1000))


_STUDY = {"StudyInstanceUID": "1.2.3", "SeriesInstanceUID": "1.2.3.5", "Modality": "DX"}
_PATIENT = {"PatientName": "Doe^Jane", "PatientID": "SECRET42", "PatientBirthDate": "19700101", "StudyID": "STUDY77"}
_PATIENT |= {"StudyDate": "20200202", "InstitutionName": "St. Elsewhere", "AccessionNumber": "ACC99"}
SECRETS = (b"Doe", b"SECRET42", b"19700101", b"20200202", b"Elsewhere", b"ACC99", b"STUDY77")


def dicom(values: np.ndarray, **attributes: object) -> bytes:
    """A DICOM file of unsigned 16 bits with a patient."""
    size = {"Rows": values.shape[-2], "Columns": values.shape[-1]}
    return dicom_of(values.astype(np.uint16), **_STUDY | _PATIENT | size | attributes)


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
