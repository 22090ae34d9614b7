"""The page that `--mode=export --format=html` writes answers as `Predictor.predict` does, and connects to nothing."""

import base64
import io
import json
import pathlib
import re
import zipfile
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image

from jaxunet.core.errors import UserError
from jaxunet.data.drawing import draw_chest_xray
from jaxunet.export import offline_page
from jaxunet.export.export import export
from jaxunet.export.formats import FORMATS
from jaxunet.prediction import loading
from jaxunet.prediction.predictor import Predictor
from jaxunet.runs import config_file
from tests.support.browser import chromium, onnxruntime_web, opened, wait_for
from tests.support.fake_archive import real_archive
from tests.support.xrays import decoded, dicom, encoded

pytestmark = pytest.mark.skipif(bool(FORMATS["html"].missing()), reason="pip install 'jaxunet[onnx]'")


@pytest.fixture(scope="module")
def network() -> Predictor:
    return loading.load_shipped()


@pytest.fixture(scope="module")
def path(network, tmp_path_factory) -> pathlib.Path:
    output = tmp_path_factory.mktemp("page") / "unet.html"
    export([network], format="html", output=output, runtime=onnxruntime_web())
    return output


@pytest.fixture(scope="module")
def browser(path, tmp_path_factory) -> Iterator[Any]:
    downloads = tmp_path_factory.mktemp("downloads")
    with chromium(downloads, silent=False) as chrome:  # connections that the page forbids are tried, too
        chrome.downloads = downloads
        yield opened(chrome, path.as_uri())


def ask(browser: Any, data: bytes) -> dict[str, Any]:
    script = """
      const [text, done] = arguments, bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
      answerHere("predict", { body: new Blob([bytes]) }).then(done, (error) => done({ error: error.message }));
    """
    return browser.execute_async_script(script, base64.b64encode(data).decode())


def assert_same(found: dict[str, Any], network: Predictor, data: bytes) -> None:
    expected = network.predict(data)
    assert "error" not in found, found
    for target, mask in expected.masks.items():
        assert np.mean(decoded(found["masks"][target]) / 255 != mask) <= 1e-3
    assert (found["refusal"], found["mirrored"]) == (expected.refusal, expected.xray.mirrored)
    row = json.loads(json.dumps(expected.row))
    nearly = {k: pytest.approx(v, rel=2e-3, abs=2e-4) for k, v in row.items() if type(v) in (int, float)}
    assert found["row"] == row | nearly


def xray(index: int = 0, size: tuple[int, int] = (256, 256)) -> np.ndarray:
    return np.asarray(Image.fromarray(draw_chest_xray(0, index, "test", "COVID-19")[0]).resize(size))


