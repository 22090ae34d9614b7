"""The config of a run: checked before anything is built, saved beside the results, read back to evaluate."""

import json
import pathlib
from collections.abc import Callable
from typing import Any

import jax
from ml_collections import ConfigDict

from jaxunet.errors import UserError

_CHOICES = {
    "dataset.name": ("covid_qu_ex", "synthetic_cxr", "labelled_images"),
    "dataset.train_config": ("infection", "infection_all", "lung"),
    "dataset.eval_config": ("infection", "infection_all", "lung"),
    "input.mode": ("auto", "resident", "stream"),
    "model.name": ("unet", "resnet_unet", "separable_unet"),
    "model.depth": (18, 34, 50, 101, 152),
    "model.patch": (1, 2, 4),
    "model.layout": ("auto", "plain", "patches"),
    "model.dtype": ("auto", "float32", "bfloat16"),
    "loss.name": ("bce", "dice", "bce_dice", "focal", "tversky", "cross_entropy"),
    "optimizer.name": ("adam", "adamw", "sgd"),
    "optimizer.schedule": ("constant", "step", "cosine"),
    "eval.report": (False, True),
}
_POSITIVE = {
    "dataset.synthetic": ("train", "val", "test"),
    "input": ("resident_limit_gib", "threads", "prefetch_batches"),
    "model": ("input_std",),
    "loss": ("smooth",),
    "optimizer": ("learning_rate", "decay_epochs", "decay_factor"),
    "train": ("batch_size", "accumulate_steps", "eval_every_epochs", "log_every_steps", "checkpoint_every_steps"),
    "eval": ("batch_size", "threshold"),
    "checkpoint": ("keep_latest", "keep_best"),
}
_NOT_NEGATIVE = {
    "": ("seed",),
    "dataset.synthetic": ("seed",),
    "augment": ("rotate_degrees", "scale", "translate_pixels", "gamma", "contrast", "brightness", "noise_std"),
    "model": ("bn_momentum",),
    "loss": ("focal_gamma", "focal_alpha", "tversky_alpha", "tversky_beta"),
    "optimizer": (
        "beta1",
        "beta2",
        "momentum",
        "encoder_rate",
        "warmup_epochs",
        "final_fraction",
        "weight_decay",
        "clip_norm",
    ),
    "train": ("total_epochs", "total_steps", "ema_decay", "steps_per_call", "patience_evals"),
    "eval": ("overlays",),
}
_BELOW_ONE = {
    "augment": ("scale", "contrast"),
    "model": ("bn_momentum",),
    "loss": ("focal_alpha",),
    "optimizer": ("beta1", "beta2", "momentum"),
    "train": ("ema_decay",),
    "eval": ("threshold",),
}
# Above these, memory or time runs out before anything could say so.
_AT_MOST = {
    "seed": 2**32 - 1,  # JAX ignores the bits above
    "dataset.image_size": 4096,
    **dict.fromkeys(("dataset.synthetic.train", "dataset.synthetic.val", "dataset.synthetic.test"), 10**6),
    "dataset.synthetic.seed": 2**63 - 1,
    "input.threads": 1024,
    "input.prefetch_batches": 4096,
    "train.batch_size": 2**16,
    "train.steps_per_call": 10_000,
    "eval.batch_size": 2**16,
}
_LARGEST_WHOLE, _LARGEST = 2**31 - 1, 3e38  # of all others; float32 ends there
_WHOLE = (
    *("seed", "dataset.image_size", "dataset.synthetic.train", "dataset.synthetic.val", "dataset.synthetic.test"),
    *("dataset.synthetic.seed", "input.threads", "input.prefetch_batches", "train.batch_size", "train.total_epochs"),
    *("train.total_steps", "train.accumulate_steps", "train.patience_evals", "train.log_every_steps"),
    *("train.checkpoint_every_steps", "train.steps_per_call", "eval.batch_size", "eval.overlays"),
    *("checkpoint.keep_latest", "checkpoint.keep_best"),
)
_KINDS = {
    "a text": (str, ("dataset.source", "dataset.data_dir", "init.weights", "init.checkpoint")),
    "True or False": (
        bool,
        (
            "dataset.drop_leaked",
            "dataset.drop_near_duplicates",
            "augment.flip_horizontal",
            "augment.flip_vertical",
            "augment.quarter_turns",
        )
        + ("model.bn_sync", "optimizer.nesterov", "profile"),
    ),
    "a tuple": (tuple, ("dataset.targets", "model.channels", "eval.surface_tolerances")),
}
# Keys that may differ between the runs of one workdir: they say where data lies and what is shown, not what is learnt.
_FREE = (
    *("dataset.source", "dataset.data_dir", "input.", "train.log_every_steps", "train.steps_per_call"),
    *(
        "eval.batch_size",
        "eval.overlays",
        "eval.report",
        "eval.surface_tolerances",
        "eval.flips",
        "checkpoint.",
        "profile",
    ),
)
# Keys that older runs do not have in their config.json, with what those did.
_ADDED = {
    "dataset.drop_near_duplicates": False,
    "eval.surface_tolerances": (2.0, 5.0),
    "eval.flips": False,
    "eval.report": True,
}


