"""Checks a config before anything is built. Rows of settings.py check single settings; this file their combinations."""

import jax
from ml_collections import ConfigDict

from jaxunet.core.errors import UserError
from jaxunet.data import splits
from jaxunet.data.specs import LABELLED_IMAGES, spec_of
from jaxunet.data.targets import COVID19, answers_covid19, mask_targets
from jaxunet.models.build import NETWORKS
from jaxunet.runs.settings import check_kinds, check_values


def check(config: ConfigDict, *, training: bool = True) -> None:
    """Raises UserError for the first value or combination that cannot work. Builds nothing.

    `training=False` skips the checks that only concern training.
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
    classes = dataset.name == LABELLED_IMAGES
    if classes != (targets == ("class",)) or classes != (config.loss.name == "cross_entropy"):
        raise UserError(
            "config.dataset.name='labelled_images', config.dataset.targets=('class',) and config.loss.name="
            "'cross_entropy' go together: set all three or none."
        )
    if classes:
        if dataset.image_size <= 0 or dataset.image_size % 32:
            raise UserError(f"config.dataset.image_size={dataset.image_size} must be a multiple of 32, such as 224.")
        for key, value in (("dataset.fold", dataset.fold), ("model.answer_inside", config.model.answer_inside)):
            if value:
                raise UserError(f"config.{key}={value!r} needs a dataset with masks: leave it out.")
        return
    spec = spec_of(dataset)
    if dataset.fold and not spec.folder:
        raise UserError(f"config.dataset.fold={dataset.fold!r} is for config.dataset.name='folder': leave it out.")
    if dataset.fold:
        splits.parse_fold(dataset.fold)
    if dataset.image_size not in (0, *spec.sizes):
        sizes = ", ".join(map(str, spec.sizes))
        raise UserError(f"config.dataset.image_size={dataset.image_size} is not one of 0 (as stored), {sizes}.")
    masks = mask_targets(targets)
    known = [name for name in spec.targets if name in spec.masks]
    if not masks or set(masks) - set(known) or len(set(targets)) != len(targets):
        raise UserError(
            f"config.dataset.targets={targets!r} must name one or more of {', '.join(map(repr, known))}, each once"
            f"{f', and may end with {COVID19!r}' if COVID19 in spec.targets else ''}."
        )
    for key in ("train_config", "eval_config"):
        subset = spec.subsets.get(dataset[key])
        if subset is None:
            names = " or ".join(map(repr, spec.subsets))
            raise UserError(f"config.dataset.{key}={dataset[key]!r} does not exist for {spec.name}: use {names}.")
        if missing := [mask for mask in masks if mask not in subset.masks]:
            raise UserError(
                f"config.dataset.{key}={dataset[key]!r} has no {missing[0]} masks: set config.dataset.targets to "
                f"{subset.masks!r}."
            )
    if answers_covid19(targets):
        _check_covid19(config, targets)
    inside = config.model.answer_inside
    if inside and (inside not in masks or not answers_covid19(targets)):
        raise UserError(f"config.model.answer_inside={inside!r} needs this mask and {COVID19!r} in dataset.targets.")


def _check_covid19(config: ConfigDict, targets: tuple[str, ...]) -> None:
    first = [name for name, target in spec_of(config.dataset).targets.items() if target.learnt_from == COVID19]
    if targets[-1] != COVID19 or targets[0] not in first:
        words = " or ".join(map(repr, first))
        raise UserError(f"config.dataset.targets={targets!r} must begin with {words} and end with {COVID19!r}.")
    if not spec_of(config.dataset).has_controls(config.dataset.train_config):
        raise UserError(
            "The target 'covid19' needs X-rays without COVID-19: set config.dataset.train_config='infection_all'."
        )
    if not NETWORKS[config.model.name].answers_image:
        able = " or ".join(repr(name) for name, network in NETWORKS.items() if network.answers_image)
        raise UserError(
            f"config.model.name={config.model.name!r} has no output for the target {COVID19!r}: remove it from "
            f"config.dataset.targets, or use {able}."
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
    if config.init.weights and config.init.run:
        raise UserError("config.init.weights and config.init.run cannot both be set: clear one of them.")
    if config.init.weights and config.dataset.name == LABELLED_IMAGES:
        raise UserError("config.init.weights is for segmentation: clear it to learn classes.")
    if config.init.weights and not NETWORKS[config.model.name].torch_modules:
        able = ", ".join(name for name, network in NETWORKS.items() if network.torch_modules)
        raise UserError(f"config.init.weights is for {able}: clear it, or change config.model.name.")
    if config.init.weights == "imagenet" and not NETWORKS[config.model.name].imagenet:
        able = ", ".join(name for name, network in NETWORKS.items() if network.imagenet)
        raise UserError(f"config.init.weights='imagenet' is for {able}: change config.model.name.")
    if config.optimizer.name == "adam" and config.optimizer.weight_decay:
        raise UserError(
            "config.optimizer.name='adam' has no weight decay: use 'adamw', or set config.optimizer.weight_decay=0."
        )
