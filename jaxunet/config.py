"""The config of a run: checked before anything is built, saved beside the results, read back to evaluate."""

import json
import pathlib
from typing import Any

import jax
from ml_collections import ConfigDict

from jaxunet.config_values import check_kinds, check_values, flatten
from jaxunet.dataset import COVID19, mask_targets
from jaxunet.errors import UserError

# Keys that may differ between the runs of one workdir: they say where data lies and what is shown, not what is learnt.
_FREE = (
    *("dataset.source", "dataset.data_dir", "input.", "train.log_every_steps", "train.steps_per_call"),
    *("eval.batch_size", "eval.overlays", "eval.report", "eval.surface_tolerances", "eval.flips", "eval.gate"),
    *("checkpoint.", "profile"),
)
# Keys that older runs do not have in their config.json, with what those did.
_ADDED = {
    "dataset.drop_near_duplicates": False,
    "eval.surface_tolerances": (2.0, 5.0),
    "eval.flips": False,
    "eval.gate": True,
    "eval.report": True,
}


def check(config: ConfigDict, *, training: bool = True) -> None:
    """Raises UserError for the first value or combination that cannot work; looks at values only, builds nothing.

    With `training=False`, what only concerns training may be unfit for the devices present.
    """
    if "systems" in config:
        raise UserError("This config lists systems to compare: use --mode=compare, or the config of one system.")
    check_kinds(config)
    check_values(config)
    _check_dataset(config)
    _check_divisible("eval", config.eval.batch_size)
    if training:
        _check_training(config)


def _check_dataset(config: ConfigDict) -> None:
    dataset = config.dataset
    targets = tuple(dataset.targets)
    classes = dataset.name == "labelled_images"
    if classes != (targets == ("class",)) or classes != (config.loss.name == "cross_entropy"):
        raise UserError(
            "config.dataset.name='labelled_images', config.dataset.targets=('class',) and config.loss.name="
            "'cross_entropy' go together: use all three, or none."
        )
    if classes:
        if dataset.image_size <= 0 or dataset.image_size % 32:
            raise UserError(f"config.dataset.image_size={dataset.image_size} must be a multiple of 32, such as 224.")
        return
    if dataset.image_size not in (0, 32, 64, 128):
        raise UserError(f"config.dataset.image_size={dataset.image_size} is not one of 0 (as stored), 32, 64, 128.")
    masks = mask_targets(targets)
    if not masks or set(masks) - {"infection", "lung"} or len(set(targets)) != len(targets):
        raise UserError(
            f"config.dataset.targets={targets!r} must name 'infection', 'lung' or both, each once, and may end in "
            f"'covid19'."
        )
    if COVID19 in targets:
        _check_covid19(config, targets)
    for key in ("train_config", "eval_config"):
        if dataset[key] == "lung" and "infection" in targets:
            raise UserError(
                f"config.dataset.{key}='lung' has no infection masks: set config.dataset.targets to ('lung',)."
            )
        if dataset[key] == "lung" and dataset.name == "synthetic_cxr":
            raise UserError(f"config.dataset.{key}='lung' exists only for covid_qu_ex: use 'infection_all'.")


def _check_covid19(config: ConfigDict, targets: tuple[str, ...]) -> None:
    if targets[-1] != COVID19 or targets[0] != "infection":
        raise UserError(f"config.dataset.targets={targets!r}: 'covid19' goes with 'infection' first, and comes last.")
    if config.dataset.train_config != "infection_all":
        raise UserError(
            "'covid19' among config.dataset.targets needs X-rays that are not of COVID-19: set "
            "config.dataset.train_config='infection_all'."
        )
    if config.model.name not in ("unet", "resnet_unet"):
        raise UserError(
            f"config.model.name={config.model.name!r} is a network that answers nothing for the whole image: take "
            f"'covid19' out of config.dataset.targets, or use 'unet' or 'resnet_unet'."
        )


def _check_divisible(section: str, size: int) -> None:
    devices = jax.device_count()
    if size % devices:
        raise UserError(
            f"config.{section}.batch_size={size} cannot be divided over {devices} devices: "
            f"use a multiple of {devices}, such as {-(-size // devices) * devices}."
        )