def colours(image: np.ndarray) -> Image.Image:
    return Image.fromarray(np.stack([image, image // 2, 255 - image], axis=-1))


def with_alpha(image: np.ndarray) -> Image.Image:
    alpha = np.full_like(image, 255)
    alpha[:60] = 0
    return Image.fromarray(np.stack([image, alpha], axis=-1), "LA")


SIXTEEN = xray(1, (300, 411)).astype(np.uint16) * 13 + 100
PICTURES = {
    "large": lambda: encoded(xray(0, (700, 611))),
    "twice": lambda: encoded(xray(3, (512, 512))),
    "small": lambda: encoded(xray(0, (90, 100))),
    "16 bits": lambda: encoded(SIXTEEN),
    "1 bit": lambda: encoded(Image.fromarray(xray()).convert("1")),
    "colour": lambda: encoded(colours(xray())),
    "palette": lambda: encoded(colours(xray()).quantize(64)),
    "transparent": lambda: encoded(with_alpha(xray())),
    "not square": lambda: encoded(Image.fromarray(xray()), dpi=(100, 200)),
    "JPEG": lambda: encoded(xray(2, (333, 400)), "jpeg", quality=85),
    "colour JPEG": lambda: encoded(colours(xray(2)), "jpeg"),
    "turned": lambda: encoded(np.rot90(xray(1))),
    "negative": lambda: encoded(255 - xray(1)),
    "noise": lambda: encoded(np.random.default_rng(0).integers(0, 256, (200, 200), np.uint8)),
}
DICOMS: dict[str, dict[str, Any]] = {
    "plain": {"PixelSpacing": [0.5, 0.4]},
    "window": {"WindowCenter": [1500, 9], "WindowWidth": [2500, 9], "BitsStored": 12, "HighBit": 11},
    "sigmoid": {"WindowCenter": 1500, "WindowWidth": 2500, "VOILUTFunction": "SIGMOID"},
    "blind window": {"WindowCenter": 60000, "WindowWidth": 10},
    "negative": {"PhotometricInterpretation": "MONOCHROME1", "PresentationLUTShape": "INVERSE"},
    "rescaled": {"RescaleSlope": 2.5, "RescaleIntercept": -1000, "PixelRepresentation": 1},
    "padding": {"PixelPaddingValue": int(SIXTEEN.min()), "PixelPaddingRangeLimit": int(SIXTEEN.min()) + 40},
    "mirrored": {"PatientOrientation": ["R", "F"]},
    "lying": {"PatientOrientation": ["F", "L"], "ImagerPixelSpacing": [0.5, 0.4], "PixelAspectRatio": [2, 1]},
    "lateral": {"ViewPosition": "LL", "BodyPartExamined": "KNEE", "Modality": "CT"},
}


@pytest.mark.parametrize("name", PICTURES)
def test_pictures(name, browser, network):
    data = PICTURES[name]()
    assert_same(ask(browser, data), network, data)


@pytest.mark.parametrize("name", DICOMS)
def test_dicom_files(name, browser, network):
    data = dicom(SIXTEEN, **DICOMS[name])
    assert_same(ask(browser, data), network, data)


def test_dicom_files_with_a_table_and_with_implicit_types(browser, network):
    import pydicom

    header = pydicom.dcmread(io.BytesIO(dicom(SIXTEEN)))
    table = pydicom.Dataset()
    table.add_new(0x00283002, "US", [4096, 0, 12])
    table.add_new(0x00283006, "OW", (4095 - (np.arange(4096) - 4095) ** 2 // 4096).astype("<u2").tobytes())
    view = pydicom.Dataset()
    view.CodeMeaning = "lateral projection"
    header.VOILUTSequence, header.ViewCodeSequence = [table], [view]
    for syntax in (pydicom.uid.ExplicitVRLittleEndian, pydicom.uid.ImplicitVRLittleEndian):
        header.file_meta.TransferSyntaxUID = syntax
        data = io.BytesIO()
        pydicom.dcmwrite(data, header, implicit_vr=syntax.is_implicit_VR, little_endian=True, enforce_file_format=True)
        found = ask(browser, data.getvalue())
        assert "a view that is not frontal" in found["refusal"]
        assert_same(found, network, data.getvalue())


@pytest.mark.skipif(real_archive() is None, reason="COVID-QU-Ex is not here: name it with JAXUNET_COVID_QU_EX")
def test_real_xrays(browser, network):
    with zipfile.ZipFile(real_archive()) as archive:
        names = sorted(n for n in archive.namelist() if re.search(r"^Infection.*/Val/.*/images/.*\.png$", n))
        for name in names[:: len(names) // 9]:
            assert_same(ask(browser, archive.read(name)), network, archive.read(name))


def test_what_it_cannot_read_is_a_sentence(browser):
    for data, sentence in (
        (b"", "it is empty."),
        (b"text", "it is not a PNG, JPEG or DICOM file."),
        (encoded(xray())[:3000], "it is damaged or cannot be decoded (TypeError)."),
        (dicom(SIXTEEN)[:-9], "it is damaged: it ends within a header or its pixels."),
        (dicom(SIXTEEN, Rows=500), "it is damaged: it holds fewer pixels than its header says."),
        (dicom(SIXTEEN, PhotometricInterpretation="PALETTE COLOR"), "it is a DICOM file in colour, which this page"),
        (dicom(SIXTEEN, BitsStored=8, HighBit=7), "it is a DICOM file whose header contradicts its samples, which"),
    ):
        assert ask(browser, data)["error"].startswith(sentence)


def test_a_network_that_knows_infection_only(browser, path, finished, tmp_path):
    network = loading.load(config_file.load(finished), finished, checkpoint="latest")
    logits = network.outputs(xray(0)[None])["masks"]
    network.config.eval.threshold = float(1 / (1 + np.exp(-np.median(logits))))  # marks about half
    export([network], format="html", output=tmp_path / "other.html", runtime=onnxruntime_web())
    opened(browser, (tmp_path / "other.html").as_uri())
    try:
        for data in (encoded(xray(0)), encoded(xray(1, (300, 411)))):
            found = ask(browser, data)
            assert 0.05 < found["row"]["infected_share_percent"] / 100 < 0.95
            assert_same(found, network, data)
    finally:
        opened(browser, path.as_uri())


def test_in_a_fresh_window_on_a_phone(browser, path, tmp_path, network):
    """Opened, an X-ray chosen, and shown; it connects to nothing; its masks can be saved."""
    (tmp_path / "patient.png").write_bytes(encoded(xray(1)))
    phone = {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", phone)
    opened(browser, path.as_uri()).find_element("css selector", "#file").send_keys(str(tmp_path / "patient.png"))
    status = browser.find_element("css selector", "#status")
    wait_for(lambda: status.text.startswith("patient.png: done."))
    expected = network.predict(tmp_path / "patient.png")
    assert f"{expected.measures['severity_percent']:.1f} %" in status.text
    assert browser.execute_script("return [innerWidth, document.documentElement.scrollWidth]") == [390, 390]
    assert browser.execute_script("return performance.getEntriesByType('resource').length") == 0
    text = browser.find_element("css selector", "body").text
    assert "this page connects to nothing" in text
    assert "TIFF" not in browser.find_element("css selector", "#drop-note").get_attribute("textContent")
    browser.find_element("css selector", "#save-lung").click()
    (mask,) = wait_for(lambda: list(browser.downloads.glob("*_lung.png")))
    assert np.mean(np.asarray(Image.open(mask)) / 255 != expected.masks["lung"]) <= 1e-3


def test_it_may_not_connect(browser, path):
    assert path.stat().st_size < 30e6
    attempt = """
      const done = arguments[0], blocked = [];
      document.addEventListener("securitypolicyviolation", (e) => blocked.push(e.effectiveDirective));
      Promise.allSettled([fetch("http://127.0.0.1:9/x"), fetch("data:,x")]).then((all) => {
        new Image().src = "http://127.0.0.1:9/x.png";
        document.body.append(Object.assign(document.createElement("script"), { textContent: "window.ran = 1" }));
        setTimeout(() => done([all.map((x) => x.status), blocked.sort(), window.ran]), 300);
      });
    """
    statuses, blocked, ran = browser.execute_async_script(attempt)
    assert (statuses, ran) == (["rejected"] * 2, None)
    assert blocked == ["connect-src", "connect-src", "img-src", "script-src-elem"]


def test_the_folder_of_the_runtime_is_checked(network, tmp_path):
    with pytest.raises(UserError, match=r"^--format=html needs ONNX Runtime Web: run `npm install onnxruntime-web`"):
        offline_page._runtime(None)
    with pytest.raises(UserError, match="is not the folder of an npm package"):
        offline_page._runtime(tmp_path)
    for about, sentence in (
        ({"name": "left-pad", "version": "1.30.0"}, "holds left-pad 1.30.0, not onnxruntime-web from 1.23 on:"),
        ({"name": "onnxruntime-web", "version": "1.22.0"}, "holds onnxruntime-web 1.22.0, not"),
        ({"name": "onnxruntime-web", "version": "1.30.0"}, "ort.wasm.bundle.min.mjs cannot be read"),
    ):
        (tmp_path / "package.json").write_text(json.dumps(about))
        with pytest.raises(UserError, match=sentence):
            offline_page._runtime(tmp_path)
    (tmp_path / "dist").mkdir()
    (tmp_path / "dist" / "ort-wasm-simd-threaded.wasm").touch()
    (tmp_path / "dist" / "ort.wasm.bundle.min.mjs").write_text("const a = 1;")
    with pytest.raises(UserError, match="built in a way that this jaxunet does not know"):
        offline_page._runtime(tmp_path)
