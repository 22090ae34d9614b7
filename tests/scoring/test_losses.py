import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import default
from jaxunet.scoring import losses

pytestmark = pytest.mark.usefixtures("strict_dtypes")


@pytest.fixture
def pair() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.normal(size=(3, 6, 6, 2)).astype(np.float32), (rng.random((3, 6, 6, 2)) < 0.4).astype(np.float32)


def formula(name: str, logits: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The published formulas in float64, pixel by pixel, one number per image."""
    p = 1 / (1 + np.exp(-logits.astype(np.float64)))
    bce = -(mask * np.log(p) + (1 - mask) * np.log(1 - p)).mean(axis=(1, 2, 3))
    overlap, total = (p * mask).sum(axis=(1, 2)), (p + mask).sum(axis=(1, 2))
    dice = (1 - (2 * overlap + 1) / (total + 1)).mean(axis=-1)
    fp, fn = (p * (1 - mask)).sum(axis=(1, 2)), ((1 - p) * mask).sum(axis=(1, 2))
    pt, at = np.where(mask == 1, p, 1 - p), np.where(mask == 1, 0.25, 0.75)
    return {
        "bce": bce,
        "dice": dice,
        "bce_dice": bce + dice,
        "tversky": (1 - (overlap + 1) / (overlap + 0.3 * fp + 0.7 * fn + 1)).mean(axis=-1),
        "focal": (-at * (1 - pt) ** 2 * np.log(pt)).mean(axis=(1, 2, 3)),
    }[name]


@pytest.mark.parametrize("name", ["bce", "dice", "bce_dice", "focal", "tversky"])
def test_loss_equals_its_formula(name, pair):
    config = default.get_config().loss
    config.name = name
    logits, mask = pair
    value = losses.build_loss(config, ("infection",))({"masks": jnp.asarray(logits)}, {"masks": jnp.asarray(mask)})
    assert value.shape == (3,)
    assert value.dtype == jnp.float32
    np.testing.assert_allclose(value, formula(name, logits, mask), rtol=1e-5)


@pytest.mark.parametrize("name", ["bce", "dice", "bce_dice", "focal", "tversky"])
def test_extreme_logits_have_finite_gradients(name):
    config = default.get_config().loss
    config.name = name
    loss_fn = losses.build_loss(config, ("infection",))
    pairs = itertools.product((-1e4, 0.0, 1e4), (0.0, 1.0))
    logits, mask = (jnp.array(v).reshape(6, 1, 1, 1) * jnp.ones((1, 4, 4, 1)) for v in zip(*pairs, strict=True))
    value, gradient = jax.value_and_grad(lambda x: loss_fn({"masks": x}, {"masks": mask}).sum())(logits)
    assert jnp.isfinite(value)
    assert jnp.isfinite(gradient).all()
