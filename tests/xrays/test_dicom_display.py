"""How a DICOM header wants its image shown, in the ways that headers are written: tables, windows, padding, sides."""

import itertools
import zlib

import numpy as np
import pytest

from jaxunet.core.errors import UserError
from jaxunet.xrays.read import read_xray
from tests.support.dicoms import EIGHT, EXPLICIT, IN_12, SHOWN, TWELVE, dicom_of, item, table

pytestmark = pytest.mark.filterwarnings("ignore:Invalid value for VR")  # as the program itself has it
MIDDLE = 1000 + TWELVE.astype(int) // 2  # far from the values that padding has here
BORDER = np.zeros((64, 64), bool)
BORDER[:, :8] = BORDER[:, -8:] = True
ENTRIES = np.arange(4096)
UNSHOWN = {"BitsStored": 12, "HighBit": 11}


def check(data: bytes, *, black: np.ndarray | None = None, notes: tuple[str, ...] = ()) -> None:
    found = read_xray(data)
    seen = ~BORDER if black is not None else np.ones((64, 64), bool)
    assert np.corrcoef(found.pixels[seen], SHOWN[seen])[0, 1] > 0.99
    assert found.pixels[seen].std() > SHOWN.std() / 2
    if black is not None:
        assert found.pixels[black].max() == 0
    assert found.notes == notes


def bordered(values: np.ndarray, padding: int) -> np.ndarray:
    return np.where(BORDER, padding, values)


@pytest.mark.parametrize("declared", [8, 10, 12, 16])
@pytest.mark.parametrize("used", [8, 10, 12, 16])
def test_voi_tables_of_another_depth_than_declared(declared, used):
    entries = ENTRIES << 4 >> 16 - used
    for data, vr in ((entries.astype(np.uint16).tobytes(), "OW"), (entries.tolist(), "US")):
        check(dicom_of(TWELVE, VOILUTSequence=table(4096, 0, declared, data, vr), **UNSHOWN))
    packed = (ENTRIES >> 4).astype(np.uint8).tobytes()
    words = np.frombuffer(packed, "<u2").tolist()
    for data, vr in ((packed, "OW"), (words, "US")):
        check(dicom_of(TWELVE, VOILUTSequence=table(4096, 0, declared, data, vr), **UNSHOWN))


def test_tables_that_disagree_with_their_descriptors():
    signed, data = (TWELVE.astype(int) - 2048).astype(np.int16), ENTRIES.astype(np.uint16).tobytes()
    for first in (-2048, 65536 - 2048):
        check(dicom_of(signed, PixelRepresentation=1, VOILUTSequence=table(4096, first, 12, data)))
    everything = table(0, 0, 16, np.arange(65536).astype(np.uint16).tobytes())
    check(dicom_of(SHOWN.astype(np.uint16) * 257, VOILUTSequence=everything))
    check(dicom_of(TWELVE, VOILUTSequence=table(4096, 0, 16, data[:-12]), **UNSHOWN))
    for entries, bits in ((ENTRIES.astype(np.uint16), 16), ((ENTRIES >> 4).astype(np.uint8), 8)):
        check(dicom_of(TWELVE, ModalityLUTSequence=table(4096, 0, bits, entries.tobytes()), **UNSHOWN))


@pytest.mark.parametrize("declared", [8, 16])
def test_palettes_of_any_depth(declared):
    inverse = np.arange(256)[::-1]
    for entries in (inverse.astype(np.uint8), *((inverse * n).astype(np.uint16) for n in (1, 16, 257))):
        said = {"PhotometricInterpretation": "PALETTE COLOR", "Pixels": "OB", **EIGHT}
        for colour in ("Red", "Green", "Blue"):
            said[f"{colour}PaletteColorLookupTableDescriptor"] = ("US", [256, 0, declared])
            said[f"{colour}PaletteColorLookupTableData"] = ("OW", entries.tobytes())
        np.testing.assert_array_equal(read_xray(dicom_of(255 - SHOWN, **said)).pixels, SHOWN)


