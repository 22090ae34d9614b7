"""DICOM segmentations and reports: of every kind of X-ray, in the stored geometry, and without errors in dciodvfy."""

import io
import shutil
import subprocess
import tempfile

import numpy as np
import pytest

from tests.support.dicoms import EIGHT, IN_12, SHOWN, TWELVE, dicom_of, item
from tests.support.xrays import Threshold
from tests.xrays.test_dicom_display import TURNED

pydicom = pytest.importorskip("pydicom", reason="pydicom is not installed: pip install 'jaxunet[dicom]'")
pytest.importorskip("highdicom", reason="highdicom is not installed: pip install 'jaxunet[dicom]'")

STORAGE = "1.2.840.10008.5.1.4.1.1."
STUDY = {
    "StudyInstanceUID": "1.2.3",
    "SeriesInstanceUID": "1.2.3.5",
    "SpecificCharacterSet": ["", "ISO 2022 IR 87"],
    "PatientName": "Yamada^Tarou=山田^太郎",
    "PatientID": "A 17",
    "PatientBirthDate": "19700101",
    "PatientSex": "U",  # not a term of the standard, and often met
    "PatientAge": "055Y",
    "AccessionNumber": "ACC99",
    "StudyDate": "20200202",
    "StudyTime": "101010",
    "StudyID": "",
    "ReferringPhysicianName": "",
    "StudyDescription": "Thorax",
    "InstitutionName": "St. Elsewhere",
}
IN_SPACE = {
    "ImageOrientationPatient": [1, 0, 0, 0, 0, -1],
    "ImagePositionPatient": [1, 2, 3],
    "FrameOfReferenceUID": "1.2.9",
}
IN_8 = {"Pixels": "OB", **EIGHT, "WindowCenter": 127.5, "WindowWidth": 256}
FRAMES = np.stack([TWELVE, TWELVE[::-1]])
KINDS = {  # SOP class, pixels, attributes
    "CR": ("1", TWELVE, {"Modality": "CR", "PixelSpacing": [0.201, 0.2]}),
    "DX": ("1.1", TWELVE, {"Modality": "DX", "PatientOrientation": ["L", "F"]}),
    "RF": ("12.2", FRAMES, {"Modality": "RF", "NumberOfFrames": 2}),
    "XA": ("12.1", FRAMES, {"Modality": "XA", "NumberOfFrames": 2, "ImagerPixelSpacing": [0.2, 0.2]}),
    "enhanced XA": (
        "12.1.1",
        TWELVE,
        {
            "NumberOfFrames": 1,
            "SharedFunctionalGroupsSequence": item(PixelMeasuresSequence=item(PixelSpacing=[0.201, 0.2])),
        },
    ),
    "SC": ("7.2", np.stack([SHOWN, SHOWN[::-1]]), {"Modality": "OT", "NumberOfFrames": 2, **IN_8}),
    "in space": ("1.1", TWELVE, {"PixelSpacing": [0.201, 0.2], **IN_SPACE}),
    "position without frame of reference": ("1.1", TWELVE, {"ImagePositionPatient": [1, 2, 3], "PixelSpacing": [1, 1]}),
    "frame of reference alone": ("1", TWELVE, {"FrameOfReferenceUID": "1.2.9"}),
}


@pytest.fixture
def network(config) -> Threshold:
    config.predict.report = True
    return Threshold(config)


def xray(kind: str, **more: object) -> bytes:
    sop_class, pixels, attributes = KINDS[kind]
    return dicom_of(
        pixels,
        SOPClassUID=STORAGE + sop_class,
        **STUDY | (IN_12 if pixels.dtype == np.uint16 else {}) | attributes | more,
    )


def results(network: Threshold, data: bytes) -> tuple:
    """The segmentation and the report, read back, of files that dciodvfy finds no error in."""
    files = network.predict(data, name="a.dcm").dicom_files()
    assert list(files) == ["segmentations/a.dcm.seg.dcm", "reports/a.dcm.sr.dcm"]
    for content in files.values() if shutil.which("dciodvfy") else ():
        with tempfile.NamedTemporaryFile() as file:  # it wants to seek
            file.write(content)
            file.flush()
            found = subprocess.run(["dciodvfy", "-new", file.name], capture_output=True, text=True).stderr
        assert "Error" not in found, found
    return tuple(pydicom.dcmread(io.BytesIO(content)) for content in files.values())


