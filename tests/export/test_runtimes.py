"""An exported ONNX file gives the probabilities of the network in every runtime, on real X-rays where they are here."""

import json
import pathlib
import re
import shutil
import subprocess
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from jaxunet.data.drawing import draw_chest_xray
from jaxunet.export import formats
from jaxunet.export.export import export
from jaxunet.export.formats import FORMATS
from jaxunet.prediction import loading
from jaxunet.scoring.counts import sigmoid
from jaxunet.xrays import letterbox
from jaxunet.xrays.read import read_xray
from tests.support.browser import onnxruntime_web
from tests.support.fake_archive import real_archive

pytestmark = pytest.mark.skipif(bool(FORMATS["onnx"].missing()), reason="pip install 'jaxunet[onnx]'")
DOCS = pathlib.Path(__file__).parents[2] / "docs" / "export.md"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> pathlib.Path:
    """Has `unet.onnx`, the network that comes along with its mean over flips, and `xray.gray`."""
    folder = tmp_path_factory.mktemp("onnx")
    export([loading.load_shipped()], format="onnx", output=folder / "unet.onnx")
    return folder


@pytest.fixture(scope="module")
def images(folder) -> np.ndarray:
    """uint8 [9, 128, 128]. The first is written to `xray.gray`."""
    found: list[Any] = [draw_chest_xray(0, i, "test", "COVID-19")[0] for i in range(9)]
    if (archive := real_archive()) is not None:
        with zipfile.ZipFile(archive) as file:
            names = sorted(n for n in file.namelist() if re.search(r"^Infection.*/Val/.*/images/.*\.png$", n))
            found = [file.read(name) for name in names[:: len(names) // 8]][:9]
    squares = np.stack([letterbox.fit(read_xray(x).pixels, 128)[0] for x in found])
    (folder / "xray.gray").write_bytes(squares[0].tobytes())
    return squares


@pytest.fixture(scope="module")
def check(images) -> Callable[[dict[str, np.ndarray]], None]:
    """Compares outputs of a runtime, for the first images, with the network."""
    logits = loading.load_shipped().outputs(images)

    def compare(found: dict[str, np.ndarray]) -> None:
        n = len(found["probability"])
        np.testing.assert_allclose(found["probability"], sigmoid(logits["masks"])[:n], atol=1e-4)
        sure = np.abs(logits["masks"][:n]) > 1e-3
        np.testing.assert_array_equal(found["mask"][sure], (logits["masks"][:n] > 0)[sure])
        if "covid19" in found:
            np.testing.assert_allclose(found["covid19"], sigmoid(logits["covid19"])[:n], atol=1e-4)

    return compare


def test_onnx_runtime(folder, images, check):
    check(formats._read_onnx(loading.load_shipped(), folder / "unet.onnx")(images))


def test_openvino(folder, images, check):
    openvino = pytest.importorskip("openvino", reason="openvino is missing: pip install 'jaxunet[runtimes]'")
    precision = {"INFERENCE_PRECISION_HINT": "f32"}
    model = openvino.Core().compile_model(folder / "unet.onnx", "CPU", precision)
    for part in (images, images[:1]):
        check({output.get_any_name(): value for output, value in model({"image": part}).items()})


def example(language: str) -> str:
    return DOCS.read_text().partition(f"```{language}\n")[2].partition("```")[0]


def node(folder: pathlib.Path, lines: str) -> str:
    if not shutil.which("node"):
        pytest.skip("JavaScript is not tried: install Node")
    lines = lines.replace('"onnxruntime-web"', json.dumps(str(onnxruntime_web())))
    done = subprocess.run(["node", "-e", lines], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_onnxruntime_web(folder, images, check):
    (folder / "images").write_bytes(images.tobytes())
    node(
        folder,
        """
        const ort = require("onnxruntime-web"), fs = require("fs");
        ort.InferenceSession.create("unet.onnx", { executionProviders: ["wasm"] }).then(async (model) => {
          const pixels = new Uint8Array(fs.readFileSync("images"));
          const found = await model.run({ image: new ort.Tensor("uint8", pixels, [9, 128, 128]) });
          for (const [name, { data }] of Object.entries(found)) fs.writeFileSync(name, data);
        });
        """,
    )
    shape, read = images.shape, lambda name, kind: np.frombuffer((folder / name).read_bytes(), kind)
    found = {k: read(k, kind).reshape(*shape, 2) for k, kind in (("probability", np.float32), ("mask", np.uint8))}
    check(found | {"covid19": read("covid19", np.float32)})


def test_the_javascript_of_the_docs(folder, images):
    mask = formats._read_onnx(loading.load_shipped(), folder / "unet.onnx")(images[:1])["mask"]
    first, second = re.findall(r"0\.\d+", node(folder, example("javascript")))[:2]
    np.testing.assert_allclose([float(first), float(second)], mask.mean(axis=(0, 1, 2)), atol=1e-3)


def test_the_cpp_of_the_docs(folder, images):
    openvino = pytest.importorskip("openvino", reason="openvino is missing: pip install 'jaxunet[runtimes]'")
    installed = pathlib.Path(openvino.__file__).parent
    if not shutil.which("g++"):
        pytest.skip("C++ is not tried: install g++")
    (folder / "example.cpp").write_text(example("cpp"))
    library = next((installed / "libs").glob("libopenvino.so*"))
    command = ["g++", "-std=c++17", "example.cpp", "-o", "example", f"-I{installed}/include", str(library)]
    subprocess.run([*command, f"-Wl,-rpath,{library.parent}"], cwd=folder, check=True)
    done = subprocess.run(["./example"], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[0])["score"] == "probability"
    mask = formats._read_onnx(loading.load_shipped(), folder / "unet.onnx")(images[:1])["mask"]
    written = np.frombuffer((folder / "mask.bin").read_bytes(), np.uint8)
    assert np.mean(written != mask.ravel()) < 1e-4