@pytest.mark.parametrize("negative", [False, True])
@pytest.mark.parametrize("padding", [0, 500, 4095])
def test_padding_is_black_and_does_not_count(negative, padding):
    values = 5048 - MIDDLE if negative else MIDDLE
    kind = {"PhotometricInterpretation": "MONOCHROME1" if negative else "MONOCHROME2"} | UNSHOWN
    given = {"WindowCenter": 3024 if negative else 2024, "WindowWidth": 2049}
    for window, limit in itertools.product(({}, given), (None, 40)):
        stored, said = bordered(values, padding), kind | window | {"PixelPaddingValue": padding}
        if limit is not None:
            sign = -1 if padding == 4095 else 1
            stored[::2, :8] = padding + sign * 17
            said["PixelPaddingRangeLimit"] = padding + sign * limit
        check(dicom_of(stored.astype(np.uint16), **said), black=BORDER)


def test_padding_with_either_sign_and_more_bits():
    signed = bordered(MIDDLE - 1500, -2000).astype(np.int16)
    for vr, value in (("SS", -2000), ("US", 65536 - 2000)):
        said = {"PixelRepresentation": 1, "PixelPaddingValue": (vr, value)}
        check(dicom_of(signed, **said), black=BORDER)
        check(dicom_of(signed & 4095, **said | UNSHOWN), black=BORDER)
        beyond = bordered(MIDDLE, 63536).astype(np.uint16)
        check(dicom_of(beyond, PixelPaddingValue=(vr, value), **UNSHOWN), black=BORDER)
    eight = bordered(np.maximum(SHOWN, 20), 0).astype(np.uint8)
    check(dicom_of(eight, PixelPaddingValue=0, Pixels="OB", **EIGHT), black=BORDER)
    turned = bordered(5048 - MIDDLE, 0).astype(np.uint16)
    check(dicom_of(turned, PixelPaddingValue=0, RescaleSlope=-1, RescaleIntercept=5048, **UNSHOWN), black=BORDER)


def test_a_picture_of_padding_alone_is_a_picture():
    assert read_xray(dicom_of(np.zeros((64, 64), np.uint16), PixelPaddingValue=0)).pixels.shape == (64, 64)


def test_presentation():
    negative = (4095 - TWELVE).astype(np.uint16)
    one = {"PhotometricInterpretation": "MONOCHROME1"} | IN_12
    check(dicom_of(negative, PresentationLUTShape="INVERSE", **IN_12))
    check(dicom_of(negative, PresentationLUTShape="INVERSE", **one))
    check(dicom_of(TWELVE, PresentationLUTShape="identity", **IN_12))
    said = ("PhotometricInterpretation and PresentationLUTShape contradict each other: it may be inverted",)
    check(dicom_of(negative, PresentationLUTShape="IDENTITY", **one), notes=said)


@pytest.mark.parametrize(
    "odd",
    [
        {"RescaleSlope": None, "RescaleIntercept": None},
        {"WindowCenter": None, "WindowWidth": None},
        {"WindowCenter": 2048, "WindowWidth": [4096, 300]},
        {"WindowCenter": [2048, ""], "WindowWidth": 4096},
        {"WindowCenter": [3000, 2048], "WindowWidth": [0, 4096]},
        {"WindowCenter": 2048, "WindowWidth": None},
        {"VOILUTFunction": ""},
        {"VOILUTFunction": "Linear_Exact"},
        {"VOILUTFunction": "sigmoid"},
        {"VOILUTSequence": []},
        {"PixelSpacing": ["0.2"]},
        {"PatientOrientation": ["L", ""]},
        {"NumberOfFrames": None},
        {"Modality": "dx", "ViewPosition": "pa", "BodyPartExamined": "chest"},
        {"PhotometricInterpretation": None},
        {"PhotometricInterpretation": "monochrome2"},
        {"HighBit": None},
        {"SamplesPerPixel": None},
    ],
)
def test_attributes_that_are_empty_short_or_in_small_letters(odd):
    check(dicom_of(TWELVE, **IN_12 | odd))


