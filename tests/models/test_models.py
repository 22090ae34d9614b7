"""Contracts of every network that `config.model.name` can name."""

import functools
import json
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from configs import default
from jaxunet.core.errors import UserError
from jaxunet.models import convolution, efficientnet_unet, layers, patches, resampling
from jaxunet.models.build import NETWORKS, build_model
from jaxunet.models.unet import UNetDecoder

TARGETS = ("infection", "lung")
STRIDES = {
    "unet": (2, 4, 8),
    "resnet_unet": (2, 4, 8, 16, 32),
    "efficientnet_unet": (2, 4, 8, 16, 32),
    "separable_unet": (1, 2, 4, 8, 16),
}
assert STRIDES.keys() == NETWORKS.keys()


@pytest.fixture(params=STRIDES)
def settings(request):
    model = default.get_config().model
    model.name, model.depth = request.param, 18
    model.channels, model.stem, model.dtype = (4, 8, 16), 2, "float32"
    return model


@functools.cache
def built(text: str, classes: int, channels: int):
    settings = ConfigDict(json.loads(text))
    model = build_model(settings, TARGETS[:classes], axis_name=None)
    size = STRIDES[settings.name][-1] * 2
    image = jax.random.uniform(jax.random.key(1), (2, size, size, channels))
    return model, jax.jit(functools.partial(model.init, train=False))(jax.random.key(0), image), image


def build(settings, classes=1, channels=1):
    """(model, variables, image [2, 2 * stride, 2 * stride, channels])."""
    return built(settings.to_json(), classes, channels)


@pytest.mark.parametrize("classes", [1, 2])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_logits_are_float32_at_full_resolution(classes, channels, dtype, settings):
    settings.dtype = dtype
    model = build_model(settings, TARGETS[:classes], axis_name=None)
    size = STRIDES[settings.name][-1] * 2
    image = jnp.zeros((2, size, 2 * size, channels))
    variables = jax.eval_shape(functools.partial(model.init, train=False), jax.random.key(0), image)
    apply = functools.partial(model.apply, train=True, mutable=["batch_stats"])
    outputs, updates = jax.eval_shape(apply, variables, image)
    assert outputs.keys() == {"masks"}
    logits = outputs["masks"]
    assert logits.shape == (2, size, 2 * size, classes)
    assert logits.dtype == jnp.float32
    assert {x.dtype for x in jax.tree.leaves((variables, updates))} == {jnp.dtype("float32")}


@pytest.mark.parametrize("settings", ["unet", "resnet_unet"], indirect=True)  # the third has the layers of the first
def test_bfloat16_is_close_to_float32(settings):
    model, variables, image = build(settings)
    settings.dtype = "bfloat16"
    half = build_model(settings, ("infection",), axis_name=None)
    full, rough = (jax.jit(functools.partial(m.apply, train=False))(variables, image)["masks"] for m in (model, half))
    assert jnp.isfinite(rough).all()
    assert 0 < float(jnp.abs(full - rough).max()) < 0.1 * float(jnp.abs(full).max())


@pytest.mark.parametrize("factor", [0.75, 1.25, 2.5])
def test_odd_sizes_are_refused_with_the_size_to_pad_to(factor, settings):
    model = build_model(settings, ("infection",), axis_name=None)
    stride = STRIDES[settings.name][-1]
    size, padded = int(factor * stride), math.ceil(factor) * stride
    with pytest.raises(UserError, match=f"divisible by {stride}.*{size}x{size}.*pad it to {padded}x{padded}"):
        model.init(jax.random.key(0), jnp.zeros((1, size, size, 1)), train=False)


