"""Convolutions of images in patches equal those of the plain images, forward and backward."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from configs import default
from jaxunet.models import convolution, patches, resampling
from jaxunet.models.build import build_model


def plain(x, kernel, stride=1):
    k = kernel.shape[0]
    return lax.conv_general_dilated(
        x, kernel, (stride, stride), [(k // 2, k // 2)] * 2, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def assert_same_with_gradients(f, g, *args):
    """Outputs agree, and so do gradients of a random projection of them."""
    out = f(*args)
    weight = jax.random.normal(jax.random.key(9), out.shape)
    np.testing.assert_allclose(out, g(*args), atol=2e-5, rtol=1e-4)
    grads = [
        jax.jit(jax.grad(lambda *a, h=h: (h(*a) * weight).sum(), argnums=tuple(range(len(args)))))(*args)
        for h in (f, g)
    ]
    for a, b in zip(*grads, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4 * float(jnp.abs(b).max(initial=0)), rtol=1e-4)


@pytest.mark.parametrize("patch", [1, 2, 4])
@pytest.mark.parametrize("skip_channels", [0, 2])
def test_upsampling_and_concatenating_without_doing_either(patch, skip_channels):
    x = jax.random.normal(jax.random.key(0), (2, 8, 8, 3))
    skip = jax.random.normal(jax.random.key(2), (2, 16, 16, skip_channels))
    kernel = jax.random.normal(jax.random.key(1), (3, 3, 3 + skip_channels, 5))
    module = patches.UpsampleConcatConv(5, patch=patch)

    def ours(x, skip, kernel):
        s = resampling.space_to_depth(skip, patch) if skip_channels else None
        out = module.apply({"params": {"kernel": kernel}}, resampling.space_to_depth(x, max(patch // 2, 1)), s)
        return resampling.depth_to_space(out, patch)

    def direct(x, skip, kernel):
        return plain(jnp.concatenate([x.repeat(2, axis=1).repeat(2, axis=2), skip], -1), kernel)

    assert_same_with_gradients(ours, direct, x, skip, kernel)


def test_max_pool_of_patches():
    x = jax.random.normal(jax.random.key(0), (2, 12, 16, 3))
    assert_same_with_gradients(
        lambda x: patches.max_pool_3x3_stride2_of_patches(resampling.space_to_depth(x, 2), 3),
        resampling.max_pool_3x3_stride2,
        x,
    )


def random_variables(model, image):
    """Variables of usual magnitudes, without compiling the initialiser."""
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(functools.partial(model.init, train=False), jax.random.key(0), image)

    def fill(path, x):
        if path[-1].key == "kernel":
            return (rng.normal(size=x.shape) * np.sqrt(2 / np.prod(x.shape[:-1]))).astype(np.float32)
        return np.full(x.shape, path[-1].key in ("scale", "var"), np.float32)

    return jax.tree_util.tree_map_with_path(fill, shapes)


def test_the_whole_network_computes_the_same():
    """Variables, logits, running statistics and gradients are the same with and without patches."""
    settings = default.get_config().model
    settings.name, settings.depth, settings.dtype = "resnet_unet", 18, "float32"
    image = jax.random.uniform(jax.random.key(1), (2, 64, 96, 1))
    results, variables = [], None
    for layout in ("plain", "patches"):
        settings.layout = layout
        model = build_model(settings, ("infection", "lung"), axis_name=None)
        variables = variables or random_variables(model, image)

        def loss(params, model=model, variables=variables):
            outputs, updates = model.apply({**variables, "params": params}, image, train=True, mutable=["batch_stats"])
            return (outputs["masks"] ** 2).mean(), (outputs, updates)

        (_, (outputs, updates)), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(variables["params"])
        results.append(({**outputs, **updates}, grads))
    for a, b in zip(*(jax.tree.leaves(values) for values, _ in results), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4 * float(jnp.abs(a).max()))
    # The coarsest stage has statistics of 12 values: changing the input by 1e-6 changes gradients by up to 5e-3.
    for a, b in zip(*(jax.tree.leaves(grads) for _, grads in results), strict=True):
        assert float(jnp.abs(a - b).max()) < 0.02 * float(jnp.abs(a).max())


@pytest.mark.parametrize("shape", [(3, 8, 8), (2, 70, 65), (1, 33, 130), (34, 16, 16)])
def test_kernel_gradient_in_strips_equals_the_plain_one(shape):
    """Small images are grouped, large ones cut into strips of rows. The last group or strip may be smaller."""
    rng = np.random.default_rng(0)
    x, g = (jnp.asarray(rng.standard_normal((*shape, c), np.float32)) for c in (3, 5))
    kernel = jnp.zeros((3, 3, 3, 5))
    plain = convolution.kernel_gradient(x, g, kernel)
    strips = convolution.kernel_gradient_in_strips(x, g, kernel)
    np.testing.assert_allclose(strips, plain, rtol=1e-4, atol=1e-4 * float(jnp.abs(plain).max()))
    by_jax = jax.vjp(lambda k: convolution.conv3x3(x, k), kernel)[1](g)[0]
    np.testing.assert_allclose(by_jax, plain, rtol=1e-4, atol=1e-4 * float(jnp.abs(plain).max()))
