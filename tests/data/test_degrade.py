"""Images that look as from elsewhere, against the libraries that make such images."""

import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
from PIL import Image

from configs import default
from jaxunet.data import augment, degrade

pytestmark = pytest.mark.usefixtures("strict_dtypes")


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    """float32 [64, 48, 1], whole 255ths: smooth shapes and some noise."""
    rng = np.random.default_rng(0)
    x = scipy.ndimage.gaussian_filter(rng.random((64, 48)), 4) * 8 - 3.5
    return np.round(255 * np.clip(x + 0.05 * rng.random((64, 48)), 0, 1)).astype(np.float32)[..., None] / 255


@pytest.mark.parametrize("quality", [10, 40, 75])
def test_jpeg_is_what_pillow_leaves(quality, picture):
    file = io.BytesIO()
    Image.fromarray((255 * picture[..., 0]).round().astype(np.uint8)).save(file, "JPEG", quality=quality)
    theirs = np.asarray(Image.open(file), np.float32)
    ours = 255 * np.asarray(degrade.jpeg(jnp.asarray(picture), jnp.float32(quality)))[..., 0]
    lost = np.abs(theirs - 255 * picture[..., 0]).mean()
    assert np.abs(ours - theirs).mean() < min(0.6, lost / 4)  # libjpeg computes in whole numbers


@pytest.mark.parametrize("sigma", [0.6, 2.0])
def test_blur_is_scipys(sigma, picture):
    expected = scipy.ndimage.gaussian_filter(picture[..., 0], sigma, mode="nearest", radius=6)
    np.testing.assert_allclose(degrade.blur(jnp.asarray(picture), jnp.float32(sigma))[..., 0], expected, atol=1e-5)
    np.testing.assert_allclose(degrade.blur(jnp.asarray(picture), jnp.float32(0)), picture, atol=1e-6)


def test_half_resolution_keeps_what_is_smooth():
    x = jnp.broadcast_to(jnp.linspace(0.0, 1.0, 16)[:, None, None], (16, 8, 1))
    checks = jnp.where(jnp.indices((16, 8)).sum(0) % 2 == 0, 0.1, -0.1)[..., None]
    np.testing.assert_allclose(degrade.half_resolution(x + checks)[1:-1], x[1:-1], atol=1e-6)


def test_margins_lie_at_the_edges():
    inside = np.stack([degrade.in_margin(key, (64, 32)) for key in jax.random.split(jax.random.key(0), 20)])
    assert not inside[:, 8:-8, 4:-4].any()
    assert all((inside != np.flip(inside, axis)).any() for axis in (1, 2))  # opposite edges differ
    assert all(inside[:, row, 16].mean() > 0.2 for row in (0, -1))
    assert all(inside[:, 32, column].mean() > 0.2 for column in (0, -1))


def test_each_change_happens_alone_and_none_beyond_the_share(picture):
    """As part of augmentation. Whether an image is changed does not depend on whether it is flipped."""
    settings = default.get_config().augment
    for name, value in settings.items():
        settings[name] = False if isinstance(value, bool) else 0.0
    settings.flip_horizontal, settings.degrade = True, 0.5
    image, mask = jnp.asarray(picture), jnp.ones((64, 48, 2)).at[:, 24:, 1].set(0)
    keys = jax.random.split(jax.random.key(0), 400)
    run = jax.jit(jax.vmap(lambda key: augment.augment_example(key, image, mask, settings)))
    images, masks = map(np.asarray, run(keys))
    flipped = masks[:, 32, 12, 1] == 0
    assert images.min() >= 0
    assert images.max() <= 1
    assert np.isfinite(images).all()
    before = np.where(flipped[:, None, None, None], picture[:, ::-1], picture)
    changed = (images != before).any(axis=(1, 2, 3))
    assert 0.4 < changed.mean() < 0.57
    assert abs(np.corrcoef(flipped, changed)[0, 1]) < 0.2
    masks = masks[..., :1]
    margins = (masks == 0).any(axis=(1, 2, 3))
    assert 0.18 < margins.mean() < 0.32
    assert not margins[~changed].any()
    assert set(np.unique(masks)) == {0, 1}
    everywhere = (masks == 0).mean(axis=(0, 3))
    assert everywhere[8:-8, 6:-6].max() == 0 < everywhere[0].min()


def test_every_kind_happens_to_half_of_the_images_at_any_strength(monkeypatch):
    """Five pixels say which kinds happened and how strongly; the others show exposure and noise."""
    monkeypatch.setattr(degrade, "MOST_MARGIN", 0.0)
    monkeypatch.setattr(degrade, "half_resolution", lambda x: x.at[0].set(1.0))
    monkeypatch.setattr(degrade, "blur", lambda x, sigma: x.at[1].set(1.0).at[2].set(sigma / 4))
    monkeypatch.setattr(degrade, "jpeg", lambda x, quality: x.at[3].set(1.0).at[4].set(quality / 100))
    keys, image = jax.random.split(jax.random.key(0), 1000), jnp.full((64, 1, 1), 0.5)
    images, _ = jax.jit(jax.vmap(lambda key: degrade.degrade(key, image, image, 1.0)))(keys)
    marks, rest = np.split(np.asarray(images)[..., 0, 0], [5], axis=1)
    noise, gamma = rest.std(axis=1), np.log2(rest.mean(axis=1)) / -1
    clean = noise < 1e-6  # then marks are exact
    happened = {"gamma": np.abs(gamma - 1) > 1e-5, "half": marks[:, 0] == 1, "blur": marks[:, 1] == 1}
    happened = {name: of[clean] for name, of in happened.items()} | {"JPEG": marks[clean, 3] == 1}
    for name, of in happened.items():
        assert of.mean() == pytest.approx(0.5, abs=0.1), name
    assert clean.mean() == pytest.approx(0.5, abs=0.1)
    assert np.abs(np.corrcoef(list(happened.values())) - np.eye(4)).max() < 0.2
    assert 14 / 255 < noise.max() < 20 / 255
    for found, ends in (
        (gamma[clean], (1 / 2.2, 2.2)),
        (4 * marks[clean, 2][happened["blur"]], (0, 2)),
        (100 * marks[clean, 4][happened["JPEG"]], (8, 60)),
    ):
        assert (found.min(), found.max()) == pytest.approx(ends, rel=0.05, abs=0.05)
