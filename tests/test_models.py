"""Contracts of every network that `config.model.name` can name."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import default
from jaxunet.errors import UserError
from jaxunet.models import build_model, layers


@pytest.fixture
def settings():
    model = default.get_config().model
    model.channels, model.patch, model.dtype = (4, 8, 16), 2, "float32"
    return model


def build(settings, classes=1, channels=1, size=16):
    model = build_model(settings, classes=classes, axis_name=None)
    image = jax.random.uniform(jax.random.key(1), (2, size, size, channels))
    return model, model.init(jax.random.key(0), image, train=False), image


@pytest.mark.parametrize("classes", [1, 2])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_logits_are_float32_at_full_resolution(classes, channels, dtype, settings):
    settings.dtype = dtype
    model, variables, image = build(settings, classes, channels)
    logits, _ = model.apply(variables, image, train=True, mutable=["batch_stats"])
    assert logits.shape == (2, 16, 16, classes)
    assert logits.dtype == jnp.float32
    assert jnp.isfinite(logits).all()
    assert {x.dtype for x in jax.tree.leaves(variables)} == {jnp.dtype("float32")}


def test_bfloat16_is_close_to_float32(settings):
    model, variables, image = build(settings)
    settings.dtype = "bfloat16"
    half = build_model(settings, classes=1, axis_name=None)
    full, rough = model.apply(variables, image, train=False), half.apply(variables, image, train=False)
    assert 0 < float(jnp.abs(full - rough).max()) < 0.05 * float(jnp.abs(full).max())


@pytest.mark.parametrize("size", [12, 20, 31])
def test_odd_sizes_are_refused_with_the_size_to_pad_to(size, settings):
    model = build_model(settings, classes=1, axis_name=None)
    padded = -(-size // 8) * 8
    with pytest.raises(UserError, match=f"divisible by 8.*{size}x{size}.*pad it to {padded}x{padded}"):
        model.init(jax.random.key(0), jnp.zeros((1, size, size, 1)), train=False)


def test_encoder_features_have_the_documented_strides(settings):
    model, variables, image = build(settings)
    _, seen = model.apply(variables, image, train=False, capture_intermediates=lambda m, _: m.name == "encoder")
    features = seen["intermediates"]["encoder"]["__call__"][0]
    assert [16 // f.shape[1] for f in features] == [2, 4, 8]


def test_every_parameter_and_every_skip_carries_gradient(settings):
    model, variables, image = build(settings)

    def loss(params, skip_scales):
        def scale(next_fun, args, kwargs, context):
            out = next_fun(*args, **kwargs)
            if context.module.name == "encoder":
                return [f * s for f, s in zip(out, skip_scales, strict=True)]
            return out

        with nn.intercept_methods(scale):
            logits, _ = model.apply({**variables, "params": params}, image, train=True, mutable=["batch_stats"])
        return (logits**2).mean()

    params_grad, skip_grad = jax.grad(loss, argnums=(0, 1))(variables["params"], [jnp.float32(1.0)] * 3)
    assert all(jnp.abs(g) > 1e-6 for g in skip_grad), skip_grad
    for path, g in jax.tree_util.tree_leaves_with_path(params_grad):
        assert float(jnp.abs(g).max()) > 0, jax.tree_util.keystr(path)


def test_parameter_count_of_the_textbook_network(settings):
    """Ronneberger's widths with batch norm, bilinear upsampling: counted layer by layer, conv then norm."""
    settings.channels, settings.patch = (64, 128, 256, 512, 1024), 1
    model = build_model(settings, classes=1, axis_name=None)
    variables = jax.eval_shape(functools.partial(model.init, train=False), jax.random.key(0), jnp.zeros((1, 32, 32, 1)))
    widths = [1, 64, 128, 256, 512, 1024]
    expected = sum(9 * (a * b + b * b) + 4 * b for a, b in zip(widths, widths[1:], strict=False))
    expected += sum(9 * ((a + b) * a + a * a) + 4 * a for a, b in zip(widths[1:], widths[2:], strict=False)) + 65
    assert sum(x.size for x in jax.tree.leaves(variables["params"])) == expected


@pytest.mark.parametrize("shape", [(2, 5, 7, 3), (1, 1, 2, 1)])
def test_bilinear_upsampling_equals_the_general_resize(shape):
    x = jax.random.normal(jax.random.key(0), shape)
    size = (shape[0], 2 * shape[1], 2 * shape[2], shape[3])
    ours, backward = jax.vjp(layers.upsample_bilinear_2x, x)
    general, general_backward = jax.vjp(lambda x: jax.image.resize(x, size, "bilinear"), x)
    np.testing.assert_allclose(ours, general, atol=1e-5)
    g = jax.random.normal(jax.random.key(1), size)
    np.testing.assert_allclose(backward(g)[0], general_backward(g)[0], atol=1e-5)


def test_max_pooling_equals_the_window_reduction():
    x = jax.random.normal(jax.random.key(0), (2, 6, 8, 3))
    ours, backward = jax.vjp(layers.max_pool_2x, x)
    general, general_backward = jax.vjp(lambda x: nn.max_pool(x, (2, 2), (2, 2)), x)
    np.testing.assert_array_equal(ours, general)
    np.testing.assert_array_equal(backward(ours)[0], general_backward(ours)[0])


@pytest.mark.parametrize("patch", [1, 2, 4])
def test_depth_to_space_inverts_space_to_depth(patch):
    x = jax.random.normal(jax.random.key(0), (2, 8, 4, 3))
    np.testing.assert_array_equal(layers.depth_to_space(layers.space_to_depth(x, patch), patch), x)


@pytest.mark.parametrize(("kernel", "stride"), [(1, 1), (1, 2), (3, 1), (3, 2)])
def test_convolution_equals_lax(kernel, stride):
    x = jax.random.normal(jax.random.key(0), (2, 8, 8, 3))
    conv = layers.Conv(5, kernel_size=kernel, stride=stride)
    variables = conv.init(jax.random.key(1), x)
    expected = jax.lax.conv_general_dilated(
        x,
        variables["params"]["kernel"],
        (stride, stride),
        [(kernel // 2, kernel // 2)] * 2,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    np.testing.assert_allclose(conv.apply(variables, x), expected, atol=1e-5)
