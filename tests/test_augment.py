import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
from ml_collections import ConfigDict

from configs import default
from jaxunet import augment

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
