import functools
import pathlib
import re

import jax
import jax.numpy as jnp
import pytest
from ml_collections import ConfigDict

from configs import classify, default, demo, resnet101_unet, separable_unet, unet
from jaxunet.core.errors import UserError
from jaxunet.models.build import build_classifier, build_model
from jaxunet.runs import checks, config_file, settings
from jaxunet.runs.config_file import check_same_run, from_json, to_json
from jaxunet.scoring.losses import build_loss
from jaxunet.training.optimizer import build_optimizer, build_schedule, durations
from jaxunet.training.state import create_train_state

ROOT = pathlib.Path(__file__).parents[2]
SHIPPED = {
    "classify": classify,
    "default": default,
    "demo": demo,
    "resnet101_unet": resnet101_unet,
    "separable_unet": separable_unet,
    "unet": unet,
}


def test_every_shipped_config_is_listed_here():
    """All but the comparison, which is tested with the program that reads it."""
    assert {p.stem for p in (ROOT / "configs").glob("*.py")} == {*SHIPPED, "compare"}


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_config_passes_and_survives_json(name):
    config = SHIPPED[name].get_config()
    checks.check(config)
    again = from_json(to_json(config))
    assert settings.flatten(again) == settings.flatten(config)
    assert again.is_locked


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_config_builds(name):
    config = SHIPPED[name].get_config()
    targets = config.dataset.targets
    if name == "classify":
        model = build_classifier(config.model, classes=10, axis_name=None)
    else:
        model = build_model(config.model, targets, axis_name=None)
    schedule = build_schedule(config.optimizer, durations(config.train, 1864))
    tx = build_optimizer(config.optimizer, schedule)
    make = functools.partial(create_train_state, model, tx, seed=0, image_shape=(256, 256, 1), ema=True)
    state = jax.eval_shape(make)
    assert sum(x.size for x in jax.tree.leaves(state.params)) > 300_000
    assert float(schedule(0)) > 0
    masks = {"masks": jnp.zeros((1, 8, 8, len(targets)))}
    logits, target = (jnp.zeros((1, 10)), jnp.zeros(1, jnp.int32)) if name == "classify" else (masks, masks)
    assert build_loss(config.loss, targets)(logits, target).shape == (1,)


def test_pretrained_variant():
    checks.check(resnet101_unet.get_config("pretrained"))
    with pytest.raises(ValueError, match="use :pretrained"):
        resnet101_unet.get_config("imagenette")


def test_every_key_is_read():
    """Each leaf `section.key` occurs as an attribute in the program, outside the checks."""
    source = "\n".join(p.read_text() for p in (ROOT / "jaxunet").rglob("*.py") if p.name != "config.py")
    unread = [
        key
        for key in settings.flatten(default.get_config())
        if not re.search(rf"\b{re.escape('.'.join(key.split('.')[-2:]))}\b", source)
        and not re.search(rf"\bstream\.{key.split('.')[-1]}\b", source)
    ]
    assert not unread


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        ("model.name", "unetti", "model.name='unetti' is not one of 'unet'"),
        ("optimizer.learning_rate", -1.0, "optimizer.learning_rate=-1.0 must be greater than 0"),
        ("optimizer.learning_rate", float("nan"), "must be a finite number, at most 3e"),
        ("train.ema_decay", 1.0, "train.ema_decay=1.0 must be less than 1"),
        ("seed", -1, "seed=-1 must be at least 0"),
        ("eval.threshold", 1.5, "eval.threshold=1.5 must be less than 1"),
        ("dataset.targets", ("tumour",), "must name 'infection', 'lung' or both"),
        ("dataset.train_config", "lung", r"has no infection masks: set config.dataset.targets to \('lung',\)"),
        ("model.channels", (16, 0), "must be a tuple of 1 to 8 whole numbers from 1 to 4096"),
        ("train.total_steps", 10, "Exactly one of config.train.total_epochs=32 and config.train.total_steps=10"),
        ("train.batch_size", 7, "cannot be divided over 2 devices: use a multiple of 2, such as 8"),
        ("eval.batch_size", 3, "config.eval.batch_size=3 cannot be divided over 2 devices"),
        ("train.accumulate_steps", 3, "does not divide the 8 images"),
        ("train.accumulate_steps", 16, "does not divide the 8 images that each of 2 devices gets"),
        ("optimizer.name", "adam", "'adam' has no weight decay"),
        ("augment.rotate_degrees", 60.0, "rotate_degrees=60.0 must be at most 45"),
        ("dataset.image_size", 100, "dataset.image_size=100 is not one of 0"),
        ("dataset.name", "labelled_images", "go together: use all three, or none"),
        ("init.weights", "x.pth", "init.weights is for resnet_unet and separable_unet"),
    ],
)
def test_bad_values_get_one_sentence(key, value, sentence):
    assert jax.device_count() == 2
    config = default.get_config()
    config.update_from_flattened_dict({key: value})
    with pytest.raises(UserError, match=sentence) as raised:
        checks.check(config)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("parts", [1, 2, 4, 8])
def test_a_device_can_work_off_its_share_in_parts(parts):
    config = default.get_config()
    config.train.batch_size, config.train.accumulate_steps = 16, parts
    checks.check(config)


def test_a_workdir_holds_one_config(tmp_path: pathlib.Path):
    config = default.get_config()
    check_same_run(config, tmp_path)
    (tmp_path / "config.json").write_text(to_json(config))
    config.dataset.source = "elsewhere.zip"
    config.input.mode = "stream"
    check_same_run(config, tmp_path)
    config.optimizer.learning_rate = 1.0
    with pytest.raises(UserError, match=r"another config: optimizer.learning_rate \(0.002 there, 1.0 now\)"):
        check_same_run(config, tmp_path)


def test_missing_keys_and_damaged_files_are_sentences(tmp_path: pathlib.Path):
    config = default.get_config()
    with config.unlocked():
        del config.loss.smooth
    with pytest.raises(UserError, match="config.loss.smooth is missing: make the config from configs/default.py"):
        checks.check(config)
    (tmp_path / "config.json").write_text('{"seed": ')
    with pytest.raises(UserError, match="config.json is damaged"):
        config_file.load(tmp_path)


def test_evaluation_does_not_mind_the_training_batch():
    config = default.get_config()
    config.train.batch_size = 7
    checks.check(config, training=False)


def test_unknown_keys_are_refused():
    config: ConfigDict = default.get_config()
    with pytest.raises(KeyError):
        config.update_from_flattened_dict({"train.batchsize": 3})
    with pytest.raises(UserError, match="holds no run"):
        config_file.load(ROOT / "nowhere")