def test_encoder_features_have_the_documented_strides(settings):
    model, variables, image = build(settings)
    _, seen = jax.eval_shape(
        functools.partial(model.apply, train=False, capture_intermediates=lambda m, _: m.name == "encoder"),
        variables,
        image,
    )
    features = seen["intermediates"]["encoder"]["__call__"][0]
    assert tuple(image.shape[1] // f.shape[1] for f in features) == STRIDES[settings.name]


def test_every_parameter_and_every_skip_carries_gradient(settings):
    model, variables, image = build(settings)

    def loss(params, skip_scales):
        def scale(next_fun, args, kwargs, context):
            out = next_fun(*args, **kwargs)
            if context.module.name == "encoder":
                return [f * s for f, s in zip(out, skip_scales, strict=True)]
            return out

        with nn.intercept_methods(scale):
            outputs, _ = model.apply({**variables, "params": params}, image, train=True, mutable=["batch_stats"])
        return (outputs["masks"] ** 2).mean()

    scales = [jnp.float32(1.0)] * len(STRIDES[settings.name])
    params_grad, skip_grad = jax.jit(jax.grad(loss, argnums=(0, 1)))(variables["params"], scales)
    assert all(jnp.abs(g) > 1e-9 for g in skip_grad), skip_grad
    for path, g in jax.tree_util.tree_leaves_with_path(params_grad):
        assert float(jnp.abs(g).max()) > 0, jax.tree_util.keystr(path)


@pytest.mark.parametrize("decoder", [UNetDecoder, efficientnet_unet.Decoder])
def test_a_skip_comes_before_what_is_upsampled(decoder):
    """Without the kernels for the rest, the finest level sees the skip alone. Saved weights rely on that order."""
    net = decoder(layers.Numerics())
    features = [jnp.ones((1, 16 // 2**i, 16 // 2**i, 3)) for i in range(5)]
    params = jax.eval_shape(functools.partial(net.init, train=False), jax.random.key(0), features)
    variables = jax.tree.map(lambda x: jnp.ones(x.shape), params)
    kernel = variables["params"]["level1"]["conv1"]["kernel"]
    variables["params"]["level1"]["conv1"]["kernel"] = kernel.at[:, :, 3:].set(0)
    run = jax.jit(functools.partial(net.apply, train=False))
    plain, coarse, fine = (
        run(variables, [a * features[0], *(b * f for f in features[1:])]) for a, b in ((1, 1), (1, 2), (2, 1))
    )
    np.testing.assert_array_equal(coarse, plain)
    assert not np.array_equal(fine, plain)


def test_parameter_count_of_the_textbook_network():
    """Ronneberger's widths with batch norm, bilinear upsampling: counted layer by layer, conv then norm."""
    settings = default.get_config().model
    settings.channels, settings.stem = (64, 128, 256, 512, 1024), 1
    model = build_model(settings, ("infection",), axis_name=None)
    variables = jax.eval_shape(functools.partial(model.init, train=False), jax.random.key(0), jnp.zeros((1, 32, 32, 1)))
    widths = [1, 64, 128, 256, 512, 1024]
    expected = sum(9 * (a * b + b * b) + 4 * b for a, b in zip(widths, widths[1:], strict=False))
    expected += sum(9 * ((a + b) * a + a * a) + 4 * a for a, b in zip(widths[1:], widths[2:], strict=False)) + 65
    assert sum(x.size for x in jax.tree.leaves(variables["params"])) == expected


@pytest.mark.parametrize("upsample", [resampling.upsample_bilinear_2x, resampling.upsample_by_sums])
@pytest.mark.parametrize("shape", [(2, 5, 7, 3), (1, 1, 2, 1)])
def test_bilinear_upsampling_equals_the_general_resize(shape, upsample):
    x = jax.random.normal(jax.random.key(0), shape)
    ours, backward = jax.vjp(upsample, x)
    general, general_backward = jax.vjp(resampling.upsample_by_products, x)
    np.testing.assert_allclose(ours, general, atol=1e-5)
    g = jax.random.normal(jax.random.key(1), ours.shape)
    np.testing.assert_allclose(backward(g)[0], general_backward(g)[0], atol=1e-5)


def test_max_pooling_equals_the_window_reduction():
    x = jax.random.normal(jax.random.key(0), (2, 6, 8, 3))
    ours, backward = jax.vjp(resampling.max_pool_2x, x)
    general, general_backward = jax.vjp(lambda x: nn.max_pool(x, (2, 2), (2, 2)), x)
    np.testing.assert_array_equal(ours, general)
    np.testing.assert_array_equal(backward(ours)[0], general_backward(ours)[0])


@pytest.mark.parametrize("patch", [1, 2, 4])
def test_depth_to_space_inverts_space_to_depth(patch):
    x = jax.random.normal(jax.random.key(0), (2, 8, 4, 3))
    np.testing.assert_array_equal(resampling.depth_to_space(resampling.space_to_depth(x, patch), patch), x)


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


def test_an_answer_inside_a_mask_sees_nothing_else():
    """The second mask is the right half. Its logits get no gradient, and features of the left half no weight."""
    rng = np.random.default_rng(0)
    features = [jnp.asarray(rng.random((2, n, n, c)), jnp.float32) for n, c in ((8, 2), (4, 3), (2, 5))]
    right = (jnp.arange(16) >= 8).reshape(1, 1, 16)
    masks = jnp.stack([jnp.zeros((2, 16, 16)), jnp.broadcast_to(jnp.where(right, 60.0, -60.0), (2, 16, 16))], axis=-1)
    answer = layers.ImageAnswer(inside=1)
    variables = answer.init(jax.random.key(0), features, masks)
    fc = variables["params"]["fc"]
    means = np.concatenate([f[:, :, f.shape[2] // 2 :].mean(axis=(1, 2)) for f in features[1:]], axis=1)
    expected = means @ np.asarray(fc["kernel"]) + np.asarray(fc["bias"])
    np.testing.assert_allclose(answer.apply(variables, features, masks), expected[:, 0], atol=1e-5)
    gradients = jax.grad(lambda f, m: answer.apply(variables, f, m).sum(), argnums=(0, 1))(features, masks)
    assert not gradients[1].any()
    assert abs(gradients[0][1][:, :, :2]).max() < 1e-20
    assert abs(gradients[0][1][:, :, 2:]).min() > 1e-4


def by_hand(x, kernel, stride=1, groups=1, before=None):
    """Convolution as written down: out[y, x] = sum of kernel[i, j] * in[y * stride + i - before, ...], in NumPy."""
    (b, h, w, _), (k, _, per_group, f) = x.shape, kernel.shape
    before = k // 2 if before is None else before
    padded = np.pad(x, [(0, 0), (before, k), (before, k), (0, 0)])
    out = np.zeros((b, -(-h // stride), -(-w // stride), f), np.float32)
    for o in range(f):
        first = o // (f // groups) * per_group
        for y, x in np.ndindex(out.shape[1:3]):
            window = padded[:, y * stride : y * stride + k, x * stride : x * stride + k, first : first + per_group]
            out[:, y, x, o] = (window * kernel[None, ..., o]).sum(axis=(1, 2, 3))
    return out


def numbered(*shape):
    """Small whole numbers, all different along every axis: no two axes can be exchanged unseen."""
    return ((np.arange(np.prod(shape)) * 7) % 23 - 11).astype(np.float32).reshape(shape)


LOPSIDED = np.array([[1, 2, 3], [4, 5, 6], [7, 8, 9]], np.float32)  # rows differ from columns


@pytest.mark.parametrize(
    "convolve",
    [
        lambda x, k: convolution.conv3x3(x, k),
        lambda x, k: patches.conv(x, k),
        lambda x, k: layers.Conv(1, use_bias=False).apply({"params": {"kernel": k}}, x),
        lambda x, k: layers.DepthwiseConv().apply({"params": {"kernel": k}}, x),
        lambda x, k: resampling.depth_to_space(
            patches.PatchConv(1, patch=2).apply({"params": {"kernel": k}}, resampling.space_to_depth(x, 2)), 2
        ),
    ],
    ids=["conv3x3", "patches.conv", "Conv", "DepthwiseConv", "PatchConv"],
)
def test_a_single_pixel_shows_the_kernel(convolve):
    """Turned by half, as of a correlation: rows of the kernel are rows of the picture."""
    x = jnp.zeros((1, 6, 8, 1)).at[0, 2, 4, 0].set(1)
    out = np.asarray(convolve(x, jnp.asarray(LOPSIDED.reshape(3, 3, 1, 1))))[0, :, :, 0]
    np.testing.assert_array_equal(out[1:4, 3:6], LOPSIDED[::-1, ::-1])
    assert out.sum() == LOPSIDED.sum()


@pytest.mark.parametrize(
    ("size", "stride", "groups"),
    [(1, 1, 1), (1, 2, 1), (3, 1, 1), (3, 2, 1), (7, 2, 1), (3, 1, 2), (3, 2, 4), (1, 1, 2)],
)
def test_convolution_equals_its_definition(size, stride, groups):
    """On images that are wider than high, with kernels whose axes all differ, and a bias."""
    x, kernel = numbered(2, 6, 10, 4), numbered(size, size, 4 // groups, 8)
    conv = layers.Conv(8, kernel_size=size, stride=stride, groups=groups)
    out = conv.apply({"params": {"kernel": kernel, "bias": np.arange(8, dtype=np.float32)}}, jnp.asarray(x))
    np.testing.assert_array_equal(out, by_hand(x, kernel, stride, groups) + np.arange(8))


@pytest.mark.parametrize(("size", "stride", "before"), [(3, 1, 1), (5, 1, 2), (3, 2, 0), (5, 2, 1)])
def test_depthwise_convolution_equals_its_definition(size, stride, before):
    """`before`: pixels of TensorFlow's padding before an even image. The gradients are those of XLA's grouped form."""
    x, kernel = numbered(2, 6, 8, 4), numbered(size, size, 1, 4)
    out, backward = jax.vjp(lambda x, k: convolution.depthwise(x, k, stride), jnp.asarray(x), jnp.asarray(kernel))
    np.testing.assert_array_equal(out, by_hand(x, kernel, stride, groups=4, before=before))
    module = layers.DepthwiseConv(size, stride)
    np.testing.assert_array_equal(out, module.apply({"params": {"kernel": kernel}}, jnp.asarray(x)))
    grouped = functools.partial(
        jax.lax.conv_general_dilated,
        window_strides=(stride, stride),
        padding="SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=4,
    )
    g = numbered(*out.shape) % 7
    for ours, theirs in zip(backward(g), jax.vjp(grouped, x, kernel)[1](g), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-3)


def test_tensorflows_padding_of_a_strided_convolution():
    x, kernel = numbered(2, 6, 8, 3), numbered(3, 3, 3, 5)
    out = layers.Conv(5, 3, 2, use_bias=False, same=True).apply({"params": {"kernel": kernel}}, jnp.asarray(x))
    np.testing.assert_array_equal(out, by_hand(x, kernel, 2, before=0))


def test_transposed_convolution_is_the_transpose_of_its_definition():
    """<conv(y), x> = <y, transposed(x)> for every y, the convolution being that of stride 2 by hand."""
    x, y, kernel = numbered(1, 3, 4, 2), numbered(1, 6, 8, 3), numbered(3, 3, 2, 3)
    out = layers.TransposedConv3x3(3).apply({"params": {"kernel": kernel, "bias": np.zeros(3)}}, jnp.asarray(x))
    forwards = by_hand(y, kernel.transpose(0, 1, 3, 2), stride=2)
    assert float((out * y).sum()) == (forwards * x).sum()


@pytest.mark.parametrize(("size", "stride", "patch"), [(3, 1, 2), (3, 1, 4), (7, 2, 2), (1, 1, 2), (3, 2, 1)])
def test_convolution_in_patches_equals_its_definition(size, stride, patch):
    x, kernel = numbered(1, 8, 16, 3), numbered(size, size, 3, 2)
    module = patches.PatchConv(2, kernel_size=size, stride=stride, patch=patch)
    out = module.apply({"params": {"kernel": kernel}}, resampling.space_to_depth(jnp.asarray(x), patch * stride))
    np.testing.assert_array_equal(resampling.depth_to_space(out, patch), by_hand(x, kernel, stride))


@pytest.mark.parametrize("patch", [1, 2, 4])
def test_upsampled_convolution_equals_its_definition(patch):
    """Of the coarse image repeated and the fine one behind it."""
    x, skip, kernel = numbered(1, 4, 8, 3), numbered(1, 8, 16, 2), numbered(3, 3, 5, 2)
    module = patches.UpsampleConcatConv(2, patch=patch)
    out = module.apply(
        {"params": {"kernel": kernel}},
        resampling.space_to_depth(jnp.asarray(x), max(patch // 2, 1)),
        resampling.space_to_depth(jnp.asarray(skip), patch),
    )
    both = np.concatenate([x.repeat(2, axis=1).repeat(2, axis=2), skip], axis=-1)
    np.testing.assert_array_equal(resampling.depth_to_space(out, patch), by_hand(both, kernel))


@pytest.mark.parametrize("patch", [1, 2])
def test_running_statistics_keep_the_momentums_share(patch):
    """By hand: channels of 3 +- 2 and 10 +- 1, that is means 3, 10 and variances 4, 1; a quarter of each is new."""
    sign = jnp.where(jnp.arange(2 * 4 * 4).reshape(2, 4, 4, 1) % 2, 1.0, -1.0)
    x = resampling.space_to_depth(jnp.concatenate([3 + 2 * sign, 10 + sign], axis=-1), patch)
    numerics = layers.Numerics(bn_momentum=0.75, bn_epsilon=0.0)
    params = {"scale": jnp.array([1.0, 5.0]), "bias": jnp.array([0.0, 2.0])}
    old = {"mean": jnp.array([1.0, 2.0]), "var": jnp.array([8.0, 9.0])}
    norm = layers.batch_norm(numerics, train=True, name="bn", patch=patch)
    y, new = norm.apply({"params": params, "batch_stats": old}, x, mutable=["batch_stats"])
    np.testing.assert_allclose(new["batch_stats"]["mean"], [0.75 * 1 + 0.25 * 3, 0.75 * 2 + 0.25 * 10], rtol=1e-5)
    np.testing.assert_allclose(new["batch_stats"]["var"], [0.75 * 8 + 0.25 * 4, 0.75 * 9 + 0.25 * 1], rtol=1e-4)
    expected = resampling.space_to_depth(jnp.concatenate([sign, 2 + 5 * sign], axis=-1), patch)
    np.testing.assert_allclose(y, expected, atol=1e-3)
    # Afterwards, in prediction, the old statistics count: (x - 1) / sqrt(8), and 2 + 5 (x - 2) / 3.
    norm = layers.batch_norm(numerics, train=False, name="bn", patch=patch)
    y = resampling.depth_to_space(norm.apply({"params": params, "batch_stats": old}, x), patch)
    np.testing.assert_allclose(y[..., :1], (2 + 2 * sign) / np.sqrt(8), atol=1e-5)
    np.testing.assert_allclose(y[..., 1:], 2 + 5 * (8 + sign) / 3, atol=1e-4)