def _check_training(config: ConfigDict) -> None:
    train, devices = config.train, jax.device_count()
    if config.augment.rotate_degrees > 45:
        raise UserError(
            f"config.augment.rotate_degrees={config.augment.rotate_degrees} must be at most 45: "
            f"config.augment.quarter_turns does the rest."
        )
    if bool(train.total_epochs) == bool(train.total_steps):
        raise UserError(
            f"Exactly one of config.train.total_epochs={train.total_epochs} and config.train.total_steps="
            f"{train.total_steps} must be set: give 0 for the other."
        )
    _check_divisible("train", train.batch_size)
    if (train.batch_size // devices) % train.accumulate_steps:
        raise UserError(
            f"config.train.accumulate_steps={train.accumulate_steps} does not divide the "
            f"{train.batch_size // devices} images that each of {devices} devices gets per step."
        )
    if config.init.weights and config.init.checkpoint:
        raise UserError("config.init.weights and config.init.checkpoint cannot both be set: clear one of them.")
    if config.init.weights and config.dataset.name == "labelled_images":
        raise UserError("config.init.weights is for segmentation: clear it where classes are learnt.")
    if config.init.weights and config.model.name not in ("resnet_unet", "separable_unet"):
        raise UserError(
            "config.init.weights is for resnet_unet and separable_unet: clear it, or change config.model.name."
        )
    if config.init.weights == "imagenet" and (config.model.name, config.model.depth) != ("resnet_unet", 101):
        raise UserError("config.init.weights='imagenet' is for config.model.name='resnet_unet' of depth 101.")
    if config.optimizer.name == "adam" and config.optimizer.weight_decay:
        raise UserError(
            "config.optimizer.name='adam' has no weight decay: use 'adamw', or set config.optimizer.weight_decay=0."
        )


# ---- on disk ---------------------------------------------------------------------------------------------------------


def to_json(config: ConfigDict) -> str:
    return json.dumps(config.to_dict(), indent=2, sort_keys=True) + "\n"


def from_json(text: str) -> ConfigDict:
    """Inverse of `to_json`; JSON has no tuples, and no setting is a list. Free keys added since get their default."""

    def tuples(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: tuples(v) for k, v in value.items()}
        return tuple(tuples(v) for v in value) if isinstance(value, list) else value

    settings = tuples(json.loads(text))
    if not isinstance(settings, dict):
        raise ValueError("there are no settings in it")
    for key, value in _ADDED.items():
        section, name = key.split(".")
        if isinstance(settings.get(section), dict):
            settings[section].setdefault(name, value)
    return ConfigDict(settings).lock()


def load(workdir: pathlib.Path) -> ConfigDict:
    """The config that the run in `workdir` was started with."""
    path = workdir / "config.json"
    if not path.is_file():
        raise UserError(f"{workdir} holds no run (there is no config.json in it): give --workdir of a training run.")
    try:
        config = from_json(path.read_text())
    except (ValueError, TypeError, RecursionError) as error:
        raise UserError(f"{path} is damaged ({error}): use another --workdir.") from error
    try:
        check_kinds(config)
    except UserError as error:
        raise UserError(f"{path} is damaged, or of another version: {error}") from error
    return config


def check_same_run(config: ConfigDict, workdir: pathlib.Path) -> None:
    """Raises UserError if `workdir` holds a run of another config; what only says where data lies may differ."""
    if not (workdir / "config.json").is_file():
        return
    mine, theirs = flatten(config), flatten(load(workdir))
    different = [
        f"{key} ({theirs.get(key)!r} there, {mine.get(key)!r} now)"
        for key in sorted(mine.keys() | theirs.keys())
        if mine.get(key) != theirs.get(key) and not key.startswith(_FREE)
    ]
    if different:
        raise UserError(
            f"{workdir} holds a run of another config: {', '.join(different)}. Use another --workdir, "
            f"or the same settings to continue that run."
        )
