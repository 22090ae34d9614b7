"""X-rays on a real DICOMweb server: read, predicted, and the results filed in the X-ray's study."""

import json

import numpy as np
import pytest

from jaxunet.core.errors import UserError
from jaxunet.prediction import folder, pacs
from jaxunet.xrays import dicomweb
from tests.support.dicoms import SHOWN
from tests.support.orthanc import AUTHORIZATION, call, orthanc
from tests.support.xrays import Threshold

pydicom = pytest.importorskip("pydicom", reason="pydicom is not installed: pip install 'jaxunet[dicom]'")
pytest.importorskip("dicomweb_client", reason="dicomweb-client is not installed: pip install 'jaxunet[pacs]'")

from tests.prediction.test_dicom_files import xray  # noqa: E402

XRAYS = ["1.2.3.5/1.2.3.4.1.dcm", "1.2.3.5/1.2.3.4.2.dcm", "1.2.3.6/1.2.3.4.3.dcm"]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with orthanc(tmp_path_factory.mktemp("orthanc")) as address:
        yield address


def upload(server: str, **more: object) -> None:
    call(server.replace("dicom-web", "instances"), xray("CR", **{"PatientSex": "F"} | more))


@pytest.fixture
def study(server, monkeypatch):
    """The address of a study of three X-rays in two series."""
    for use in ("INPUT", "OUTPUT"):
        monkeypatch.setenv(f"DICOMWEB_{use}_AUTHORIZATION", AUTHORIZATION)
    for uid, more in (("1", {}), ("2", {}), ("3", {"SeriesInstanceUID": "1.2.3.6"})):
        upload(server, SOPInstanceUID=f"1.2.3.4.{uid}", **more)
    yield f"{server}/studies/1.2.3"
    patients = server.replace("dicom-web", "patients")
    for name in json.loads(call(patients)):
        call(f"{patients}/{name}", method="DELETE")


@pytest.fixture
def network(config) -> Threshold:
    config.predict.report = config.predict.keep_patient = True
    return Threshold(config)


def test_results_are_filed_in_the_study(network, study, server):
    assert pacs.predict(network, study, server) == 0
    patients = server.replace("dicom-web", "patients")
    (patient,) = json.loads(call(patients))
    (filed,) = json.loads(call(f"{server}/studies"))
    assert filed["0020000D"]["Value"] == ["1.2.3"]
    series = json.loads(call(f"{study}/series"))
    kinds = sorted(x["00080060"]["Value"][0] for x in series)
    assert kinds == ["CR", "CR"] + ["SEG"] * 3 + ["SR"] * 3
    assert [name for name, get in dicomweb.listed(study) if get] == XRAYS
    assert json.loads(call(f"{patients}/{patient}"))["MainDicomTags"]["PatientID"] == "A 17"
    assert pacs.predict(network, f"{study}/series/1.2.3.6", server) == 0
    assert len(json.loads(call(f"{study}/series"))) == 10


def test_a_study_a_series_or_an_image_into_a_folder(network, study, tmp_path):
    for address, names in (
        (study, XRAYS),
        (f"{study}/series/1.2.3.6/", ["1.2.3.6/1.2.3.4.3.dcm"]),
        (f"{study}/series/1.2.3.5/instances/1.2.3.4.2", ["1.2.3.5/1.2.3.4.2.dcm"]),
    ):
        out = tmp_path / str(len(address))
        assert folder.predict(network, address, out, probabilities=False) == 0
        written = json.loads((out / "predictions.json").read_text())
        assert [row["input"] for row in written["images"]] == names
        assert written["settings"]["input"] == address
        network.seen.clear()
        assert folder.predict(network, address, out, probabilities=False) == 0
        assert network.seen == []
    found = pydicom.dcmread(out / "segmentations/1.2.3.5/1.2.3.4.2.dcm.seg.dcm")
    np.testing.assert_array_equal(found.pixel_array[1] > 0, SHOWN > 100)


def test_refused_and_broken_x_rays_are_not_stored(network, study, server, capsys):
    network.config.dataset.name = "covid_qu_ex"  # checks that it is a chest
    upload(server, SOPInstanceUID="1.2.3.4.9", BodyPartExamined="HAND")
    assert pacs.predict(network, f"{study}/series/1.2.3.5/instances/1.2.3.4.9", server) == 1
    assert "skipped 1.2.3.5/1.2.3.4.9.dcm: not usable as a frontal chest X-ray" in capsys.readouterr().err
    assert len(json.loads(call(f"{study}/series"))) == 2


def test_without_the_patient_nothing_is_sent(network, study, server):
    network.config.predict.keep_patient = False
    with pytest.raises(UserError, match="keep_patient=True"):
        pacs.predict(network, study, server)


def test_a_password_that_is_wrong_or_missing_is_said(study, monkeypatch):
    for said in ("Basic nonsense", ""):
        monkeypatch.setenv("DICOMWEB_INPUT_AUTHORIZATION", said)
        with pytest.raises(UserError, match="401 .*set DICOMWEB_INPUT_AUTHORIZATION"):
            list(dicomweb.listed(study))


@pytest.mark.parametrize(
    "address", ["http://h/dicom-web", "https://a:b@h/studies/1.2", "http://h/studies/x", "http://h/studies/1?q"]
)
def test_other_addresses_are_refused_and_passwords_not_repeated(address):
    with pytest.raises(UserError, match="--input must be") as caught:
        list(dicomweb.listed(address))
    assert "a:b" not in str(caught.value)
    if "studies/1.2" in address:
        with pytest.raises(UserError, match="--output must be"):
            dicomweb.store(address, [])


def test_a_server_that_is_not_there_is_one_sentence():
    with pytest.raises(UserError, match="^http://127.0.0.1:9/dicom-web failed"):
        list(dicomweb.listed("http://127.0.0.1:9/dicom-web/studies/1.2.3"))
