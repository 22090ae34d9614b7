"""Measures and warnings, on masks that can be counted by hand."""

import numpy as np
import pytest

from jaxunet.data.drawing import draw_chest_xray
from jaxunet.prediction.measures import measure, quality_warnings, split_sides
from jaxunet.scoring.detection import Rule


def box(rows: slice, columns: slice, shape: tuple[int, int] = (100, 200)) -> np.ndarray:
    mask = np.zeros(shape, bool)
    mask[rows, columns] = True
    return mask


LEFT, RIGHT = box(slice(20, 80), slice(20, 80)), box(slice(20, 80), slice(120, 160))  # 3600 and 2400 pixels
LUNG = LEFT | RIGHT


def test_shares_are_clipped_to_the_lung_and_split_by_side():
    infection = box(slice(20, 50), slice(10, 80)) | box(slice(70, 80), slice(120, 140))
    found = measure(infection, LUNG, spacing_mm=(0.5, 2.0))
    assert found["infected_pixels"] == 30 * 70 + 10 * 20
    assert found["infected_cm2"] == pytest.approx(2300 * 0.01)
    assert found["infected_share_percent"] == pytest.approx(100 * 2300 / 20000)
    assert (found["lung_pixels"], found["lung_cm2"]) == (6000, pytest.approx(60))
    assert found["severity_percent"] == pytest.approx(100 * (1800 + 200) / 6000)
    assert found["severity_right_percent"] == pytest.approx(50)  # at the left of the image
    assert found["severity_left_percent"] == pytest.approx(100 * 200 / 2400)
    assert (found["sides"], found["regions"]) == ("components", 2)
    assert (found["largest_region_pixels"], found["largest_region_cm2"]) == (2100, pytest.approx(21))
    mirrored = measure(infection, LUNG, mirrored=True)
    assert mirrored["severity_left_percent"] == found["severity_right_percent"]
    assert mirrored["infected_cm2"] is None


def test_empty_and_missing_masks():
    empty = np.zeros_like(LUNG)
    found = measure(empty, empty)
    assert (found["infected_pixels"], found["regions"], found["largest_region_pixels"]) == (0, 0, 0)
    assert found["severity_percent"] is None
    assert measure(empty, LUNG)["severity_percent"] == 0
    assert measure(LUNG, None)["severity_percent"] is None
    assert measure(None, LUNG)["infected_pixels"] is None


def test_one_lung_and_joined_lungs_are_split_at_the_middle():
    joined = LUNG | box(slice(40, 45), slice(20, 160))
    for lung in (LEFT, joined, LEFT | box(slice(0, 2), slice(150, 152))):
        sides, by = split_sides(lung)
        assert by == "midline"
        np.testing.assert_array_equal(sides, np.broadcast_to(np.arange(200) < 100, sides.shape))


def test_a_lung_that_reaches_over_belongs_to_its_side():
    wide = box(slice(20, 80), slice(20, 130)) | box(slice(20, 80), slice(140, 190))
    sides, by = split_sides(wide)
    assert by == "components"
    assert sides[50, 129]
    assert not sides[50, 140]


def test_regions_touch_at_corners():
    mask = box(slice(0, 2), slice(0, 2)) | box(slice(2, 4), slice(2, 4)) | box(slice(50, 51), slice(50, 51))
    assert measure(mask, None)["regions"] == 2


@pytest.mark.parametrize(
    ("score", "threshold", "expected"),
    [("image", 0.0, True), ("image", 0.02, False), ("lung", 0.02, True), ("lung", 0.04, False)],
)
def test_detection(score, threshold, expected):
    measures = {"infected_pixels": 9, "infected_share_percent": 1.0, "severity_percent": 3.0}
    rule = Rule(score, threshold)
    assert rule.calls_xray(measures, None) is expected
    none = measures | {"infected_pixels": None}
    assert rule.calls_xray(none, None) is None
    no_lung = measures | {"severity_percent": None}
    assert Rule("lung", threshold).calls_xray(no_lung, None) is False


def test_quality_warnings():
    image, lung, _ = draw_chest_xray(0, 3, "val", "Normal")
    lung = lung.astype(bool)
    assert quality_warnings(image, lung) == []
    assert quality_warnings(image, None) == []
    assert "very dark" in quality_warnings(image // 6, lung)
    assert "low contrast" in quality_warnings(image // 6, lung)
    assert "very bright" in quality_warnings(230 + image // 10, lung)
    assert quality_warnings(image[:64, :64], None)[0] == "small: 64 x 64 pixels"
    assert "shape unlike a chest X-ray" in quality_warnings(np.tile(image, (1, 3)), None)
    assert "hardly any lung found" in quality_warnings(image, np.zeros_like(lung))
    rows = np.flatnonzero(lung.any(axis=1))
    below = (rows[0] + rows[-1]) // 2
    assert "lung cut off by the edge of the image" in quality_warnings(image[below:], lung[below:])
