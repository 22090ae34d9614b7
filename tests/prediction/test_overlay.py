"""The picture of a prediction."""

import numpy as np

from jaxunet.data.targets import TARGETS, Target
from jaxunet.prediction import overlay


def test_a_finding_is_drawn_over_the_organ_around_it():
    xray, mask = np.zeros((32, 32), np.uint8), np.zeros((32, 32), bool)
    mask[8:24, 8:24] = True
    for name in ("aaa", "zzz"):
        records = {"lung": TARGETS["lung"], name: Target(name, colour=(1, 2, 3), within="lung")}
        for masks in ({"lung": mask, name: mask}, {name: mask, "lung": mask}):
            assert overlay.paint(xray, masks, records)[8, 8].tolist() == [1, 2, 3]