def test_functional_groups():
    groups = item(
        PixelValueTransformationSequence=item(RescaleSlope=-1, RescaleIntercept=4095, RescaleType="US"),
        FrameVOILUTSequence=item(WindowCenter=2048, WindowWidth=4096),
        PixelMeasuresSequence=item(PixelSpacing=[0.2, 0.2]),
    )
    negative = (4095 - TWELVE).astype(np.uint16)
    for name in ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"):
        data = dicom_of(negative, NumberOfFrames=1, **{name: groups}, **UNSHOWN)
        check(data)
        assert read_xray(data).spacing_mm == (0.2, 0.2)


TURNED = {
    "L\\H": np.flipud,
    "R\\H": lambda p: p[::-1, ::-1],
    "F\\L": np.transpose,
    "F\\R": lambda p: np.rot90(p, 1),
    "H\\L": lambda p: np.rot90(p, -1),
    "H\\R": lambda p: p[::-1, ::-1].T,
    "l\\h": np.flipud,
    "LF\\HR": np.flipud,
}


@pytest.mark.parametrize("stored", TURNED)
def test_pictures_that_lie_are_turned(stored):
    data = dicom_of(np.ascontiguousarray(TURNED[stored](TWELVE)), PatientOrientation=stored.split("\\"), **IN_12)
    row, column = (part[0].upper() for part in stored.split("\\"))
    check(data, notes=(f"turned upright: PatientOrientation was {row}\\{column}",))
    found = read_xray(data)
    assert not found.mirrored


def test_what_is_no_frontal_chest_x_ray_or_not_square_is_said():
    upside_down = dicom_of(np.flipud(TWELVE).copy(), ImageOrientationPatient=[1, 0, 0, 0, 0, 1], **IN_12)
    check(upside_down, notes=("turned upright: PatientOrientation was L\\H",))
    for attributes, said in (
        ({"PatientOrientation": ["A", "F"]}, "PatientOrientation A\\F: not a frontal view"),
        ({"ViewPosition": "ll"}, "view LL, not frontal"),
        ({"ViewPosition": "LATERAL RIGHT"}, "a view that is not frontal"),
        ({"SeriesDescription": "Thorax lat"}, "a view that is not frontal"),
        ({"BodyPartExamined": "HAND"}, "a part of the body other than the chest"),
        ({"PixelAspectRatio": [2, 1]}, "its pixels are not square (height : width is 2)"),
        ({"PixelSpacing": [0.2, 0.1]}, "its pixels are not square (height : width is 2)"),
    ):
        check(dicom_of(TWELVE, **IN_12 | attributes), notes=(said,))


def test_files_without_a_preamble_or_transfer_syntax_and_deflated_ones():
    whole = dicom_of(TWELVE, **IN_12)
    for data in (whole[132:], whole[128:], whole.replace(b"1.2.840.10008.1.2.1\0", b"\0" * 20)):
        check(data)
    end_of_meta = 144 + int.from_bytes(whole[140:144], "little")
    check(whole[end_of_meta:])
    check(dicom_of(TWELVE, f"{EXPLICIT}.99", **IN_12))
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    meta = dicom_of(TWELVE, f"{EXPLICIT}.99", **IN_12)
    bomb = meta[: 144 + int.from_bytes(meta[140:144], "little")] + packer.compress(bytes(200 * 2**20)) + packer.flush()
    with pytest.raises(UserError, match="deflated"):
        read_xray(bomb)


def test_a_list_of_files_is_no_image():
    with pytest.raises(UserError, match="DICOMDIR"):
        read_xray(dicom_of(TWELVE).replace(b"1.2.840.10008.5.1.4.1.1.1.1\0", b"1.2.840.10008.1.3.10\0\0\0\0\0\0\0\0"))
