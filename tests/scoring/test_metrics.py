import jax.numpy as jnp
import numpy as np
import pytest

from jaxunet.scoring import protocols, split_pass
from jaxunet.scoring.counts import histogram, pixel_counts, positive

pytestmark = pytest.mark.usefixtures("strict_dtypes")


def brute_force(truth: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    """Metrics by set arithmetic, without the module's formulas."""
    t, p = set(np.flatnonzero(truth)), set(np.flatnonzero(predicted))
    everything = set(range(truth.size))
    return {
        "dice": 2 * len(t & p) / (len(t) + len(p)),
        "iou": len(t & p) / len(t | p),
        "accuracy": 1 - len(t ^ p) / truth.size,
        "precision": len(t & p) / len(p),
        "recall": len(t & p) / len(t),
        "specificity": len(everything - t - p) / len(everything - t),
    }


@pytest.fixture
def masks() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.random((5, 8, 8, 2)) < 0.3, rng.random((5, 8, 8, 2)) < 0.4


def counts_of(truth: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    logits = jnp.where(jnp.asarray(predicted), 3.0, -3.0)
    return np.asarray(pixel_counts(logits, jnp.asarray(truth, jnp.float32), 0.5))


def test_ratios_equal_set_arithmetic(masks):
    truth, predicted = masks
    counts = counts_of(truth, predicted)
    assert counts.dtype == np.int32
    for c in range(2):
        values = protocols.ratios(counts[:, c])
        for i in range(5):
            for name, expected in brute_force(truth[i, ..., c], predicted[i, ..., c]).items():
                assert values[name][i] == pytest.approx(expected, abs=1e-12), name


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


def test_empty_mask_rule():
    rows = np.array([[0, 0, 0, 64], [0, 1, 0, 63], [0, 0, 5, 59], [64, 0, 0, 0]])
    values = protocols.ratios(rows)
    np.testing.assert_array_equal(values["dice"], [1, 0, 0, 1])
    np.testing.assert_array_equal(values["precision"], [1, 0, 0, 1])
    np.testing.assert_array_equal(values["recall"], [1, 0, 0, 1])
    np.testing.assert_array_equal(values["specificity"], [1, 63 / 64, 1, 0])


def test_protocols_average_differently():
    counts = np.array([[10, 0, 0, 90], [1, 0, 9, 90], [0, 0, 0, 100], [0, 3, 0, 97]])
    summary = protocols.summarize(counts, np.array([True, True, False, False]))
    dice = [1.0, 2 / 11, 1.0, 0.0]
    assert summary["P1"]["dice"] == {
        "mean": np.mean(dice[:2]),
        "median": np.median(dice[:2]),
        "min": dice[1],
        "max": 1.0,
        "n": 2,
    }
    assert summary["P2"]["dice"] == {"value": 22 / 31, "n": 2}
    assert summary["P2_all"]["dice"] == {"value": 22 / 34, "n": 4}
    assert summary["P3"]["dice"]["mean"] == np.mean(dice)
    assert summary["controls"] == {"n": 2, "blank_predictions": 1}
    assert "P1" not in protocols.summarize(counts[2:], np.array([False, False]))


def test_sums_do_not_overflow():
    counts = np.full((40_000, 4), 65_536, np.int32)
    assert protocols.summarize(counts, np.ones(40_000, bool))["P2"]["accuracy"]["value"] == 0.5


def test_table_names_every_protocol():
    counts = np.array([[10, 0, 0, 90], [0, 3, 0, 97]])
    text = protocols.table(protocols.summarize(counts, np.array([True, False])))
    for name in ("P1", "P2", "P2_all", "P3", "Dice/F1", "0 of 1 images"):
        assert name in text
