import functools
import inspect
import json
import pathlib
import re

import jax
import jax.numpy as jnp
import pytest
from ml_collections import ConfigDict

from configs import classify, default, efficientnet_unet, resnet101_unet
from jaxunet.commands import Flags
from jaxunet.core.errors import UserError
from jaxunet.data.targets import mask_targets
from jaxunet.models.build import build_classifier, build_model
from jaxunet.runs import checks, config_file, settings
from jaxunet.runs.config_file import check_same_run, from_json, to_json
from jaxunet.scoring.losses import LOSSES, build_loss
from jaxunet.training.optimizer import build_optimizer, build_schedule, durations
from jaxunet.training.state import create_train_state
from tests.support.hostile_input import launch_and_check

ROOT = pathlib.Path(__file__).parents[2]
SHIPPED = sorted({*config_file.shipped_names()} - {"compare", "folder"})  # these are tested with what they read


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_config_passes_and_survives_json(name):
    config = config_file.shipped(name)
    checks.check(config)
    again = from_json(to_json(config))
    assert settings.flatten(again) == settings.flatten(config)
    assert again.is_locked


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_config_builds(name):
    config = config_file.shipped(name)
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
    masks = {"masks": jnp.zeros((1, 8, 8, len(mask_targets(targets)))), "covid19": jnp.zeros(1)}
    logits, target = (jnp.zeros((1, 10)), jnp.zeros(1, jnp.int32)) if name == "classify" else (masks, masks)
    assert build_loss(config.loss, targets)(logits, target).shape == (1,)


def test_pretrained_variant():
    checks.check(resnet101_unet.get_config("pretrained"))
    with pytest.raises(ValueError, match="use :pretrained"):
        resnet101_unet.get_config("imagenette")
    assert not efficientnet_unet.get_config("scratch").init.weights
    with pytest.raises(ValueError, match="use :scratch"):
        efficientnet_unet.get_config("imagenette")


def test_every_key_is_read():
    """Each leaf `section.key` occurs as an attribute in the program, outside the checks."""
    checking = ("settings.py", "checks.py")
    source = "\n".join(p.read_text() for p in (ROOT / "jaxunet").rglob("*.py") if p.name not in checking)
    unread = [
        key
        for key in settings.flatten(default.get_config())
        if key not in {f"loss.{name}" for row in LOSSES.values() for name in row.settings.values()}
        and not re.search(rf"\b{re.escape('.'.join(key.split('.')[-2:]))}\b", source)
        and not re.search(rf"\b(stream|wanted)\.{key.split('.')[-1]}\b", source)  # names of sections in the program
        and not re.search(rf"\*\*{re.escape(key.rpartition('.')[0])}\b", source)  # a section as arguments
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
        ("dataset.targets", ("tumour",), "must name one or more of 'infection', 'lung', each once"),
        ("dataset.train_config", "lung", r"has no infection masks: set config.dataset.targets to \('lung',\)"),
        ("model.answer_inside", "lung", "answer_inside='lung' needs this mask and 'covid19' in dataset.targets"),
        ("model.channels", (16, 0), "must be a tuple of 1 to 8 whole numbers from 1 to 4096"),
        ("train.total_steps", 10, "Exactly one of config.train.total_epochs=32 and config.train.total_steps=10"),
        ("train.batch_size", 7, "cannot be divided over 2 devices: use a multiple of 2, such as 8"),
        ("eval.batch_size", 3, "config.eval.batch_size=3 cannot be divided over 2 devices"),
        ("train.accumulate_steps", 3, "does not divide the 8 images"),
        ("train.accumulate_steps", 16, "does not divide the 8 images that each of 2 devices gets"),
        ("optimizer.name", "adam", "'adam' has no weight decay"),
        (
            "augment.rotate_degrees",
            60.0,
            "rotate_degrees=60.0 must be .*, at most 45: set config.augment.quarter_turns",
        ),
        ("dataset.image_size", 100, "dataset.image_size=100 is not one of 0"),
        ("dataset.name", "labelled_images", "go together: set all three or none"),
        ("eval.surface_tolerances", (-1.0,), "must be a tuple of numbers of at least 0"),
        ("eval.surface_tolerances", ("a",), "must be a tuple of numbers of at least 0"),
        ("init.weights", "x.pth", "init.weights is for resnet_unet, efficientnet_unet, separable_unet"),
    ],
)
def test_bad_values_get_one_sentence(key, value, sentence):
    assert jax.device_count() == 2
    config = default.get_config()
    config.update_from_flattened_dict({key: value})
    with pytest.raises(UserError, match=sentence) as raised:
        checks.check(config)
    assert "\n" not in str(raised.value)
    if key == "train.batch_size":  # evaluation does not mind
        checks.check(config, training=False)


@pytest.mark.parametrize(("key", "value"), [("dataset.fold", "0/5"), ("model.answer_inside", "lung")])
def test_settings_of_masks_are_refused_for_classes(key, value):
    config = classify.get_config()
    checks.check(config)
    config.update_from_flattened_dict({key: value})
    with pytest.raises(UserError, match=f"config.{key}='{value}' needs a dataset with masks"):
        checks.check(config)


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