def test_dciodvfy_is_there():
    """Without it, the other tests check less."""
    if not shutil.which("dciodvfy"):
        pytest.skip("dciodvfy is not installed: apt-get install dicom3tools")


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_x_ray_gets_a_segmentation_and_a_report(network, kind):
    data = xray(kind)
    segmentation, report = results(network, data)
    np.testing.assert_array_equal(segmentation.pixel_array[1] > 0, SHOWN > 100)
    (source,) = segmentation.SourceImageSequence
    frame = 1 if "NumberOfFrames" in KINDS[kind][2] else None
    assert (source.ReferencedSOPInstanceUID, source.get("ReferencedFrameNumber")) == ("1.2.3.4", frame)
    assert segmentation.get("FrameOfReferenceUID") == ("1.2.9" if kind == "in space" else None)
    for found in (segmentation, report):
        assert (found.StudyInstanceUID, found.PatientName, found.PatientID) == ("1.2.3", "", "")
        assert found.SeriesDescription.startswith("jaxunet: ")
        raw = io.BytesIO()
        found.save_as(raw)
        for secret in (b"Yamada", b"A 17", b"19700101", b"20200202", b"ACC99", b"Thorax", b"055Y"):
            assert secret not in raw.getvalue()


@pytest.mark.parametrize("stored", TURNED)
def test_masks_of_turned_pictures_are_as_stored(network, stored):
    pixels = np.ascontiguousarray(TURNED[stored](TWELVE))
    data = dicom_of(pixels, **STUDY, **IN_12, PatientOrientation=stored.upper().split("\\"), PixelSpacing=[0.201, 0.2])
    segmentation, _ = results(network, data)
    np.testing.assert_array_equal(segmentation.pixel_array[1] > 0, TURNED[stored](SHOWN) > 100)
    (measures,) = segmentation.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence
    assert measures.PixelSpacing == [0.201, 0.2]
    assert "\\".join(segmentation.PatientOrientation) == stored.upper()


def test_segments_say_who_found_what_in_which_colour(network):
    segmentation, report = results(network, xray("CR"))
    infection, lung = segmentation.SegmentSequence
    (by,) = infection.SegmentationAlgorithmIdentificationSequence
    assert (by.AlgorithmName, by.AlgorithmParameters) == ("jaxunet", f"weights_crc32={network.weights_crc32}")
    assert infection.RecommendedDisplayCIELabValue != lung.RecommendedDisplayCIELabValue
    assert (infection.TrackingID, lung.TrackingID) == ("infection", "lung")
    again, _ = results(network, xray("CR"))
    assert again.SegmentSequence[0].TrackingUID == infection.TrackingUID != lung.TrackingUID
    assert again.SOPInstanceUID != segmentation.SOPInstanceUID


def test_report_has_the_row(network):
    from highdicom.sr import srread

    found = network.predict(xray("CR"), name="a.dcm")
    (content,) = [content for path, content in found.dicom_files().items() if path.startswith("reports")]
    report = srread(io.BytesIO(content)).content
    areas = {g.finding_type.meaning: g.get_measurements()[0] for g in report.get_planar_roi_measurement_groups()}
    assert areas["Lung"].value == found.row["lung_cm2"] == pytest.approx((SHOWN > 100).sum() * 0.000402, abs=1e-4)
    assert areas["Lung"].unit.value == "cm2"
    (whole,) = report.get_image_measurement_groups()
    answers = {x.name.value: x.value.meaning for x in whole.get_qualitative_evaluations()}
    assert answers["usable"] == "Yes"
    assert answers["covid19_detected"] == ("Yes" if found.detected else "No")
    shares = [x.value for x in whole.get_measurements()]
    assert shares == [found.row[f"severity_{side}percent"] for side in ("", "right_", "left_")]


def test_keep_patient_copies_patient_and_study_word_for_word(network):
    network.config.predict.keep_patient = True
    data = xray("CR", PatientBirthDate="1970.01.01")  # as before 1993
    original = pydicom.dcmread(io.BytesIO(data))
    files = network.predict(data, name="a.dcm").dicom_files()
    for content in files.values():
        found = pydicom.dcmread(io.BytesIO(content))
        for name in set(STUDY) - {"SeriesInstanceUID", "InstitutionName", "SOPInstanceUID"}:
            assert found[name].value == original[name].value, name
        assert "InstitutionName" not in found
        assert found.PatientName.ideographic == "山田^太郎"
    results(network, xray("CR", PatientSex="F", SpecificCharacterSet="ISO_IR 192"))
    network.config.predict.keep_patient = False
    assert network.predict(data).xray.patient is None


def test_a_refused_picture_is_called_so_in_its_report(network):
    network.config.dataset.name = "covid_qu_ex"
    _, report = results(network, xray("CR", BodyPartExamined="HAND"))
    text = str(report)
    assert "Usable as a frontal chest X-ray" in text
    assert "severity_percent" not in text
