import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
from ml_collections import ConfigDict

from configs import default
from jaxunet.data import augment

pytestmark = pytest.mark.usefixtures("strict_dtypes")


@pytest.fixture
def off() -> ConfigDict:
    """Settings with every transform switched off."""
    settings = default.get_config().augment
    for name, value in settings.items():
        settings[name] = False if isinstance(value, bool) else 0.0
    return settings


@pytest.fixture
def pair() -> tuple[jax.Array, jax.Array]:
    rng = np.random.default_rng(0)
    image = rng.random((16, 16, 1), np.float32)
    return jnp.asarray(image), jnp.asarray(np.concatenate([image > 0.5, image > 0.8], -1), jnp.float32)


def results(pair, settings, n=40):
    keys = jax.random.split(jax.random.key(1), n)
    image, mask = (jnp.broadcast_to(x, (n, *x.shape)) for x in pair)
    return jax.jit(lambda k, x, y: augment.augment_batch(k, x, y, settings))(keys, image, mask)


def test_off_changes_nothing(pair, off):
    images, masks = results(pair, off, n=2)
    np.testing.assert_array_equal(images[0], pair[0])
    np.testing.assert_array_equal(masks[1], pair[1])


@pytest.mark.parametrize(
    ("name", "variants"),
    [
        ("flip_horizontal", [lambda x: x, lambda x: x[:, ::-1]]),
        ("flip_vertical", [lambda x: x, lambda x: x[::-1]]),
        ("quarter_turns", [lambda x, k=k: np.rot90(x, k) for k in range(4)]),
    ],
)
def test_flips_and_turns_are_exact_paired_and_all_occur(name, variants, pair, off):
    off[name] = True
    seen = set()
    for image, mask in zip(*map(np.asarray, results(pair, off)), strict=True):
        (which,) = [i for i, f in enumerate(variants) if np.array_equal(image, f(np.asarray(pair[0])))]
        np.testing.assert_array_equal(mask, variants[which](np.asarray(pair[1])))
        seen.add(which)
    assert seen == set(range(len(variants)))


def test_masks_follow_the_image_and_stay_binary(off):
    """A smooth disc moved by every geometric transform: thresholding the moved image gives the moved mask."""
    off.rotate_degrees, off.scale, off.translate_pixels = 20.0, 0.2, 6.0
    y, x = np.mgrid[:64, :64] - 31.5
    image = np.clip(1.5 - np.hypot(y, x / 2 + 3) / 10, 0, 1)[..., None].astype(np.float32)
    images, masks = map(np.asarray, results((jnp.asarray(image), jnp.asarray(image > 0.5, jnp.float32)), off))
    assert set(np.unique(masks)) == {0.0, 1.0}
    for moved, mask in zip(images, masks, strict=True):
        assert ((moved > 0.5) != (mask > 0.5)).mean() < 0.02
    assert np.abs(images - image).max(axis=(1, 2, 3)).min() > 0.05


@pytest.mark.parametrize(("degrees", "scale"), [(30.0, 0.0), (0.0, 0.3), (30.0, 0.3)])
def test_affine_is_a_rotation_times_a_scale(degrees, scale, off):
    """Moves the coordinate fields themselves and looks at their derivatives in the middle."""
    off.rotate_degrees, off.scale = degrees, scale
    fields = jnp.asarray(np.stack(np.mgrid[:33, :33], -1), jnp.float32)
    angles, zooms = [], []
    for key in jax.random.split(jax.random.key(0), 20):
        moved = np.asarray(augment._affine(key, fields, off))
        np.testing.assert_allclose(moved[16, 16], [16, 16], atol=1e-3)
        jacobian = np.stack([moved[17, 16] - moved[16, 16], moved[16, 17] - moved[16, 16]], -1)
        zoom = 1 / np.sqrt(np.linalg.det(jacobian))
        np.testing.assert_allclose(jacobian.T @ jacobian, np.eye(2) / zoom**2, atol=1e-3)
        angles.append(np.degrees(np.arctan2(jacobian[1, 0], jacobian[0, 0])))
        zooms.append(zoom)
    assert max(map(abs, angles)) <= degrees + 0.1
    assert np.ptp(angles) >= degrees
    assert 1 - scale - 1e-3 <= min(zooms) <= max(zooms) <= 1 + scale + 1e-3
    assert np.ptp(zooms) >= scale


@pytest.mark.parametrize("resample", [augment._resample_by_gather, augment._resample_by_matmul])
def test_both_forms_of_resampling_equal_numpy(resample):
    """Accelerators multiply, CPUs gather: the same numbers."""
    stack = np.random.default_rng(0).random((9, 14, 3), np.float32)
    position = np.random.default_rng(1).uniform(-3, 17, (9, 14)).astype(np.float32)
    for axis in (0, 1):
        n = stack.shape[axis]
        grid = np.arange(-2, n + 2)
        expected = np.empty_like(stack)
        for y, x, c in np.ndindex(stack.shape):
            line = stack[y, :, c] if axis == 1 else stack[:, x, c]
            expected[y, x, c] = np.interp(position[y, x], grid, np.pad(line, 2))
        result = resample(jnp.asarray(stack), jnp.asarray(position), axis=axis)
        np.testing.assert_allclose(result, expected, atol=1e-5)


@pytest.mark.parametrize(("platform", "products"), [("tpu", True), ("cuda", False), ("cpu", False)])
def test_resampling_is_by_products_on_tpus_alone(platform, products):
    run = jax.jit(lambda x, position: augment._resample(x, position, axis=1))
    traced = run.trace(jnp.zeros((8, 8, 1)), jnp.zeros((8, 8)))
    text = traced.lower(lowering_platforms=(platform,)).as_text()
    assert ("dot_general" in text, "gather" in text) == (products, not products)


