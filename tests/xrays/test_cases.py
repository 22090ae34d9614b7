"""Files that other programs were reported to read wrongly, all of one picture, where they lie beside the checkout."""

import os
import pathlib

import numpy as np
import pytest

from jaxunet.xrays.files import XrayFiles
from jaxunet.xrays.read import read_xray

BESIDE = pathlib.Path(__file__).parents[3] / "shared" / "cases"
PLACE = pathlib.Path(os.environ.get("JAXUNET_CASES", BESIDE))
CASES = PLACE if (PLACE / "P.npy").is_file() else None
pytestmark = pytest.mark.skipif(CASES is None, reason="../shared/cases is not there, nor JAXUNET_CASES set")
IMAGES = (".dcm", ".png", ".tif")
NAMES = sorted(path.name for path in CASES.iterdir() if path.suffix in IMAGES) if CASES else []
WITH_BORDER = ("04", "06", "27")


def resemblance(pixels: np.ndarray) -> float:
    """Of the middle, to the picture that all files show: a correlation."""
    assert CASES is not None
    expected = np.load(CASES / "P.npy")
    assert pixels.shape == expected.shape
    return float(np.corrcoef(pixels[:, 10:55].ravel(), expected[:, 10:55].ravel())[0, 1])


@pytest.mark.parametrize("name", NAMES)
def test_the_picture_is_read(name):
    pixels = read_xray((CASES / name).read_bytes()).pixels
    assert resemblance(pixels) > 0.99
    if name.startswith(WITH_BORDER):
        assert max(pixels[:, :2].max(), pixels[:, -2:].max()) == 0


def test_names_do_not_hide_files(tmp_path):
    folder = CASES / "30_names"
    files = list(XrayFiles(str(folder), skip=tmp_path))
    assert {file.name for file in files} == {path.name for path in folder.iterdir()}
    assert all(resemblance(read_xray(file.read()).pixels) > 0.99 for file in files)


def test_names_in_zips(tmp_path):
    (name,) = (file.name for file in XrayFiles(str(CASES / "31_macos_names.zip"), skip=tmp_path))
    assert name.isprintable()
    assert not set(name) & set("╠├Σσ")
    first, second = XrayFiles(str(CASES / "32_same_name_twice.zip"), skip=tmp_path)
    assert first.name != second.name
    assert first.read() != second.read()
