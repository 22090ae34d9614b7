"""Records of targets: what is asked of them, and a finding of one's own that nobody knows by name."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import default
from jaxunet.data.targets import COVID19, TARGETS, Target, finding, mask_targets, organ
from jaxunet.evaluation.per_image import infected_shares
from jaxunet.prediction.prediction import Prediction
from jaxunet.scoring.detection import Rule
from jaxunet.scoring.losses import build_loss
from jaxunet.xrays import letterbox
from jaxunet.xrays.pixels import Xray
from tests.support.xrays import records

OWN = ("nodule", "heart", COVID19)


@pytest.fixture
def own(monkeypatch):
    """Nodules of the heart, learnt from COVID-19 images alone."""
    monkeypatch.setitem(TARGETS, "heart", Target("heart"))
    monkeypatch.setitem(TARGETS, "nodule", Target("nodule", within="heart", learnt_from=COVID19))


@pytest.mark.parametrize(
    ("targets", "masks", "found", "within"),
    [
        (("infection", "lung", "covid19"), ("infection", "lung"), "infection", "lung"),
        (("lung", "infection"), ("lung", "infection"), "infection", "lung"),
        (("lung",), ("lung",), "", "lung"),
        (("infection",), ("infection",), "infection", ""),
        (OWN, ("nodule", "heart"), "nodule", "heart"),
        (("lung", "nodule"), ("lung", "nodule"), "nodule", ""),
    ],
)
def test_findings_and_the_organs_they_lie_in(targets, masks, found, within, own):
    assert (mask_targets(targets), finding(records(*masks)), organ(records(*masks))) == (masks, found, within)


def test_records_are_complete():
    assert {name: target.name for name, target in TARGETS.items()} == {name: name for name in TARGETS}
    for name in mask_targets(TARGETS):
        target = TARGETS[name]
        assert target.within in ("", *mask_targets(TARGETS))
        assert target.learnt_from in ("", COVID19)
        assert all(len(code) == 3 for code in (target.category, target.code))
    assert len({TARGETS[name].colour for name in mask_targets(TARGETS)}) == len(mask_targets(TARGETS))


def test_a_finding_of_ones_own_is_learnt_as_infection_is(own):
    rng = np.random.default_rng(0)
    outputs = {"masks": rng.normal(size=(4, 8, 8, 2)), COVID19: rng.normal(size=4)}
    target = {"masks": rng.random((4, 8, 8, 2)) < 0.4, COVID19: np.array([1, 0, 1, 0])}
    outputs, target = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), (outputs, target))
    settings = default.get_config().loss
    ours, theirs, neither = (
        build_loss(settings, masks, covid19_share=0.25)(outputs, target)
        for masks in (OWN, ("infection", "lung", COVID19), ("heart", "lung", COVID19))
    )
    np.testing.assert_array_equal(ours, theirs)
    assert not np.allclose(ours, neither)


def test_a_finding_of_ones_own_is_measured_and_gated(own):
    logits = np.full((8, 8, 2), -9, np.float32)
    logits[2:6, 2:6, 1], logits[2:4, 2:8, 0] = 9, 9  # a heart of 16 pixels; 12 of nodules, 8 of them in it
    place = letterbox.fit(np.zeros((8, 8), np.uint8), 8)[1]
    rule = Rule("probability", 0.5)

    def predicted(covid19: float) -> Prediction:
        xray = Xray(np.zeros((8, 8), np.uint8))
        return Prediction("x", xray, place, logits, records("nodule", "heart"), covid19, 0.5, rule, gate=True)

    row = predicted(0.6).row
    assert (row["infected_pixels"], row["severity_percent"], row["covid19_detected"]) == (12, 50.0, True)
    blank = predicted(0.4)
    assert (blank.masks["nodule"].sum(), blank.masks["heart"].sum()) == (0, 16)
    bits = np.packbits(logits > 0, axis=1)[None]
    np.testing.assert_array_equal(infected_shares(bits, records("nodule", "heart")), [0.5])
    assert predicted(0.6).overlay().shape == (8, 8, 3)
