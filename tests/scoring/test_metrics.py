import jax.numpy as jnp
import numpy as np
import pytest

from jaxunet.scoring import protocols, split_pass
from jaxunet.scoring.counts import histogram, pixel_counts, positive

pytestmark = pytest.mark.usefixtures("strict_dtypes")


@pytest.mark.parametrize("threshold", [0.1, 0.5, 0.9])
def test_threshold_is_a_probability(threshold):
    logits = jnp.linspace(-4, 4, 256, dtype=jnp.float32).reshape(1, 16, 16, 1)
    counts = np.asarray(pixel_counts(logits, jnp.ones_like(logits), threshold))[0, 0]
    assert counts[0] == int((1 / (1 + np.exp(-np.asarray(logits, np.float64))) > threshold).sum())


@pytest.mark.parametrize("threshold", [0.05, 0.3, 0.5, 0.75, 0.95])
def test_a_probability_equal_to_the_threshold_is_negative(threshold):
    """The logit of the threshold itself, a little less and a little more; of lesions and of none."""
    edge = np.float32(np.log(threshold / (1 - threshold)))
    logits = edge + np.array([-1e-6, 0, 1e-6], np.float32)
    assert logits[0] < edge < logits[2]
    np.testing.assert_array_equal(positive(logits, threshold), [False, False, True])
    image = jnp.asarray(logits.reshape(1, 1, 3, 1))
    truth, blank = jnp.ones_like(image), jnp.zeros_like(image)
    np.testing.assert_array_equal(pixel_counts(image, truth, threshold)[0, 0], [1, 0, 2, 0])
    np.testing.assert_array_equal(pixel_counts(image, blank, threshold)[0, 0], [0, 1, 0, 2])
    bins = np.asarray(histogram(image, truth))[0, 0, 1]
    assert bins[: round(20 * threshold)].sum() == 2, "the edge is in the bin below"


def test_evaluation_calls_a_pixel_on_the_threshold_negative():
    """A network whose logits are 255 times the image less 100, at threshold 0.5: 100 is not marked, 101 is."""

    class Brightness:
        def apply(self, variables, image, *, train):
            return {"masks": jnp.rint(255 * image) - 100}

    image = np.array([99, 100, 101, 100, 99, 100, 101, 100], np.uint8).reshape(1, 1, 8)
    raw = {"image": image, "mask": np.packbits(image > 100, axis=2)[..., None]}
    settings = {"model": Brightness(), "threshold": 0.5}
    np.testing.assert_array_equal(split_pass.eval_step({}, raw, **settings)["counts"][0, 0], [2, 0, 0, 6])
    measured = split_pass.measure_step({}, raw, **settings)
    np.testing.assert_array_equal(measured["counts"][0, 0], [2, 0, 0, 6])
    np.testing.assert_array_equal(np.unpackbits(measured["mask"], axis=2)[0, 0, :, 0], image[0, 0] > 100)


def test_sums_do_not_overflow():
    counts = np.full((40_000, 4), 65_536, np.int32)
    assert protocols.summarize(counts, np.ones(40_000, bool))["P2"]["accuracy"]["value"] == 0.5


def test_table_names_every_protocol():
    counts = np.array([[10, 0, 0, 90], [0, 3, 0, 97]])
    text = protocols.table(protocols.summarize(counts, np.array([True, False])))
    for name in ("P1", "P2", "P2_all", "P3", "Dice/F1", "0 of 1 images"):
        assert name in text