def flatten(config: ConfigDict, prefix: str = "") -> dict[str, Any]:
    """{"section.key": value} of every leaf."""
    result = {}
    for key, value in config.items():
        name = prefix + key
        result |= flatten(value, name + ".") if isinstance(value, ConfigDict) else {name: value}
    return result


def check(config: ConfigDict, *, training: bool = True) -> None:
    """Raises UserError for the first value or combination that cannot work; looks at values only, builds nothing.

    With `training=False`, what only concerns training may be unfit for the devices present.
    """
    if "systems" in config:
        raise UserError("This config lists systems to compare: use --mode=compare, or the config of one system.")
    _check_kinds(config)
    values = flatten(config)
    for key, choices in _CHOICES.items():
        if values[key] not in choices:
            raise UserError(f"config.{key}={values[key]!r} is not one of {', '.join(map(repr, choices))}.")
    for key, holds, words in _bounds():
        if not holds(values[key]):
            raise UserError(f"config.{key}={values[key]!r} must be {words}.")
    channels = config.model.channels
    if not 1 <= len(channels) <= 8 or not all(type(c) is int and 1 <= c <= 4096 for c in channels):
        raise UserError(f"config.model.channels={channels!r} must be a tuple of 1 to 8 whole numbers from 1 to 4096.")
    _check_dataset(config)
    _check_divisible("eval", config.eval.batch_size)
    if training:
        _check_training(config)


def _bounds() -> list[tuple[str, Callable[[Any], bool], str]]:
    """(key, whether a value is allowed, what is)."""
    rules = (
        (_POSITIVE, lambda x: x > 0, "greater than 0"),
        (_NOT_NEGATIVE, lambda x: x >= 0, "at least 0"),
        (_BELOW_ONE, lambda x: x < 1, "less than 1"),
    )
    return [
        (f"{section}.{name}".lstrip("."), holds, words)
        for keys, holds, words in rules
        for section, names in keys.items()
        for name in names
    ]


def _check_kinds(config: ConfigDict) -> None:
    """Raises UserError for a key that is missing or a value of the wrong kind, as a file edited by hand may hold."""
    values = flatten(config)
    kinds = {key: (kind, words) for words, (kind, keys) in _KINDS.items() for key in keys}
    numbers = {"model.input_mean", "dataset.image_size", *(key for key, _, _ in _bounds())}
    for key in (*_CHOICES, *kinds, *sorted(numbers)):
        if key not in values:
            raise UserError(f"config.{key} is missing: make the config from configs/default.py, which has every key.")
    for key, (kind, words) in kinds.items():
        if not isinstance(values[key], kind):
            raise UserError(f"config.{key}={values[key]!r} must be {words}.")
    for key in sorted(numbers):
        value, whole = values[key], key in _WHOLE
        most = _AT_MOST.get(key, _LARGEST_WHOLE if whole else _LARGEST)
        if isinstance(value, bool) or not isinstance(value, int if whole else int | float):
            raise UserError(f"config.{key}={value!r} must be a {'whole ' if whole else ''}number.")
        if not abs(value) <= most:  # nor NaN
            raise UserError(f"config.{key}={value!r} must be a finite number, at most {most:,}.")
    tolerances = values["eval.surface_tolerances"]
    if not all(isinstance(t, int | float) and 0 <= t <= _LARGEST for t in tolerances):
        raise UserError(f"config.eval.surface_tolerances={tolerances!r} must be numbers of at least 0.")


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
    if not targets or set(targets) - {"infection", "lung"} or len(set(targets)) != len(targets):
        raise UserError(f"config.dataset.targets={targets!r} must name 'infection', 'lung' or both, each once.")
    for key in ("train_config", "eval_config"):
        if dataset[key] == "lung" and "infection" in targets:
            raise UserError(
                f"config.dataset.{key}='lung' has no infection masks: set config.dataset.targets to ('lung',)."
            )
        if dataset[key] == "lung" and dataset.name == "synthetic_cxr":
            raise UserError(f"config.dataset.{key}='lung' exists only for covid_qu_ex: use 'infection_all'.")


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
    if config.init.weights and config.model.name == "unet":
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
        _check_kinds(config)
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
