"""What is no upright frontal chest X-ray is told, in words, and gets neither a severity nor an answer."""

import csv
import io
import pathlib
import re
import zipfile

import numpy as np
import pytest
from PIL import Image

from benchmarks.held_out_pictures import HELD_OUT
from benchmarks.not_chest_xrays import SEEN, pictures
from jaxunet.data.drawing import draw_chest_xray
from jaxunet.prediction import folder, frontal
from jaxunet.prediction.prediction import Prediction
from jaxunet.scoring.detection import Rule
from jaxunet.xrays import letterbox
from jaxunet.xrays.pixels import Xray
from tests.support.fake_archive import real_archive
from tests.support.xrays import Threshold, encoded, picture, records

ARCHIVE = real_archive()


@pytest.mark.parametrize(("group", "missed"), [(SEEN, 1), (HELD_OUT, 1)])
def test_pictures_of_other_things_are_refused_by_their_pixels(group, missed):
    taken = [name for name, pixels in pictures(group) if not frontal.refusal(pixels, None)]
    assert len(group) in (70, 28)
    assert len(taken) <= missed, taken


@pytest.mark.skipif(
    ARCHIVE is None or ARCHIVE.suffix != ".zip", reason="JAXUNET_COVID_QU_EX names no zip of COVID-QU-Ex"
)
def test_real_xrays_are_taken_and_their_other_views_named():
    with zipfile.ZipFile(ARCHIVE) as archive:
        names = [n for n in archive.namelist() if re.fullmatch("Infection.*/Val/.*/images/.+", n)]
        images = [np.asarray(Image.open(io.BytesIO(archive.read(name)))) for name in names[::10]]
    for view, words in (
        (lambda x: x, ""),
        (lambda x: x[:, ::-1], ""),
        (lambda x: np.rot90(x), "turned by 90 degrees"),
        (lambda x: np.rot90(x, 2), "upside down"),
        (lambda x: 255 - x, "inverted"),
        (lambda x: np.pad(x, 60), ""),
        (lambda x: x // 3 + 90, ""),
    ):
        found = [frontal.refusal(np.ascontiguousarray(view(x)), None) for x in images]
        assert sum(reason != words for reason in found) <= 0.02 * len(images), words


def lungs(*boxes: tuple[int, int, int, int]) -> np.ndarray:
    mask = np.zeros((100, 100), bool)
    for top, bottom, left, right in boxes:
        mask[top:bottom, left:right] = True
    return mask


@pytest.mark.parametrize(
    ("mask", "two"),
    [
        (lungs((20, 80, 10, 40), (20, 80, 60, 90)), True),
        (lungs((20, 80, 10, 40), (50, 80, 60, 90)), True),  # one is half hidden
        (lungs((20, 80, 30, 70)), False),  # one, as from the side
        (lungs((10, 40, 10, 90), (60, 90, 10, 90)), False),  # one above the other
        (lungs((5, 45, 10, 40), (55, 95, 60, 90)), False),
        (lungs((20, 80, 10, 40), (40, 52, 60, 75)), False),  # too unlike
        (lungs((48, 52, 10, 40), (48, 52, 60, 90)), False),  # too small
        (lungs((0, 100, 0, 40), (0, 100, 55, 100)), False),  # too large
    ],
)
def test_two_lungs_are_side_by_side(mask, two):
    assert frontal.two_lungs(mask) is two


def predicted(xray: Xray, *, checked: bool) -> Prediction:
    square, place = letterbox.fit(xray.pixels, 64)
    logits = np.stack([square.astype(np.float32) - 200, square.astype(np.float32) - 100], -1)
    rule = Rule("probability", 0.4)
    masks = records("infection", "lung")
    return Prediction("a.png", xray, place, logits, masks, 0.9, 0.5, rule, gate=False, checked=checked)


def test_a_refused_picture_has_masks_and_neither_severity_nor_answer():
    free, held = (predicted(Xray(picture()), checked=checked) for checked in (False, True))
    assert (free.refusal, free.covid19, free.detected, free.row["usable"]) == ("", 0.9, True, True)
    assert free.measures["severity_percent"] > 0
    assert held.refusal
    assert held.covid19 is held.detected is None
    row = held.row
    for column in ("severity_percent", "severity_right_percent", "severity_left_percent", "sides"):
        assert row[column] is None
    assert (row["usable"], row["covid19_probability"], row["covid19_detected"]) == (False, None, None)
    assert row["warnings"][0] == f"not usable as a frontal chest X-ray: {held.refusal}"
    assert row["infected_pixels"] == free.row["infected_pixels"] > 0
    np.testing.assert_array_equal(held.masks["infection"], free.masks["infection"])


def test_what_the_header_says_is_believed():
    pixels = draw_chest_xray(0, 0, "train", "Normal")[0]
    xray = Xray(pixels, notes=("view LL, not frontal",), other=("view LL, not frontal",))
    assert predicted(xray, checked=True).refusal == "view LL, not frontal"


def test_the_table_and_the_exit_status_say_so(config, tmp_path, capsys):
    network = Threshold(config)
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").write_bytes(encoded(picture()))
    assert folder.predict(network, str(tmp_path / "in"), tmp_path / "free", probabilities=False) == 0
    network.config.dataset.name = "covid_qu_ex"
    assert folder.predict(network, str(tmp_path / "in"), tmp_path / "out", probabilities=False) == folder.SOME_FAILED
    assert "1 not usable as frontal chest X-rays" in capsys.readouterr().out
    (row,) = read(tmp_path / "out" / "predictions.csv")
    assert (row["usable"], row["severity_percent"], row["covid19_detected"], row["error"]) == ("False", "", "", "")
    assert (tmp_path / "out/masks/a_infection.png").is_file()
    (row,) = read(tmp_path / "free" / "predictions.csv")
    assert (row["usable"], row["severity_percent"]) == ("True", "12.5")


def read(path: pathlib.Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))