def test_affine_moves_a_smooth_image_as_scipy_does(off):
    """Two passes against sampling in two dimensions at once."""
    off.rotate_degrees, off.scale, off.translate_pixels = 40.0, 0.3, 5.0
    y, x = np.mgrid[:40, :48]
    image = (np.sin(y / 6) * np.cos(x / 9 + 1) + 1).astype(np.float32) / 2
    for key in jax.random.split(jax.random.key(3), 5):
        fields = np.stack([image, y, x], -1).astype(np.float32)
        moved = np.asarray(augment._affine(key, jnp.asarray(fields), off))
        inside = (moved[..., 1] > 1) & (moved[..., 1] < 38) & (moved[..., 2] > 1) & (moved[..., 2] < 46)
        inside[:, :2] = inside[:, -2:] = False
        expected = scipy.ndimage.map_coordinates(image, [moved[..., 1], moved[..., 2]], order=1)
        smooth = scipy.ndimage.binary_erosion(inside, iterations=2)
        assert smooth.sum() > 300
        assert np.abs(moved[..., 0] - expected)[smooth].max() < 0.02


@pytest.mark.parametrize("name", ["gamma", "contrast", "brightness", "noise_std"])
def test_intensity_moves_the_image_alone_within_range(name, pair, off):
    off[name] = 0.3
    images, masks = map(np.asarray, results(pair, off))
    assert images.min() >= 0
    assert images.max() <= 1
    assert len({image.tobytes() for image in images}) == len(images)
    np.testing.assert_array_equal(masks, np.broadcast_to(pair[1], masks.shape))


def test_an_example_depends_on_its_own_key_alone(pair):
    settings = default.get_config().augment
    many, _ = results(pair, settings)
    keys = jax.random.split(jax.random.key(1), 40)
    one, _ = augment.augment_batch(keys[7:8], pair[0][None], pair[1][None], settings)
    np.testing.assert_allclose(one[0], many[7], atol=1e-6)


def test_contrast_stretches_about_the_mean(off):
    """Nothing is clipped: the mean stays, differences from it are multiplied by 0.7 to 1.3."""
    off.contrast = 0.3
    image = np.array([0.3, 0.3, 0.3, 0.6], np.float32).repeat(4).reshape(4, 4, 1)  # the mean is not the middle
    images, _ = results((jnp.asarray(image), jnp.zeros((4, 4, 1))), off)
    factors = (np.asarray(images).max(axis=(1, 2, 3)) - 0.375) / (0.6 - 0.375)
    expected = 0.375 + factors[:, None, None, None] * (image - 0.375)
    np.testing.assert_allclose(images, expected, atol=1e-5)
    assert 0.7 <= factors.min() < 0.8 < 1.2 < factors.max() <= 1.3


def test_every_transform_has_a_draw_of_its_own(off):
    """What is measured of 200 examples is as good as uncorrelated, and each shift is up to what is set, both ways."""
    n, size, measured = 200, 33, {}
    middle, blank = size // 2, jnp.zeros((size, size, 1))
    keys = jax.random.split(jax.random.key(5), n)

    def run(image, **settings):
        chosen = off.copy_and_resolve_references()
        chosen.update(settings)
        images = jnp.broadcast_to(jnp.asarray(image, jnp.float32), (n, size, size, 1))
        step = jax.jit(lambda k, x, y: augment.augment_batch(k, x, y, chosen)[0])
        return np.asarray(step(keys, images, jnp.broadcast_to(blank, images.shape)))[..., 0]

    # Coordinates as grey values: what the middle of the moved image shows is where it comes from.
    geometry = {"rotate_degrees": 10.0, "scale": 0.1, "translate_pixels": 4.0}
    y, x = (run((field / size)[..., None], **geometry) * size for field in np.mgrid[:size, :size])
    here = (slice(None), middle, middle)
    right, below = (slice(None), middle, middle + 1), (slice(None), middle + 1, middle)
    jacobian = np.array([[y[below] - y[here], y[right] - y[here]], [x[below] - x[here], x[right] - x[here]]])
    back = np.linalg.solve(jacobian.transpose(2, 0, 1), np.stack([middle - y[here], middle - x[here]], -1)[..., None])
    measured["down"], measured["right"] = back[:, 0, 0], back[:, 1, 0]
    measured["angle"] = np.arctan2(jacobian[1, 0], jacobian[0, 0])
    measured["zoom"] = np.linalg.det(jacobian.transpose(2, 0, 1))
    for name in ("down", "right"):
        assert -4.02 < measured[name].min() < -3.5
        assert 3.5 < measured[name].max() < 4.02

    corner = np.zeros((size, size, 1))
    corner[0, 1] = 1
    flipped, turned = run(corner, flip_horizontal=True, flip_vertical=True), run(corner, quarter_turns=True)
    measured["across"], measured["upside down"] = (flipped[:, :, middle:].any((1, 2)), flipped[:, middle:].any((1, 2)))
    measured["half turn"] = turned[:, -1, -2] + turned[:, -2, 0]
    measured["quarter turn"] = turned[:, -2, 0] + turned[:, 1, -1]
    halves = np.where(np.arange(size)[:, None, None] < middle, 0.4, 0.6) * np.ones((1, size, 1))
    stretched = run(halves, contrast=0.2)
    measured["contrast"] = stretched[:, -1, 0] - stretched[:, 0, 0]
    measured["brightness"] = run(halves, brightness=0.2)[:, 0, 0]
    measured["gamma"] = run(halves, gamma=0.2)[:, 0, 0]

    correlation = np.corrcoef(np.stack([np.asarray(v, np.float64) for v in measured.values()]))
    assert np.abs(correlation - np.eye(len(measured))).max() < 0.3, dict(zip(measured, correlation, strict=True))