def test_unknown_keys_are_refused():
    config: ConfigDict = default.get_config()
    with pytest.raises(KeyError):
        config.update_from_flattened_dict({"train.batchsize": 3})
    with pytest.raises(UserError, match="holds no run"):
        config_file.load(ROOT / "nowhere")


# ---- the rows of settings.py -----------------------------------------------------------------------------------------


def test_rows_are_the_keys_of_the_default_config_in_its_order():
    """So a setting is one row and one line: nothing else names the keys."""
    config = settings.flatten(default.get_config())
    assert settings.SETTINGS.keys() == config.keys()
    assigned = re.findall(r"^    (?:config\.)?([\w.]+) = (?!.*ConfigDict)", inspect.getsource(default), re.M)
    assert list(settings.SETTINGS) == assigned
    for key, row in settings.SETTINGS.items():
        row.check_kind(config[key])
        row.check_value(config[key])
        assert row.since is None or type(row.since) is row.kind


def test_a_new_setting_is_one_row_and_one_line(monkeypatch, tmp_path: pathlib.Path):
    """The row and the line put in here are checked, read from older runs, and free to change; no other file knows."""
    (tmp_path / "config.json").write_text(to_json(default.get_config()))
    row = settings.Setting("train.shown_images", int, at_least=0, at_most=9, free=True, since=4)
    monkeypatch.setitem(settings.SETTINGS, row.key, row)
    with pytest.raises(UserError, match="config.train.shown_images is missing"):
        checks.check(default.get_config())
    config = default.get_config()
    with config.unlocked():
        config.train.shown_images = 5
    checks.check(config)
    assert config_file.load(tmp_path).train.shown_images == 4
    check_same_run(config, tmp_path)
    for value, words in ((-1, "at least 0"), (10, "at most 9"), (True, "a whole number")):
        with config.unlocked():
            config.train.shown_images = value
        with pytest.raises(UserError, match=f"config.train.shown_images={value} must be .*{words}"):
            checks.check(config)


def older(config: ConfigDict) -> str:
    """The `config.json` that versions wrote before keys were renamed and others added."""
    values = config.to_dict()
    values["init"]["checkpoint"], values["model"]["patch"] = values["init"].pop("run"), values["model"].pop("stem")
    for name in ("surface_tolerances", "flips", "gate", "report"):
        del values["eval"][name]
    return json.dumps(values)


def test_a_run_of_an_older_version_goes_on(tmp_path: pathlib.Path):
    config = default.get_config()
    config.init.run, config.model.stem = "runs/lung", 4
    assert settings.flatten(from_json(older(config))) == settings.flatten(config)
    (tmp_path / "config.json").write_text(older(config))
    check_same_run(config, tmp_path)
    config.model.stem = 2
    with pytest.raises(UserError, match=r"another config: model.stem \(4 there, 2 now\)"):
        check_same_run(config, tmp_path)


@pytest.mark.parametrize(
    ("argument", "now"),
    [
        ("--config.init.checkpoint=runs/a", "--config.init.run=runs/a"),
        ("-config.model.patch", "-config.model.stem"),
        ("--config.systems.plain_unet.model.patch=4", "--config.systems.plain_unet.model.stem=4"),
        ("--config.model.patches=4", "--config.model.patches=4"),
        ("--output=--config.model.patch=4", "--output=--config.model.patch=4"),
    ],
)
def test_old_names_on_the_command_line(argument, now):
    assert settings.with_new_names(["launch.py", argument]) == ["launch.py", now]


def test_old_names_reach_the_program(tmp_path, capsys):
    seen = []

    def check(mode: str, given: Flags) -> int:
        seen.append((given.config.init.run, given.config.model.stem, given.overrides))
        return 0

    assert launch_and_check("--config.init.checkpoint=runs/a", "--config.model.patch", "4", check=check) == 0
    assert seen == [("runs/a", 4, {"init.run": "runs/a", "model.stem": 4})]
    (tmp_path / "mine.py").write_text(
        "from configs import default\n\n\ndef get_config():\n    config = default.get_config()\n"
        "    config.init.checkpoint = 'runs/a'\n    return config\n"
    )
    assert launch_and_check(f"--config={tmp_path / 'mine.py'}") == 1
    assert "config.init.checkpoint is now called config.init.run: rename it" in capsys.readouterr().err
    config = default.get_config()
    with config.unlocked():
        config.init = ConfigDict({"weights": "", "checkpoint": ""})
    with pytest.raises(UserError, match=r"config.init.run is missing \(its old name is init.checkpoint\)"):
        checks.check(config)


@pytest.mark.parametrize("key", ["eval.gate", "predict.keep_patient"])
def test_what_is_off_until_asked_for(key, config):
    """Also of runs that were saved with the setting on, and before there was its section."""
    config.update_from_flattened_dict({key: True})
    older = json.loads(to_json(config))
    del older["predict"]
    for text in (to_json(config), json.dumps(older)):
        again = from_json(text)
        assert not settings.flatten(again)[key]
        config_file.override(again, {key: True})
        assert settings.flatten(again)[key]
